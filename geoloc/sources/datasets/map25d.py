"""The ground-to-2.5D map data set (Zhou et al., arXiv 2308.05993): panoramas, map tiles and points of two cities.

    <root>/csv/<area>.csv       panoid,lat,lon,heading,city      <root>/csv/<area>_set.csv  city,tile number
    <root>/csv/<area>_xy.csv    panoid,x,y,heading,city          x to the east, y to the south, metres (optional)
    <root>/jpegs_<city>_2019/<panoid>.jpg           panoramas, the centre column looks along the heading
    <root>/tiles_<city>_2019/z18/<number>.png       map tiles of 152 m, north up
    <root>/<city>/<city>U.npy and <city>U.csv       the city's cloud and a class a point (optional)
    <root>/<area>_idx/<panoid>.npy                  rows of the cloud around a panorama (optional)

No file has a header. A split is an area. The truth of a panorama is the tile of the same row. Local metres are a
spherical transverse mercator about the city's origin. `<area>.pickle` is never read: a pickle can run code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geoloc.core import storage
from geoloc.core.geodesy import LatLon, SphericalTransverseMercator
from geoloc.sources.datasets import files
from geoloc.sources.datasets.files import Line, Pictures
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import CloudPlace, DataSet, Pair, Plan, Query, Request, Tile

TILE_M, TILE_PX = 152.0, 256
AREAS = {
    "unionsquare5kU": 5_000,
    "wallstreet5kU": 5_000,
    "hudsonriver5kU": 5_000,
    "cmu5kU": 5_000,
    "trainstreetlearnU": 93_767,
    "trainstreetlearnU_cmu5kU": 98_767,
}
# Fitted on the 5,000 rows of wallstreet5kU, largest residual 1e-9 m.
ORIGINS = {"manhattan": LatLon(40.7424436, -73.9816155)}
_TRAINING = ("trainstreetlearnU", "trainstreetlearnU_cmu5kU")
_ROOTS = ("", "datasets")
_ROW, _ROW_XY, _ROW_SET = "panoid,lat,lon,heading,city", "panoid,x,y,heading,city", "city,tile number"
LAYOUT = (
    "<root>/csv/<area>.csv and <area>_set.csv, <root>/jpegs_<city>_2019/<panoid>.jpg, "
    "<root>/tiles_<city>_2019/z18/<number>.png and, for points, <root>/<city>/<city>U.npy, <city>U.csv and "
    "<root>/<area>_idx/<panoid>.npy"
)


@dataclass(frozen=True)
class Place:
    """One row of an area: x and y (to the south) are metres in the city's cloud, None without an `_xy` file."""

    panoid: str
    lat: float
    lon: float
    heading_deg: float
    city: str
    tile: int
    x: float | None = None
    y: float | None = None


@dataclass
class Area:
    """All rows of an area, the files they came from, and what was noticed while reading."""

    name: str
    places: list[Place]
    annotations: list[str]
    findings: list[str]


def read_area(root: str, area: str) -> Area:
    """The rows of an area; no picture is looked for.

    Raises `ArtifactError` when a list is missing, `InputError` naming file and line when one does not read as it
    should or when rows of two files do not belong together.
    """
    folders = [files.below(root, *inner) for base in _ROOTS for inner in ((base, "csv"), (base,))]
    uri = files.first_there(f"{area}.csv of map25d", [f"{one}/{area}.csv" for one in folders], LAYOUT)
    folder = uri.rpartition("/")[0]
    set_uri = files.first_there(f"{area}_set.csv of map25d", [f"{folder}/{area}_set.csv"], LAYOUT)
    lines, tiles = files.read_lines(uri), files.read_lines(set_uri)
    _same_length(set_uri, tiles, uri, lines, _ROW_SET)
    places = [_place(uri, line, set_uri, tile) for line, tile in zip(lines, tiles, strict=True)]
    result = Area(area, places, [uri, set_uri], [])
    xy_uri = f"{folder}/{area}_xy.csv"
    if storage.exists(xy_uri):
        _add_metres(result, xy_uri)
    if storage.exists(f"{folder}/{area}.pickle"):
        result.findings.append(
            f"map25d {area}: {area}.pickle is there and was not read, because a pickle can run code; positions come "
            "from the csv files."
        )
    return result


def _same_length(uri: str, lines: list[Line], other: str, others: list[Line], wanted: str) -> None:
    if len(lines) != len(others):
        last = lines[-1]
        raise files.bad_line(
            uri, last, f"the last of {len(lines):,} rows where {other!r} has {len(others):,}", wanted
        )


def _place(uri: str, line: Line, set_uri: str, tile_line: Line) -> Place:
    panoid, lat_cell, lon_cell, heading, city = files.split_cells(uri, line, 5, _ROW)
    lat, lon = files.degrees(uri, line, lat_cell, lon_cell, "the panorama", _ROW)
    tile_city, tile = files.split_cells(set_uri, tile_line, 2, _ROW_SET)
    if tile_city != city:
        raise files.bad_line(
            set_uri, tile_line, f"the tile is of {tile_city!r}, the panorama of {city!r}", _ROW_SET
        )
    if not tile.isdecimal():
        raise files.bad_line(set_uri, tile_line, f"{tile!r} is not the number of a tile", _ROW_SET)
    turned = files.number(uri, line, heading, "the heading", _ROW)
    if not -360.0 <= turned <= 360.0:
        raise files.bad_line(uri, line, f"the heading is {turned:g} degrees", _ROW)
    return Place(panoid, lat, lon, turned % 360.0, city, int(tile))


def _add_metres(area: Area, uri: str) -> None:
    lines = files.read_lines(uri)
    _same_length(uri, lines, area.annotations[0], [Line(0, "")] * len(area.places), _ROW_XY)
    moved = []
    for line, place in zip(lines, area.places, strict=True):
        panoid, x, y, _, _ = files.split_cells(uri, line, 5, _ROW_XY)
        if panoid != place.panoid:
            raise files.bad_line(
                uri, line, f"the panorama is {panoid!r}, not {place.panoid!r} as in the csv", _ROW_XY
            )
        metres = [files.number(uri, line, cell, name, _ROW_XY) for cell, name in ((x, "x"), (y, "y"))]
        moved.append(
            Place(
                panoid, place.lat, place.lon, place.heading_deg, place.city, place.tile, metres[0], metres[1]
            )
        )
    area.places = moved
    area.annotations.append(uri)
    for city, origin, worst in metric_residuals(area):
        area.findings.append(
            f"map25d {area.name}: the given metres of {city} are a spherical transverse mercator about "
            f"{origin.lat:.7f}, {origin.lon:.7f} to {worst:.1e} m (largest residual)."
        )


def metric_residuals(area: Area) -> Iterator[tuple[str, LatLon, float]]:
    """(city, origin, largest residual in metres) of the given metres against the projection, city by city."""
    for city in sorted({place.city for place in area.places}):
        rows = [(p.lat, p.lon, p.x, p.y) for p in area.places if p.city == city]
        lat, lon, x, y = np.array(rows, dtype=np.float64).T
        frame = SphericalTransverseMercator.fitted(lat, lon, x, -y)
        east, north = frame.to_metres(lat, lon)
        yield city, frame.origin, float(np.hypot(east - x, north + y).max())


def plan(request: Request) -> Plan:
    """Rows of an area; `ArtifactError` or `InputError` when the data set is not as it should be."""
    area = read_area(request.root, request.split)
    protocol = None if request.split in _TRAINING else "map25d-single-image"
    result = Plan("map25d", request.split, protocol, annotations=area.annotations, findings=area.findings)
    result.published = {"tiles": AREAS[request.split], "queries": AREAS[request.split]}
    result.counts = {"tiles": len({(p.city, p.tile) for p in area.places}), "queries": len(area.places)}
    clouds = _Clouds(request.root, area, result)
    pictures = {city: _city_pictures(request.root, city) for city in sorted({p.city for p in area.places})}
    known: set[str] = set()
    for place in area.places:
        tile_id = f"{place.city}/{place.tile:05d}"
        tiles, photos = pictures[place.city]
        if tile_id not in known:
            known.add(tile_id)
            _add_tile(result, tile_id, place, tiles, clouds.place(place))
        if (photo := photos.find(f"{place.panoid}.jpg")) is None:
            result.refused_queries.append(photos.absent(place.panoid, f"{place.panoid}.jpg"))
        else:
            result.queries.append(
                Query(place.panoid, photo, "panorama", 360.0, place.heading_deg, place.lat, place.lon)
            )
        result.pairs.append(Pair(place.panoid, tile_id, east_m=0.0, north_m=0.0))
    result.compare_counts()
    return result


def _city_pictures(root: str, city: str) -> tuple[Pictures, Pictures]:
    tiles = Pictures(*(files.below(root, base, f"tiles_{city}_2019", "z18") for base in _ROOTS))
    photos = Pictures(*(files.below(root, base, f"jpegs_{city}_2019") for base in _ROOTS))
    for what, found in (("map tile", tiles), ("panorama", photos)):
        if not len(found):
            raise files.missing(f"every {what} of map25d's {city}", found.folders, LAYOUT)
    return tiles, photos


def _add_tile(result: Plan, tile_id: str, place: Place, tiles: Pictures, cloud: CloudPlace | None) -> None:
    name = f"{place.tile:05d}.png"
    picture = tiles.find(name)
    if picture is None:
        result.refused_tiles.append(tiles.absent(tile_id, name))
        return
    result.tiles.append(
        Tile(
            tile_id,
            picture,
            TILE_M / TILE_PX,
            f"map25d/{place.city}",
            TILE_PX,
            place.lat,
            place.lon,
            map_picture=picture,
            cloud=cloud,
        )
    )


class _Clouds:
    """Where the points of an area's tiles are, as far as they are there; findings say what is missing."""

    def __init__(self, root: str, area: Area, result: Plan) -> None:
        self._root, self._area = root, area
        self._clouds = {city: self._cloud(city) for city in sorted({p.city for p in area.places})}
        names = dict.fromkeys((area.name, *area.name.split("_")))
        folders = [files.below(root, base, f"{name}_idx") for base in _ROOTS for name in names]
        self._indices = {
            file.name: file.uri
            for folder in folders
            for file in storage.list_files(folder, suffix=".npy", recursive=False)
        }
        without = [city for city, found in self._clouds.items() if not found]
        if without:
            result.findings.append(
                f"map25d {area.name}: {', '.join(without)} has no cloud ({without[0]}U.npy with {without[0]}U.csv in "
                f"{files.below(root, without[0])!r}), so its tiles have no points."
            )
        absent = sum(f"{p.panoid}.npy" not in self._indices for p in area.places if self._clouds[p.city])
        if absent:
            result.findings.append(
                f"map25d {area.name}: {absent:,} panoramas have no index array in {folders[0]!r}; their points are "
                "those within 114 m to each side."
            )

    def _cloud(self, city: str) -> tuple[str, str] | None:
        for base in _ROOTS:
            both = [files.below(self._root, base, city, f"{city}U.{ending}") for ending in ("npy", "csv")]
            if all(map(storage.exists, both)):
                return both[0], both[1]
        return None

    def place(self, place: Place) -> CloudPlace | None:
        """The points of a place's tile; None without a cloud or without a place in it."""
        cloud = self._clouds[place.city]
        if cloud is None:
            return None
        x, y = place.x, place.y
        if x is None or y is None:
            if (origin := ORIGINS.get(place.city)) is None:
                return None
            east, north = SphericalTransverseMercator(origin).to_metres(place.lat, place.lon)
            x, y = float(east), -float(north)
        return CloudPlace(*cloud, x, y, self._indices.get(f"{place.panoid}.npy"))


DATASET = register(DataSet("map25d", tuple(AREAS), LAYOUT, plan))
