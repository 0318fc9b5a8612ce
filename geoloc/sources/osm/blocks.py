"""An extract cut into square blocks, each a few files of the features that reach it: tasks read only their own.

The extract is read once, as a stream. Features wait in memory until there are `_WAITING` of them in all, then every
block writes a file. Memory does not grow with the extract, apart from one number for each block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geoloc.core import storage
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError
from geoloc.core.geodesy import LatLon, SphericalTransverseMercator
from geoloc.core.semantics import SemanticClass
from geoloc.sources.osm.extract import Area, Feature, Way
from geoloc.sources.osm.surfaces import MapFeatures, Surface, Tree, map_features

BLOCK_M = 512.0
_WAITING = 50_000
_TREE, _STREET = -1, -2
_SCHEMA = pa.schema(
    [("osm_id", pa.int64()), ("kind", pa.int8()), ("wall_m", pa.float64()), ("gable_m", pa.float64()),
     ("shape", pa.binary())]
)  # fmt: skip
_WALKED = frozenset(
    {"motorway", "motorway_link", "trunk", "trunk_link", "construction", "proposed", "raceway"}
)


@dataclass(frozen=True)
class BlockPlan:
    """Blocks with streets: their numbers (column, row), their files, and the origin of the projection."""

    origin: LatLon
    files: dict[tuple[int, int], list[str]]


def write_blocks(features: Iterable[Feature], folder: str, margin_m: float) -> BlockPlan:
    """Write the features of an extract below `folder`, each to every block that it reaches within `margin_m`.

    Raises `InputError` for an extract without a feature of any class.

    Convention: the projection is a spherical transverse Mercator about the first feature's place, rounded to a tenth of
    a degree; block (i, j) spans x from 512 i and y from 512 j metres.
    """
    writer: _Writer | None = None
    for feature in features:
        if writer is None:
            writer = _Writer(_origin(feature), folder, margin_m)
        writer.add(feature)
    plan = None if writer is None else writer.finish()
    if plan is None or not plan.files:
        raise InputError(
            "The extract has no street with anything of the map's classes; give a larger one.",
            reason="bad_osm",
        )
    return plan


def read_block(uris: Sequence[str]) -> tuple[MapFeatures, list[FloatArray]]:
    """The features of a block in the order of the extract, and its streets as lines float64[N, 2] in metres."""
    surfaces: list[Surface] = []
    trees: list[Tree] = []
    streets: list[FloatArray] = []
    for uri in uris:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
        shapes = shapely.from_wkb(table["shape"].to_numpy(zero_copy_only=False))
        for row, shape in zip(table.drop_columns("shape").to_pylist(), shapes, strict=True):
            if row["kind"] == _TREE:
                trees.append(Tree(float(shape.x), float(shape.y), row["wall_m"], row["gable_m"]))
            elif row["kind"] == _STREET:
                streets.append(shapely.get_coordinates(shape))
            else:
                surfaces.append(
                    Surface(row["osm_id"], SemanticClass(row["kind"]), shape, row["wall_m"], row["gable_m"])
                )
    return MapFeatures(surfaces, trees), streets


def street_places(streets: Sequence[FloatArray], block: tuple[int, int], stride_m: float) -> FloatArray:
    """Places float64[N, 2] every `stride_m` along streets within a block, at most one in each square of half a stride.

    Convention: a place belongs to the block that holds it, so blocks side by side have no place twice.
    """
    found = [np.zeros((0, 2))]
    for street in streets:
        line = shapely.linestrings(street)
        steps = np.arange(0.0, shapely.length(line) + stride_m / 2, stride_m)
        found.append(shapely.get_coordinates(shapely.line_interpolate_point(line, steps)))
    places = np.concatenate(found)
    low = np.array(block) * BLOCK_M
    places = places[((places >= low) & (places < low + BLOCK_M)).all(axis=1)]
    squares = np.floor(places / (stride_m / 2)).astype(np.int64)
    _, first = np.unique(squares, axis=0, return_index=True)
    return np.asarray(places[np.sort(first)])


def _origin(feature: Feature) -> LatLon:
    if isinstance(feature, Area):
        lon, lat = (float(value) for value in shapely.get_coordinates(feature.shape)[0])
    else:
        lat, lon = (float(np.atleast_1d(values)[0]) for values in (feature.lat, feature.lon))
    return LatLon(round(lat, 1), round(lon, 1))


class _Writer:
    """Features of all blocks until they are written."""

    def __init__(self, origin: LatLon, folder: str, margin_m: float) -> None:
        self._origin, self._frame = origin, SphericalTransverseMercator(origin)
        self._folder, self._margin_m = folder, margin_m
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {}
        self._waiting = 0
        self._files: dict[tuple[int, int], list[str]] = {}
        self._streets: set[tuple[int, int]] = set()

    def add(self, feature: Feature) -> None:
        """Put a feature into its blocks."""
        found = map_features([feature], self._frame)
        for surface in found.surfaces:
            self._put(surface.shape, surface.osm_id, int(surface.kind), surface.wall_m, surface.gable_m)
        for tree in found.trees:
            self._put(shapely.Point(tree.x, tree.y), 0, _TREE, tree.height_m, tree.radius_m)
        if isinstance(feature, Way) and feature.tags.get("highway", "motorway") not in _WALKED:
            line = shapely.linestrings(np.column_stack(self._frame.to_metres(feature.lat, feature.lon)))
            self._put(line, feature.osm_id, _STREET, 0.0, 0.0)
            self._streets |= set(_reached(line, 0.0))

    def _put(self, shape: shapely.Geometry, osm_id: int, kind: int, wall_m: float, gable_m: float) -> None:
        whole = kind in (_STREET, SemanticClass.BUILDINGS)
        for block in _reached(shape, self._margin_m):
            pieces = [shape] if whole else _clipped(shape, block, self._margin_m)
            for piece in pieces:
                row = {"osm_id": osm_id, "kind": kind, "wall_m": wall_m, "gable_m": gable_m}
                self._rows.setdefault(block, []).append(row | {"shape": shapely.to_wkb(piece)})
            self._waiting += len(pieces)
        if self._waiting >= _WAITING:
            self._flush()

    def _flush(self) -> None:
        for block, rows in self._rows.items():
            uris = self._files.setdefault(block, [])
            uri = storage.join(self._folder, f"{block[0]}_{block[1]}_{len(uris):04d}.parquet")
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink)
            storage.write_bytes(uri, sink.getvalue().to_pybytes())
            uris.append(uri)
        self._rows, self._waiting = {}, 0

    def finish(self) -> BlockPlan:
        """Write what waits; the plan holds the blocks that a street reaches."""
        self._flush()
        return BlockPlan(self._origin, {block: self._files[block] for block in sorted(self._streets)})


def _reached(shape: shapely.Geometry, margin_m: float) -> Iterator[tuple[int, int]]:
    west, south, east, north = (float(value) for value in shapely.bounds(shape))
    for column in range(math.floor((west - margin_m) / BLOCK_M), math.floor((east + margin_m) / BLOCK_M) + 1):
        for row in range(
            math.floor((south - margin_m) / BLOCK_M), math.floor((north + margin_m) / BLOCK_M) + 1
        ):
            yield column, row


def _clipped(shape: shapely.Geometry, block: tuple[int, int], margin_m: float) -> list[shapely.Geometry]:
    """The parts of a shape within a block and its margin: a river is not kept whole for each of its blocks."""
    west, south = block[0] * BLOCK_M - margin_m, block[1] * BLOCK_M - margin_m
    side = BLOCK_M + 2 * margin_m
    cut = shapely.clip_by_rect(shape, west, south, west + side, south + side)
    kinds = (shapely.GeometryType.POLYGON, shapely.GeometryType.POINT)
    return [part for part in shapely.get_parts(cut) if shapely.get_type_id(part) in kinds]
