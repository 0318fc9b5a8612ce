"""Building an index in parallel: the time of all shards against the ideal time, from one shard's."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from geoloc.bench.galleries import random_codes, tiles_of
from geoloc.bench.measure import Bar, ratios
from geoloc.core import geodesy, part_table, schemas
from geoloc.index.build.sorted_runs import TablePart
from geoloc.runtime.ray_session import cpu_count, ensure_ray
from geoloc.runtime.shard_job import Build, build_shards

_MODEL_ID = "bench"
_LIMIT = 0.85


class BuildResult(BaseModel):
    """Seconds to build one shard alone and all of them together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles_per_shard: int
    bits: int
    shards: int
    cores: int
    one_s: list[float]
    all_s: list[float]

    def bars(self) -> list[Bar]:
        """How much of the ideal speed-up is reached."""
        ideal = [one * self.shards / min(self.cores, self.shards) for one in self.one_s]
        what = f"building {self.shards} shards of {self.tiles_per_shard:,}: one shard's time x shards / cores / time"
        return [Bar(what=what, value=ratios(ideal, self.all_s), limit=_LIMIT, at_most=False, unit="")]


def measure_build(directory: Path, *, tiles: int, bits: int, shards: int, rounds: int) -> BuildResult:
    """Build `tiles` as `shards` shards on Ray and, alternately, one shard's share of them alone."""
    ensure_ray()
    codes_uri = str(directory / "codes")
    each = tiles // shards
    sources = [_write_part(codes_uri, number, each, bits) for number in range(shards)]
    one_s, all_s = [], []
    _build(directory / "warm", sources, bits, shards)  # starts all workers
    for number in range(rounds):
        one_s.append(_build(directory / f"one-{number}", sources[:1], bits, 1))
        all_s.append(_build(directory / f"all-{number}", sources, bits, shards))
    return BuildResult(
        tiles_per_shard=each, bits=bits, shards=shards, cores=cpu_count(), one_s=one_s, all_s=all_s
    )


def _build(output: Path, sources: list[TablePart], bits: int, shards: int) -> float:
    build = Build(
        index_uri=str(output),
        fingerprint=f"{len(sources)}-{bits}",
        sources=tuple(sources),
        bits=bits,
        embedding_dim=None,
        partition="space",
        shards=shards,
        memory_per_task_bytes=2**28,
    )
    began = time.perf_counter()
    build_shards(build)
    return time.perf_counter() - began


def _write_part(codes_uri: str, number: int, count: int, bits: int) -> TablePart:
    """A part of a codes table with generated codes, with larger ids than the parts before."""
    rows, codes = tiles_of(count, number), random_codes(count, bits, number)
    lat, lon = np.asarray(rows["lat"]), np.asarray(rows["lon"])
    ids = pa.array([f"{number:04d}-{name}" for name in rows["tile_id"].to_pylist()], pa.string())
    columns = [
        ids,
        pa.array(lat),
        pa.array(lon),
        pa.array(geodesy.cells(lat, lon)),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(bits // 8), count, [None, pa.py_buffer(codes)]),
        pa.array([_MODEL_ID] * count, pa.string()),
    ]
    table = pa.table(columns, schema=schemas.codes_schema(bits // 8, None))
    plan = part_table.TablePlan(codes_uri, "bench")
    return TablePart(codes_uri, plan.write_part(number, table), _MODEL_ID)
