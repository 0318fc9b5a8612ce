"""The pairs of ingest as Ray work: a task for each part of the photos, which reads the tiles near them and no others.

The driver holds a box in degrees for each part of the tiles (32 bytes), from the statistics of its Parquet file. Tiles
are stored along a space-filling curve, so a part covers a small area. Memory of a task: the places of one part of
tiles, and 100 bytes for each tile within reach of its photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from geoloc.core import part_table
from geoloc.core.arrays import FloatArray
from geoloc.core.part_table import Part, TableManifest
from geoloc.runtime import table_job
from geoloc.runtime.ray_session import ensure_ray, remote_task
from geoloc.runtime.table_job import PartResult

_PARTS_PER_TASK = 512
_PLACES = ("lat", "lon")


@dataclass(frozen=True)
class PairMaker:
    """Makes one part of the pairs table (runs in a Ray Data task).

    boxes: float64[P, 4], the area (south, north, west, east) in degrees of each part of the tiles.
    """

    tiles_uri: str
    queries_uri: str
    tile_m: float
    positive_radius_m: float
    boxes: FloatArray

    def __call__(self, unit: dict[str, Any]) -> PartResult:
        """The pairs of one part of the photos."""
        # Loads scikit-learn: two seconds that the other tasks of ingest need not spend.
        from geoloc.sources.pairing import Pairer, near_boxes, near_points, reach_m

        photos = part_table.read_columns(
            self.queries_uri, Part.model_validate(unit["part"]), ["query_id", *_PLACES]
        )
        where = _degrees(photos)
        reach = reach_m(self.tile_m, self.positive_radius_m)
        parts = _tile_parts(self.tiles_uri, unit["tiles"])
        near = [pa.table({"tile_id": pa.array([], pa.string()), "lat": np.zeros(0), "lon": np.zeros(0)})]
        for index in np.flatnonzero(near_boxes(self.boxes, *where, reach)):
            tiles = part_table.read_columns(self.tiles_uri, parts[index], ["tile_id", *_PLACES])
            kept = tiles.filter(pa.array(near_points(*_degrees(tiles), *where, reach)))
            near.append(kept.select(["tile_id", *_PLACES]).cast(near[0].schema))
        tiles = pa.concat_tables(near)
        pairer = Pairer(
            tiles["tile_id"].to_pylist(),
            *_degrees(tiles),
            tile_m=self.tile_m,
            positive_radius_m=self.positive_radius_m,
        )
        return PartResult(pairer.pairs(photos["query_id"].to_pylist(), *where), counts=None)


def pair_units(tiles: TableManifest, queries: TableManifest) -> table_job.Units:
    """A unit for each part of the photos."""
    return table_job.Units(
        queries.parts, lambda part: {"part": part.model_dump(), "tiles": tiles.fingerprint}
    )


def part_boxes(uri: str, manifest: TableManifest) -> FloatArray:
    """The area of each part of a table, float64[P, 4] (south, north, west, east); tasks read the parts' footers."""
    ensure_ray()
    remote = remote_task(_boxes)
    starts = range(0, len(manifest.parts), _PARTS_PER_TASK)
    tasks = [remote.remote(uri, manifest.parts[start : start + _PARTS_PER_TASK]) for start in starts]
    return np.concatenate([np.zeros((0, 4)), *ray.get(tasks)])


def _boxes(uri: str, parts: Sequence[Part]) -> FloatArray:
    everywhere = ((-90.0, 90.0), (-180.0, 180.0))
    rows = []
    for part in parts:
        ranges = part_table.column_ranges(uri, part, _PLACES)
        rows.append([*(ranges["lat"] or everywhere[0]), *(ranges["lon"] or everywhere[1])])
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


@lru_cache(maxsize=1)
def _tile_parts(uri: str, fingerprint: str) -> list[Part]:
    """The parts of the tiles, read once by each worker; the fingerprint keeps tables at one URI apart."""
    return part_table.read_manifest(uri, kind="tiles").parts


def _degrees(table: pa.Table) -> tuple[FloatArray, FloatArray]:
    lat, lon = (table[name].to_numpy().astype(np.float64) for name in _PLACES)
    return lat, lon
