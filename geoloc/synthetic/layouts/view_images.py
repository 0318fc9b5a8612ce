"""The plan of an export: pictures with their exact poses, and annotation files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from geoloc.synthetic.layouts.placement import Placement
from geoloc.synthetic.world.noise import hash_int
from geoloc.synthetic.world.style import Style

AERIAL, PANORAMA, STREET, DRONE, MAP, LABELS = "aerial", "panorama", "street", "drone", "map", "labels"
TRUTH_COLUMNS = (
    "path", "view", "split", "place", "city", "epoch", "x_m", "y_m", "lat", "lon", "heading_deg", "pitch_deg",
    "altitude_m", "fov_deg", "side_m", "width_px", "height_px",
)  # fmt: skip
_NAME_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Writer(Protocol):
    """A function that writes the files of an export."""

    def __call__(self, path: str, data: bytes) -> None:
        """Write a file; `path` is relative to the data set's root, with slashes."""
        ...


@dataclass(frozen=True)
class CitySource:
    """One procedural city of an export: its seed, style and place on Earth."""

    name: str
    seed: int
    style: Style
    placement: Placement


@dataclass(frozen=True)
class Picture:
    """The plan of one picture: the path of its file and the exact pose of its camera.

    city: number of its `CitySource`; x, y: camera, or centre of a tile, in city metres; key: what its look is
    drawn from; side_m: ground side of aerial and map tiles; altitude_m: height of the camera above the ground;
    top_deg, bottom_deg: elevations of a panorama's edges; target: what a drone photo looks at.

    Convention: heading_deg is clockwise from GRID north and belongs to the centre column; pitch_deg is positive
    upwards; tiles have grid north up.
    """

    path: str
    view: str
    city: int
    x: float
    y: float
    width_px: int
    height_px: int
    key: tuple[int, ...] = ()
    heading_deg: float = 0.0
    pitch_deg: float = 0.0
    altitude_m: float = 0.0
    fov_deg: float = 0.0
    top_deg: float = 0.0
    bottom_deg: float = 0.0
    side_m: float = 0.0
    split: str = ""
    place: str = ""
    epoch: int = 0
    target: tuple[float, float] | None = None


@dataclass(frozen=True)
class PointCloud:
    """The point cloud of one city and the index arrays of places in it.

    points, classes: paths of the two files of the whole cloud; areas: what it covers, west, south, east, north in
    city metres; places: (path of the index array, x, y), each with the points within `half_m` along both axes.
    """

    city: int
    points: str
    classes: str
    areas: Sequence[tuple[float, float, float, float]]
    points_per_m2: float
    half_m: float
    places: Sequence[tuple[str, float, float]]

    def paths(self) -> list[str]:
        """The paths of all files of the cloud."""
        return [self.points, self.classes, *(path for path, _, _ in self.places)]


@dataclass(frozen=True)
class Export:
    """The plan of a data set: nothing of it depends on what is already written.

    `annotations`: small files by their path. `details`: what a reader of `export.json` may want to know.
    """

    layout: str
    cities: Sequence[CitySource]
    pictures: Sequence[Picture]
    annotations: dict[str, bytes]
    clouds: Sequence[PointCloud] = ()
    details: dict[str, Any] = field(default_factory=dict)


def masked_name(length: int, *keys: int) -> str:
    """A name that says nothing about the place: letters, digits, `-` and `_`, as of public panorama ids."""
    letters: list[str] = []
    block = 0
    while len(letters) < length:
        bits = hash_int(700 + block, *keys)
        letters += [_NAME_ALPHABET[(bits >> shift) & 63] for shift in range(0, 30, 6)]
        block += 1
    return "".join(letters[:length])


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as comma-separated lines, each ended by a single newline."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def truth_csv(export: Export) -> bytes:
    """The exact truth about every picture, in the order of the plan; no reader of a layout needs it.

    Convention: heading_deg clockwise from TRUE north in [0, 360), of the centre column (of tiles: of their top);
    x_m, y_m city metres, lat, lon WGS84 degrees of the camera or the tile's centre.
    """
    lat, lon = np.zeros(len(export.pictures)), np.zeros(len(export.pictures))
    turn = np.zeros(len(export.pictures))
    cities = np.array([p.city for p in export.pictures], np.int64)
    x, y = np.array([p.x for p in export.pictures]), np.array([p.y for p in export.pictures])
    for number, city in enumerate(export.cities):
        here = np.nonzero(cities == number)[0]
        if len(here):
            lat[here], lon[here] = city.placement.to_latlon(x[here], y[here])
            turn[here] = city.placement.convergence_deg(x[here], y[here])
    rows: list[Sequence[object]] = [TRUTH_COLUMNS]
    for k, picture in enumerate(export.pictures):
        rows.append((
            picture.path, picture.view, picture.split, picture.place, export.cities[picture.city].name,
            picture.epoch, f"{picture.x:.4f}", f"{picture.y:.4f}", f"{lat[k]:.9f}", f"{lon[k]:.9f}",
            f"{round((picture.heading_deg + turn[k]) % 360, 4) % 360:.4f}", f"{picture.pitch_deg:.3f}",
            f"{picture.altitude_m:.2f}", f"{picture.fov_deg:.3f}", f"{picture.side_m:.4f}",
            picture.width_px, picture.height_px,
        ))  # fmt: skip
    return csv_bytes(rows)
