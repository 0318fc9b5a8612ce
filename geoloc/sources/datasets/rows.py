"""What a data set's reader plans: light rows of tiles, queries and pairs, the counts, and what was noticed.

Nothing here holds pixels: a row names the bytes of its picture (a file, or a range of a tar file), so that the
plan of 100,000 rows is some tens of megabytes and tasks read their own pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from geoloc.core import schemas, storage
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError
from geoloc.core.geodesy import distance_m, heading_deg
from geoloc.sources.quarantine import RefusedRow


@dataclass(frozen=True)
class Picture:
    """Where the bytes of a picture lie; `offset` is set for a member of a tar file."""

    uri: str
    size_bytes: int
    offset: int | None = None


@dataclass(frozen=True)
class CloudPlace:
    """A tile's points: rows `indices` of a city's cloud, or without them the square around the tile's centre.

    Convention: x, y are the cloud's own ground coordinates of the centre, x to the east, y to the south.
    """

    points: str
    classes: str
    x: float
    y: float
    indices: str | None = None


@dataclass(frozen=True)
class Tile:
    """A row of the tiles table without its pictures.

    `metres_per_pixel` holds for a picture `at_width_px` wide (None: as wide as it comes); other widths scale it.
    """

    tile_id: str
    picture: Picture
    metres_per_pixel: float
    source: str
    at_width_px: int | None = None
    lat: float | None = None
    lon: float | None = None
    place_id: str | None = None
    map_picture: Picture | None = None
    cloud: CloudPlace | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Tile:
        """The row that `dataclasses.asdict` took apart."""
        parts = dict(values)
        for name, kind in (("picture", Picture), ("map_picture", Picture), ("cloud", CloudPlace)):
            parts[name] = None if parts[name] is None else kind(**parts[name])
        return cls(**parts)


@dataclass(frozen=True)
class Query:
    """A row of the queries table without its picture."""

    query_id: str
    picture: Picture
    view: str
    fov_deg: float
    heading_deg: float | None = None
    lat: float | None = None
    lon: float | None = None
    place_id: str | None = None
    route_id: str | None = None
    step: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Query:
        """The row that `dataclasses.asdict` took apart."""
        return cls(**{**values, "picture": Picture(**values["picture"])})


class Pair(NamedTuple):
    """A row of the pairs table.

    Convention: east_m, north_m are of the query from the tile's centre.
    """

    query_id: str
    tile_id: str
    relation: str = schemas.RELATIONS[0]
    east_m: float | None = None
    north_m: float | None = None


@dataclass
class Plan:
    """Everything a data set's annotation says about one split.

    `annotations` are the files that were read (their bytes are part of the tables' fingerprints), `counts` what
    they hold, `findings` sentences worth telling: counts that differ, files left out, residuals.
    """

    name: str
    split: str
    protocol: str | None
    tiles: list[Tile] = field(default_factory=list)
    queries: list[Query] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    refused_tiles: list[RefusedRow] = field(default_factory=list)
    refused_queries: list[RefusedRow] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def compare_counts(self) -> None:
        """Add a finding for every count of the annotation that is not the published one."""
        for what, published in self.published.items():
            found = self.counts.get(what)
            if found is not None and found != published:
                self.findings.append(
                    f"{self.name} {self.split}: the annotation lists {found:,} {what}, published are {published:,} "
                    f"({found - published:+,})."
                )


@dataclass(frozen=True)
class Request:
    """What a user asked for: where the data set lies, which split, and which of its variants."""

    root: str
    split: str
    labels: str = "auto"
    cities: Sequence[str] | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set that geoloc reads: its splits, its layout in one sentence, and the function that plans it.

    `any_split` marks layouts whose splits are found on disk (zoom levels, folders of shards).
    """

    name: str
    splits: tuple[str, ...]
    layout: str
    plan: Callable[[Request], Plan]
    any_split: bool = False

    def request(
        self, root: str, split: str | None, labels: str = "auto", cities: Sequence[str] | None = None
    ) -> Request:
        """A request whose split exists; `ConfigError` listing the splits otherwise."""
        if split is None and self.any_split:
            split = ""
        if split is None or (not self.any_split and split not in self.splits):
            asked = "says no split" if split is None else f"has no split {split!r}"
            raise ConfigError(f"The request for {self.name} {asked}; give one of {', '.join(self.splits)}.")
        return Request(storage.absolute(root), split, labels, cities)


def offsets_m(
    lat: npt.ArrayLike, lon: npt.ArrayLike, tile_lat: npt.ArrayLike, tile_lon: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """(east_m, north_m) of queries from their tiles' centres, elementwise, on the ellipsoid."""
    metres = distance_m(tile_lat, tile_lon, lat, lon)
    bearing = np.radians(heading_deg(tile_lat, tile_lon, lat, lon))
    return np.asarray(metres * np.sin(bearing)), np.asarray(metres * np.cos(bearing))
