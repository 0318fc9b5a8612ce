"""VIGOR (Zhu et al., CVPR 2021): panoramas and 640-pixel satellite tiles of four American cities, many to many.

    <root>/<City>/panorama/<id>,<lat>,<lon>,.jpg      or, as Sample4Geo has it, ground/<City>/
    <root>/<City>/satellite/satellite_<lat>_<lon>.png  or satellite/<City>/
    <root>/splits/<City>/{satellite_list,same_area_balanced_train,same_area_balanced_test,pano_label_balanced}.txt
    <root>/splits__corrected/<City>/...__corrected.txt  the labels of SliceMatch (Lentsch et al., CVPR 2023)

A label line holds a panorama and four times a tile, d_row and d_col: the panorama lies d_row pixels below and
d_col pixels to the left of that tile's centre. The first tile is the positive, the others are semi-positive.
The original labels took every pixel for 0.114 m; the corrected ones use the ground resolution of the imagery,
web mercator at zoom 20. The gallery of a split is every satellite tile of its cities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from geoloc.core import schemas
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError
from geoloc.core.geodesy import map_metres_per_pixel
from geoloc.sources.datasets import files
from geoloc.sources.datasets.files import Line, Pictures
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Pair, Plan, Query, Request, Tile, offsets_m

CITIES = ("Chicago", "NewYork", "SanFrancisco", "Seattle")
CROSS_AREA = {"train": ("NewYork", "Seattle"), "test": ("SanFrancisco", "Chicago")}
TILE_PX = 640
ORIGINAL_METRES_PER_PIXEL = 0.114  # what the authors' delta-to-metre formula uses for all cities
_ZOOM = 20
_E2 = 0.0066943799901413165  # WGS84: first eccentricity squared
_LABEL_FOLDERS = ("splits", "splits__corrected", "VIGOR_corrected_labels/splits__corrected", "")
_PUBLISHED_SATELLITES = {"Chicago": 22_308, "NewYork": 23_279, "SanFrancisco": 24_255, "Seattle": 20_776}
_PUBLISHED_QUERIES = {
    "same-area-train": 52_609,
    "same-area-test": 52_605,
    "cross-area-train": 51_520,
    "cross-area-test": 53_694,
}
_LINE = "a panorama 'id,lat,lon,.jpg' and four times a tile 'satellite_lat_lon.png', d_row and d_col"
LAYOUT = (
    "<root>/<City>/panorama and <root>/<City>/satellite (or <root>/ground/<City> and <root>/satellite/<City>) with "
    "the pictures, <root>/splits/<City> or <root>/splits__corrected/<City> with the lists; cities "
    + ", ".join(CITIES)
)


@dataclass(frozen=True)
class Label:
    """One label line: where the panorama is, and its tiles with pixel offsets (d_row, d_col), positive first."""

    panorama: str
    lat: float
    lon: float
    tiles: tuple[tuple[str, float, float], ...]


@dataclass
class Labels:
    """The annotation of one city for one split: its gallery in order, its label lines, and the files read."""

    city: str
    satellites: dict[str, tuple[float, float]]
    labels: list[Label]
    corrected: bool
    annotations: list[str] = field(default_factory=list)


def read_labels(root: str, city: str, split: str, labels: str = "auto") -> Labels:
    """The gallery and the label lines of a city; no picture is looked for.

    `labels` is `original`, `corrected`, or `auto`: the corrected ones where they are. Raises `ArtifactError` when
    a list is missing and `InputError` naming file and line when one does not read as it should.
    """
    area, _, part = split.rpartition("-")
    kind = f"same_area_balanced_{part}" if area == "same-area" else "pano_label_balanced"
    folders = [files.below(root, folder, city) for folder in _LABEL_FOLDERS]
    endings = {"auto": ("__corrected", ""), "corrected": ("__corrected",), "original": ("",)}.get(labels)
    if endings is None:
        raise ConfigError(f"labels is {labels!r}; give auto, original or corrected.")
    wanted = [files.below(folder, f"{kind}{ending}.txt") for ending in endings for folder in folders]
    which = "label list" if labels == "auto" else f"{labels} label list"
    uri = files.first_there(f"the {which} of VIGOR's {city}", wanted, LAYOUT)
    lists = [files.below(folder, "satellite_list.txt") for folder in [uri.rpartition("/")[0], *folders]]
    gallery = files.first_there(f"the satellite list of VIGOR's {city}", list(dict.fromkeys(lists)), LAYOUT)
    return Labels(
        city=city,
        satellites=read_satellites(gallery),
        labels=[_label(uri, line) for line in files.read_lines(uri)],
        corrected=uri.endswith("__corrected.txt"),
        annotations=[gallery, uri],
    )


def read_satellites(uri: str) -> dict[str, tuple[float, float]]:
    """Tiles of a `satellite_list.txt` in order: name without ending -> (lat, lon) of the centre."""
    wanted = "one tile 'satellite_lat_lon.png'"
    return {
        files.stem(line.text): _tile_place(uri, line, line.text, wanted) for line in files.read_lines(uri)
    }


def _tile_place(uri: str, line: Line, name: str, wanted: str) -> tuple[float, float]:
    parts = files.stem(name).split("_")
    if len(parts) != 3 or parts[0] != "satellite":
        raise files.bad_line(uri, line, f"{name!r} is not the name of a tile", wanted)
    return files.degrees(uri, line, parts[1], parts[2], "the tile", wanted)


def _label(uri: str, line: Line) -> Label:
    # From the right: a panorama's name may hold spaces, the twelve fields after it cannot.
    cells = line.text.rsplit(maxsplit=12)
    if len(cells) != 13:
        raise files.bad_line(uri, line, f"{len(cells)} fields instead of 13", _LINE)
    name = cells[0].split(",")
    if len(name) != 4:
        raise files.bad_line(uri, line, f"{cells[0]!r} is not the name of a panorama", _LINE)
    lat, lon = files.degrees(uri, line, name[1], name[2], "the panorama", _LINE)
    tiles = []
    for start in range(1, 13, 3):
        tile, row, column = cells[start : start + 3]
        if not tile.startswith("satellite_"):
            raise files.bad_line(uri, line, f"field {start + 1} is {tile!r}, not a tile", _LINE)
        d_row = files.number(uri, line, row, f"field {start + 2}", _LINE)
        tiles.append((files.stem(tile), d_row, files.number(uri, line, column, f"field {start + 3}", _LINE)))
    return Label(cells[0], lat, lon, tuple(tiles))


def ground_resolution(lat: float) -> float:
    """Metres that a pixel of a VIGOR tile covers: web mercator at zoom 20, on the WGS84 ellipsoid from west to east."""
    prime_vertical = 1.0 / math.sqrt(1.0 - _E2 * math.sin(math.radians(lat)) ** 2)
    return map_metres_per_pixel(lat, _ZOOM) * prime_vertical


def offset_m(d_row: float, d_col: float, tile_lat: float, *, corrected: bool) -> tuple[float, float]:
    """(east_m, north_m) of a panorama from its tile's centre, from a label's pixels.

    Convention: d_row grows to the south and d_col to the west, as the labels have it.
    """
    scale = ground_resolution(tile_lat) if corrected else ORIGINAL_METRES_PER_PIXEL
    return -d_col * scale, -d_row * scale


@dataclass(frozen=True)
class Agreement:
    """How well pixel offsets agree with the coordinates in the names: errors in metres, resolution that they imply."""

    pairs: int
    median_m: float
    p95_m: float
    largest_m: float
    implied_metres_per_pixel: float


def agreement(labels: Labels, tiles_of_each: int = 1) -> Agreement:
    """Compare the first `tiles_of_each` offsets of every label with the coordinates in the names of the pictures.

    The resolution is the least-squares slope of metres (both axes) over pixels.
    """
    rows = [
        (label.lat, label.lon, *labels.satellites[tile], d_row, d_col)
        for label in labels.labels
        for tile, d_row, d_col in label.tiles[:tiles_of_each]
        if tile in labels.satellites
    ]
    if not rows:
        return Agreement(0, math.nan, math.nan, math.nan, math.nan)
    values = np.array(rows, dtype=np.float64)
    lat, lon, tile_lat, tile_lon, d_row, d_col = values.T
    east, north = offsets_m(lat, lon, tile_lat, tile_lon)
    offsets: FloatArray = np.array(
        [
            offset_m(r, c, at, corrected=labels.corrected)
            for r, c, at in zip(d_row, d_col, tile_lat, strict=True)
        ]
    )
    error = np.hypot(offsets[:, 0] - east, offsets[:, 1] - north)
    pixels = float(d_row @ d_row + d_col @ d_col)
    return Agreement(
        pairs=len(rows),
        median_m=float(np.median(error)),
        p95_m=float(np.percentile(error, 95)),
        largest_m=float(error.max()),
        implied_metres_per_pixel=float(-(north @ d_row + east @ d_col) / pixels) if pixels else math.nan,
    )


def plan(request: Request) -> Plan:
    """Rows of a split; `ArtifactError` or `InputError` when the data set is not as it should be."""
    area, _, part = request.split.rpartition("-")
    every = CITIES if area == "same-area" else CROSS_AREA[part]
    cities = _chosen(request.cities, every)
    result = Plan("vigor", request.split, f"vigor-{area}" if part == "test" else None)
    if cities == every:
        result.published["queries"] = _PUBLISHED_QUERIES[request.split]
    else:
        result.findings.append(
            f"vigor {request.split}: only {', '.join(cities)} of {', '.join(every)} were asked for."
        )
    result.published["tiles"] = sum(_PUBLISHED_SATELLITES[city] for city in cities)
    for city in cities:
        labels = read_labels(request.root, city, request.split, request.labels)
        result.annotations += labels.annotations
        _add_city(result, request.root, labels)
    result.compare_counts()
    return result


def _chosen(asked: Sequence[str] | None, every: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := sorted(set(asked or ()) - set(every)):
        raise ConfigError(f"cities names {', '.join(unknown)}; this split of VIGOR has {', '.join(every)}.")
    return tuple(city for city in every if not asked or city in asked)


def _add_city(result: Plan, root: str, labels: Labels) -> None:
    city, known = labels.city, labels.satellites
    tiles = Pictures(files.below(root, city, "satellite"), files.below(root, "satellite", city))
    photos = Pictures(files.below(root, city, "panorama"), files.below(root, "ground", city))
    for what, found in (("satellite tiles", tiles), ("panoramas", photos)):
        if not len(found):
            raise files.missing(f"every one of the {what} of VIGOR's {city}", found.folders, LAYOUT)
    for name, (lat, lon) in known.items():
        picture = tiles.find(name)
        if picture is None:
            result.refused_tiles.append(tiles.absent(name, f"{name}.png"))
            continue
        scale = ground_resolution(lat)
        result.tiles.append(Tile(name, picture, scale, f"vigor/{city}", TILE_PX, lat, lon))
    unlisted = 0
    for label in labels.labels:
        picture = photos.find(label.panorama)
        if picture is None:
            result.refused_queries.append(photos.absent(label.panorama, label.panorama))
            continue
        result.queries.append(Query(label.panorama, picture, "panorama", 360.0, 0.0, label.lat, label.lon))
        for place, (tile, d_row, d_col) in enumerate(label.tiles):
            if tile not in known:
                unlisted += 1
                continue
            east, north = offset_m(d_row, d_col, known[tile][0], corrected=labels.corrected)
            result.pairs.append(Pair(label.panorama, tile, schemas.RELATIONS[min(place, 1)], east, north))
    for what, count in (("tiles", len(known)), ("queries", len(labels.labels))):
        result.counts[what] = result.counts.get(what, 0) + count
    result.findings += _findings(labels, unlisted)


def _findings(labels: Labels, unlisted: int) -> list[str]:
    kind = "corrected" if labels.corrected else "original"
    fit = agreement(labels)
    found = [
        f"vigor {labels.city}: the {kind} labels' pixel offsets agree with the coordinates in the names to "
        f"{fit.median_m:.2f} m (median), {fit.largest_m:.2f} m (largest) over {fit.pairs:,} positives, and imply "
        f"{fit.implied_metres_per_pixel:.5f} m a pixel."
    ]
    if unlisted:
        found.append(
            f"vigor {labels.city}: {unlisted:,} pairs name a tile that satellite_list.txt does not have; left out."
        )
    return found


DATASET = register(DataSet("vigor", tuple(_PUBLISHED_QUERIES), LAYOUT, plan))
