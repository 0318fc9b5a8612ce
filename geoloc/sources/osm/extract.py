"""Ways and areas of an OpenStreetMap extract: .osm, .osm.pbf (and what libosmium reads), GeoJSON and GeoParquet.

OSM files are streamed by pyosmium (extra `osm`). The positions of nodes lie in a file of the local temporary directory,
so memory does not grow with the extract. GeoJSON is read whole, GeoParquet batch by batch.

Convention: coordinates are WGS84 degrees, bounds are (south, west, north, east). Rings are closed: their last point
is their first.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import shapely

from geoloc.core import storage
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.scratch import LocalFile

Bounds = tuple[float, float, float, float]
_JSON = (".geojson", ".json")
_PARQUET = (".parquet", ".geoparquet")
_TAGS_IN = ("tags", "source_tags")  # columns that hold OSM's own tags
# Overture Maps names what OSM tags: its column `class`, by the type of the feature.
_OVERTURE = {
    "segment": "highway",
    "land_cover": "natural",
    "land_use": "landuse",
    "water": "water",
    "land": "natural",
}


@dataclass(frozen=True)
class Way:
    """A line: `node_id` int64[N], `lat` and `lon` float64[N].

    Node ids are OSM's. Of GeoJSON and GeoParquet they are negative and follow from the position to 1e-7 degrees, so
    lines that share an end share a node.
    """

    osm_id: int
    tags: dict[str, str]
    node_id: IntArray
    lat: FloatArray
    lon: FloatArray


@dataclass(frozen=True)
class Area:
    """A surface, of a closed way or of a multipolygon; `shape` is a shapely (multi)polygon of (lon, lat)."""

    osm_id: int
    tags: dict[str, str]
    shape: shapely.Geometry


@dataclass(frozen=True)
class Node:
    """A point with tags, such as a tree."""

    osm_id: int
    tags: dict[str, str]
    lat: float
    lon: float


Feature = Way | Area | Node


def read_ways(uri: str, *, keys: frozenset[str] | None = None, bounds: Bounds | None = None) -> Iterator[Way]:
    """The ways of an extract that have one of the tags `keys` and reach into `bounds`; closed ones too.

    Raises what `read_features` raises.
    """
    for feature in read_features(uri, keys=keys, bounds=bounds, areas=False):
        if isinstance(feature, Way):
            yield feature


def read_features(
    uri: str, *, keys: frozenset[str] | None = None, bounds: Bounds | None = None, areas: bool = True
) -> Iterator[Feature]:
    """All nodes with tags, ways and areas of an extract, in the order of the file, areas last.

    A closed way comes as a way and, where its tags make it one, as an area. Ways whose nodes are not in the extract are
    cut at the gap; the pieces keep the id. Raises `ArtifactError` where there is no file, `InputError` for one that
    cannot be read, `ConfigError` where the extra `osm` is missing.
    """
    if not storage.exists(uri):
        raise InputError(f"There is no OSM extract at {uri!r}; check the path.", reason="missing_file")
    lower = uri.lower()
    if lower.endswith(_JSON):
        found = _from_geojson(uri)
    elif lower.endswith(_PARQUET):
        found = _from_parquet(uri)
    else:
        found = _from_osm(uri, keys, areas)
    for feature in found:
        if keys is not None and keys.isdisjoint(feature.tags):
            continue
        if bounds is None or _reaches(feature, bounds):
            yield feature


def _reaches(feature: Feature, bounds: Bounds) -> bool:
    south, west, north, east = bounds
    if isinstance(feature, Area):
        left, bottom, right, top = shapely.bounds(feature.shape).tolist()
    else:
        lat, lon = np.atleast_1d(feature.lat), np.atleast_1d(feature.lon)
        left, bottom, right, top = float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())
    return bool(left <= east and right >= west and bottom <= north and top >= south)


def _from_osm(uri: str, keys: frozenset[str] | None, areas: bool) -> Iterator[Feature]:
    try:
        import osmium
    except ImportError as error:
        raise ConfigError(
            "OSM files need pyosmium, which is not installed; install geoloc[osm], or give GeoJSON or GeoParquet."
        ) from error
    with tempfile.TemporaryDirectory(prefix="geoloc-osm-") as folder:
        path = storage.local_path(uri) if storage.is_local(uri) else Path(folder) / uri.rpartition("/")[2]
        if not storage.is_local(uri):
            storage.copy_file(uri, str(path))
        try:
            processor = osmium.FileProcessor(str(path)).with_locations(
                f"sparse_file_array,{folder}/locations"
            )
            if areas:
                processor = processor.with_areas()
            processor = processor.with_filter(osmium.filter.EmptyTagFilter())
            if keys is not None:
                processor = processor.with_filter(osmium.filter.KeyFilter(*sorted(keys)))
            for thing in processor:
                yield from _osm_feature(thing)
        except RuntimeError as error:
            detail = " ".join(str(error).split())[:160]
            raise InputError(f"{uri!r} cannot be read as OSM data: {detail}.", reason="bad_osm") from error


def _osm_feature(thing: Any) -> Iterator[Feature]:
    tags = {tag.k: tag.v for tag in thing.tags}
    if thing.is_node():
        yield Node(thing.id, tags, thing.location.lat, thing.location.lon)
    elif thing.is_way():
        located = [(node.ref, node.location) for node in thing.nodes]
        yield from _pieces(
            thing.id, tags, [(ref, at.lat, at.lon) if at.valid() else None for ref, at in located]
        )
    elif thing.is_area():
        polygons = []
        for outer in thing.outer_rings():
            holes = [[(node.lon, node.lat) for node in inner] for inner in thing.inner_rings(outer)]
            polygons.append(shapely.Polygon([(node.lon, node.lat) for node in outer], holes))
        yield Area(thing.orig_id(), tags, _one(polygons))


def _one(polygons: list[shapely.Polygon]) -> shapely.Geometry:
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _pieces(osm_id: int, tags: dict[str, str], nodes: list[tuple[int, float, float] | None]) -> Iterator[Way]:
    piece: list[tuple[int, float, float]] = []
    for node in [*nodes, None]:
        if node is not None:
            piece.append(node)
            continue
        if len(piece) > 1:
            ids, lat, lon = zip(*piece, strict=True)
            yield Way(osm_id, tags, np.array(ids, np.int64), np.array(lat), np.array(lon))
        piece = []


def _from_geojson(uri: str) -> Iterator[Feature]:
    try:
        data = json.loads(storage.read_bytes(uri))
        items = data["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri!r} is no GeoJSON with features: {error}.", reason="bad_osm") from error
    for number, item in enumerate(items):
        try:
            shape = shapely.from_geojson(json.dumps(item.get("geometry")))
        except shapely.errors.GEOSException as error:
            raise InputError(
                f"Feature {number} of {uri!r} has no geometry that can be read: {error}.", reason="bad_osm"
            ) from error
        yield from _shape_features(number, _text_tags(item.get("properties") or {}), shape)


def _from_parquet(uri: str) -> Iterator[Feature]:
    number = 0
    file = LocalFile(uri)  # one operation of the store, which is repeated when it fails
    for batch in pq.ParquetFile(file.path).iter_batches(batch_size=4096):
        if "geometry" not in batch.schema.names:
            raise InputError(f"{uri!r} has no column geometry, so it is no GeoParquet.", reason="bad_osm")
        names = [name for name in batch.schema.names if name != "geometry"]
        shapes = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
        for row, shape in zip(batch.select(names).to_pylist(), shapes, strict=True):
            yield from _shape_features(number, _text_tags(row), shape)
            number += 1


def _text_tags(row: Mapping[str, Any]) -> dict[str, str]:
    """Tags of a feature: its own columns as text, OSM's tags within a column, Overture's classes by their type."""
    tags = {name: str(value) for name, value in row.items() if isinstance(value, str | int | float)}
    for name in _TAGS_IN:
        inner = row.get(name)
        pairs = inner.items() if isinstance(inner, Mapping) else inner if isinstance(inner, list) else ()
        tags |= {str(key): str(value) for key, value in pairs}
    kind = tags.get("type") or tags.get("theme") or ""
    if kind.startswith("building"):
        tags.setdefault("building", tags.get("class", "yes"))
    elif kind in _OVERTURE and (named := tags.get("class") or tags.get("subtype")):
        tags.setdefault(_OVERTURE[kind], named)
        if kind == "water":
            tags.setdefault("natural", "water")
    return tags


def _shape_features(number: int, tags: dict[str, str], shape: shapely.Geometry | None) -> Iterator[Feature]:
    if shape is None or shapely.is_empty(shape):
        return
    for part in shapely.get_parts(shape):
        kind = shapely.get_type_id(part)
        if kind == shapely.GeometryType.POINT:
            yield Node(number, tags, float(part.y), float(part.x))
        elif kind == shapely.GeometryType.LINESTRING:
            lon, lat = shapely.get_coordinates(part).T
            yield Way(number, tags, _position_ids(lat, lon), lat, lon)
        elif kind == shapely.GeometryType.POLYGON:
            yield Area(number, tags, part)


def _position_ids(lat: FloatArray, lon: FloatArray) -> IntArray:
    """Negative ids int64[N] that are equal exactly for positions that are equal to 1e-7 degrees."""
    rows = np.rint((np.asarray(lat) + 90) * 1e7).astype(np.int64)
    columns = np.rint((np.asarray(lon) + 180) * 1e7).astype(np.int64)
    return np.asarray(-1 - (rows * 3_600_000_001 + columns), dtype=np.int64)
