"""Street graphs from files: an area of the 2.5D map data set, any table of positions, or roads of an OSM extract.

A table (CSV or GeoJSON) has a row a place: `id` (else its number), `lat`, `lon` and, where known, `heading_deg` and
`neighbours` (ids with semicolons between). Without neighbours places are linked that have none between them
(`neighbour_links`).
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from geoloc.core import storage
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.core.geodesy import distance_m
from geoloc.core.schemas import coordinate_problem
from geoloc.geometry.street_graph import LONGEST_LINK_M, MappedGraph, local_metres, neighbour_links
from geoloc.sources.datasets.map25d import read_area
from geoloc.sources.osm.extract import Bounds, read_ways
from geoloc.sources.positions import LAT_NAMES, LON_NAMES, Row, number, read_columns

ROAD_SPACING_M = 10.0
"""Metres between places along a road of an OSM extract, at most."""
_EXTRACTS = (".osm", ".osm.pbf", ".pbf", ".osm.gz", ".osm.bz2", ".parquet", ".geoparquet")
_LINES = re.compile(r'"type"\s*:\s*"(Multi)?(LineString|Polygon)"')
_NO_ROADS = frozenset({"construction", "proposed", "platform", "corridor", "elevator", "razed", "abandoned"})


def graph_of_area(root: str, area: str, *, longest_link_m: float = LONGEST_LINK_M) -> MappedGraph:
    """The panoramas of an area of the 2.5D map data set below `root`, linked as they lie along the streets.

    The published files name no neighbours; where `graphs/<area>.csv` names them (the city's export does), they hold.
    Raises as `read_area`, and `InputError` for a graph that names unknown panoramas.
    """
    places = read_area(root, area).places
    ids = [place.panoid for place in places]
    lat, lon = np.array([place.lat for place in places]), np.array([place.lon for place in places])
    yaw_deg = np.array([place.heading_deg for place in places])
    uri = next(
        (one for base in (root, storage.join(root, "datasets"))
         if storage.exists(one := storage.join(base, "graphs", f"{area}.csv"))), None,
    )  # fmt: skip
    if uri is None:
        return _linked(ids, lat, lon, yaw_deg, longest_link_m)
    rows = {row["panoid"]: row for row in csv.DictReader(io.StringIO(storage.read_text(uri)))}
    links = _named_links(uri, ids, [rows.get(key, {}) for key in ids])
    return MappedGraph.from_degrees(ids, lat, lon, yaw_deg, links)


def read_streets(uri: str) -> MappedGraph:
    """A street graph from what a user has: see the module. The file says what it is.

    An OSM extract ends as one, or is GeoJSON with lines. The table of an area of the 2.5D map data set is `AREA.csv`
    beside `AREA_set.csv`. Every other file is a table of positions. Raises what the reader of the kind raises.
    """
    uri = storage.absolute(uri)
    lower = uri.lower()
    if lower.endswith(_EXTRACTS) or (lower.endswith((".geojson", ".json")) and _has_lines(uri)):
        return graph_of_roads(uri)
    folder, _, name = uri.rpartition("/")
    if lower.endswith(".csv") and storage.exists(f"{uri[: -len('.csv')]}_set.csv"):
        root = folder.removesuffix("/csv")
        return graph_of_area(root.removesuffix("/datasets"), name[: -len(".csv")])
    return read_graph(uri)


def graph_of_roads(
    uri: str, *, bounds: Bounds | None = None, spacing_m: float = ROAD_SPACING_M
) -> MappedGraph:
    """The roads of an OSM extract (`highway=*`, no areas) as places at most `spacing_m` metres apart.

    Places are the nodes of the roads, named by their OSM id, and places between them, `WAY/NUMBER`. Roads meet where
    they share a node. Raises what `read_ways` raises, and `InputError` where no road lies in the bounds.
    """
    ids: dict[str, int] = {}
    places: list[tuple[float, float]] = []
    links: list[tuple[int, int]] = []
    for way in read_ways(uri, keys=frozenset({"highway"}), bounds=bounds):
        if way.tags.get("area") == "yes" or way.tags.get("highway") in _NO_ROADS:
            continue
        apart = distance_m(way.lat[:-1], way.lon[:-1], way.lat[1:], way.lon[1:])
        before = _numbered(ids, places, str(int(way.node_id[0])), float(way.lat[0]), float(way.lon[0]))
        for node, length_m in enumerate(apart.tolist(), start=1):
            pieces = max(1, math.ceil(length_m / spacing_m))
            for piece in range(1, pieces + 1):
                share = piece / pieces
                key = (
                    str(int(way.node_id[node]))
                    if piece == pieces
                    else f"{way.osm_id}/{node}.{piece}/{int(way.node_id[node - 1])}"
                )
                lat = way.lat[node - 1] + share * (way.lat[node] - way.lat[node - 1])
                lon = way.lon[node - 1] + share * (way.lon[node] - way.lon[node - 1])
                here = _numbered(ids, places, key, float(lat), float(lon))
                links.append((before, here))
                before = here
    if not places:
        raise InputError(
            f"{uri!r} has no road (highway=*) in the area; give an extract of the index's area.",
            reason="no_rows",
        )
    lat, lon = np.array(places).T.copy()
    yaw_deg = np.full(len(lat), np.nan)
    return MappedGraph.from_degrees(list(ids), lat, lon, yaw_deg, np.array(links, np.int64).reshape(-1, 2))


def _numbered(
    ids: dict[str, int], places: list[tuple[float, float]], key: str, lat: float, lon: float
) -> int:
    """The number of a place, which is a new one where the key is new."""
    if key not in ids:
        ids[key] = len(places)
        places.append((lat, lon))
    return ids[key]


def _has_lines(uri: str) -> bool:
    """Whether a GeoJSON file has lines, as an extract has, and not points alone."""
    return bool(_LINES.search(storage.read_text(uri)))


def read_graph(uri: str, *, longest_link_m: float = LONGEST_LINK_M) -> MappedGraph:
    """A street graph from a table of positions; `InputError` naming the row that cannot be used."""
    columns = read_columns(uri)
    lat_name, lon_name = columns.require(LAT_NAMES, LON_NAMES)
    ids: list[str] = []
    values = np.full((len(columns.rows), 3), np.nan)
    for line, row in enumerate(columns.rows, start=1):
        columns.check(line)
        place, heading = (number(row, lat_name), number(row, lon_name)), number(row, "heading_deg")
        if problem := coordinate_problem(*place):
            raise InputError(f"{uri!r}: row {line}: {problem[1]}.", reason=problem[0])
        values[line - 1] = *place, np.nan if heading is None else heading % 360.0
        ids.append(row.get("id") or str(line))
    if len(set(ids)) < len(ids):
        twice = next(key for key in ids if ids.count(key) > 1)
        raise InputError(
            f"{uri!r} has the id {twice!r} twice; give each place its own.", reason="duplicate_id"
        )
    lat, lon, yaw_deg = values.T.copy()
    if "neighbours" not in columns.names:
        return _linked(ids, lat, lon, yaw_deg, longest_link_m)
    return MappedGraph.from_degrees(ids, lat, lon, yaw_deg, _named_links(uri, ids, columns.rows))


def _linked(
    ids: Sequence[str], lat: FloatArray, lon: FloatArray, yaw_deg: FloatArray, longest_link_m: float
) -> MappedGraph:
    links = neighbour_links(*local_metres(lat, lon), longest_link_m)
    return MappedGraph.from_degrees(ids, lat, lon, yaw_deg, links)


def _named_links(uri: str, ids: Sequence[str], rows: Iterable[Row]) -> IntArray:
    """Links int64[M, 2] from the ids that each row names as neighbours."""
    position = {key: place for place, key in enumerate(ids)}
    links = []
    for place, row in enumerate(rows):
        for name in filter(None, (part.strip() for part in row.get("neighbours", "").split(";"))):
            if name not in position:
                raise InputError(
                    f"{uri!r}: {ids[place]!r} has the neighbour {name!r}, which is no place of the graph.",
                    reason="unknown_neighbour",
                )
            links.append((place, position[name]))
    return np.array(links, np.int64).reshape(-1, 2)
