"""The time to open a large shard and to re-rank candidates."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from geoloc.bench.galleries import open_gallery
from geoloc.bench.measure import Bar, Spread, interleave
from geoloc.core.arrays import Embeddings, IntArray
from geoloc.index.format.manifest import ShardEntry
from geoloc.index.search.kernels.dot_products import Stored, default_products, quantize

_OPEN_LIMIT_MS = 50.0
_PRIVATE_LIMIT = 0.01
_DIM = 512
_RERANK_ROWS = 200_000
_RERANK_CALLS = 20


class OpeningResult(BaseModel):
    """Milliseconds to open a shard, and bytes of private memory that this took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: int
    bits: int
    shard_bytes: int
    milliseconds: list[float]
    private_bytes: int

    def bars(self) -> list[Bar]:
        """Opening maps: it takes a moment and no memory."""
        where = f"opening a shard of {self.tiles:,} x {self.bits} bits"
        share = self.private_bytes / self.shard_bytes
        return [
            Bar(
                what=where, value=Spread.of(self.milliseconds), limit=_OPEN_LIMIT_MS, at_most=True, unit=" ms"
            ),
            Bar(
                what=f"{where}: private memory / size of the shard",
                value=Spread.of([share]),
                limit=_PRIVATE_LIMIT,
                at_most=True,
            ),
        ]


class RerankResult(BaseModel):
    """Microseconds for the products of a query with its candidates on one thread, by storage format."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidates: int
    dim: int
    microseconds: dict[str, Spread]


def measure_opening(directory: Path, entry: ShardEntry, bits: int, rounds: int) -> OpeningResult:
    """Open a shard several times. Its files are verified already, as on a host that opened them before."""
    open_gallery(directory, entry, bits)
    process = psutil.Process()
    before = process.memory_full_info().uss
    held, spent = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        held.append(open_gallery(directory, entry, bits))
        spent.append(1e3 * (time.perf_counter() - began))
    grown = max(0, process.memory_full_info().uss - before) // rounds
    return OpeningResult(
        tiles=entry.count,
        bits=bits,
        shard_bytes=sum(file.bytes for file in entry.files),
        milliseconds=spent,
        private_bytes=grown,
    )


def measure_rerank(directory: Path, rounds: int) -> list[RerankResult]:
    """Products with scattered rows of mapped embeddings, stored as float16 and as int8 with scales."""
    rng = np.random.default_rng(0)
    path = directory / "embeddings.npy"
    np.save(path, rng.standard_normal((_RERANK_ROWS, _DIM), dtype=np.float32).astype(np.float16))
    half = np.load(path, mmap_mode="r")
    stores: dict[str, Stored] = {"float16": half, "int8": quantize(half)}
    query, results = rng.standard_normal((1, _DIM), dtype=np.float32), []
    for candidates in (100, 1000):
        rows = rng.integers(0, _RERANK_ROWS, (_RERANK_CALLS, 1, candidates))
        out = np.zeros((1, candidates), np.float32)

        variants = {name: partial(_products, query, store, rows, out) for name, store in stores.items()}
        seconds = interleave(variants, rounds)
        spread = {
            name: Spread.of([1e6 * value / _RERANK_CALLS for value in times])
            for name, times in seconds.items()
        }
        results.append(RerankResult(candidates=candidates, dim=_DIM, microseconds=spread))
    return results


def _products(query: Embeddings, stored: Stored, rows: IntArray, out: Embeddings) -> None:
    for one in rows:
        default_products().fill(query, stored, one, 0, out)
