"""One exact scan by several hands: the reading of the codes alone, ours, FAISS as it comes and tuned, usearch.

Beside them our scan by a photo's real numbers (asymmetric), which has other answers.

All search the same codes where they lie (a mapped file), with the same threads, and their answers are compared
before any is timed: distances must be equal, and ids wherever distances leave no choice.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from geoloc.bench.measure import Bar, Spread, interleave, ratios
from geoloc.core.arrays import Codes, IntArray
from geoloc.core.errors import GeolocError
from geoloc.index.format.shard import Shard
from geoloc.index.search import scan
from geoloc.index.search.kernels.scan_kernel import Kernel, Query, RowScan
from geoloc.index.search.kernels.weighted_scan import WeightedKernel, bit_weights

Answer = tuple[IntArray, IntArray]

FLOOR, OURS, DEFAULT, TUNED, USEARCH = "read floor", "ours", "faiss", "faiss tuned", "usearch"
ASYMMETRIC = "asymmetric"
_DEFAULT_BATCHES = (65_536, 32)  # hamming_batch_size and query_batch_size as FAISS comes
_TUNED_BATCHES = (4_096, 256)
# usearch compares pairs one by one, some forty times as long: beyond this many it would be all one waits for.
_USEARCH_PAIRS = 40_000_000
_FLOOR_LIMIT, _ROW_LIMIT, _TRANSPOSED_LIMIT = 1.5, 2.2, 3.3
_ASYMMETRIC_LIMIT, _FAISS_LIMIT = 2.5, 1.0


class AnswersDiffer(GeolocError):
    """Two searches that must give the same answer do not. This is a bug to report."""


class ScanResult(BaseModel):
    """Seconds of one scan by every engine, round by round."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: int
    bits: int
    batch: int
    k: int
    kernel: str
    seconds: dict[str, list[float]] = Field(description="By variant, in the order of rounds.")

    def spread(self, name: str) -> Spread:
        """Milliseconds of a variant."""
        return Spread.of([1e3 * value for value in self.seconds[name]])

    def bars(self) -> list[Bar]:
        """The bars that this scan can be held against."""
        where = f"{self.tiles:,} x {self.bits} bits, batch {self.batch}"
        ours = self.seconds[OURS]
        floor, tuned = self.seconds[FLOOR], self.seconds[TUNED]
        faiss_best = list(map(min, self.seconds[DEFAULT], tuned))
        if self.batch == 1:
            limits = [
                ("ours / reading the codes", ours, floor, _FLOOR_LIMIT, True),
                ("ours / FAISS, the faster of two", ours, faiss_best, _FAISS_LIMIT, True),
                ("asymmetric / ours", self.seconds[ASYMMETRIC], ours, _ASYMMETRIC_LIMIT, True),
            ]
        elif self.batch >= 256:
            limits = [
                ("tuned FAISS / ours, codes as they lie", tuned, ours, _ROW_LIMIT, False),
                ("tuned FAISS / ours, transposed blocks", tuned, ours, _TRANSPOSED_LIMIT, False),
            ]
        else:
            limits = [("ours / FAISS, the faster of two", ours, faiss_best, _FAISS_LIMIT, True)]
        return [
            Bar(
                what=f"{where}: {what}",
                value=ratios(above, below),
                quickest=min(above) / min(below),
                limit=limit,
                at_most=at_most,
            )
            for what, above, below, limit, at_most in limits
        ]


def compare_scans(
    shard: Shard, queries: Codes, k: int, *, kernel: Kernel, threads: int, rounds: int, usearch: bool
) -> ScanResult:
    """Time one batch uint8[Q, bits / 8] with every library; raises `AnswersDiffer` when answers differ."""
    codes = shard.codes
    flat = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    flat.add(codes)
    weights = bit_weights(np.random.default_rng(0).normal(size=(len(queries), flat.d)))
    weighted = WeightedKernel()
    with ThreadPoolExecutor(threads) as pool:
        variants: dict[str, Callable[[], Any]] = {
            FLOOR: lambda: _read(codes, pool, threads),
            OURS: lambda: _ours(shard, queries, k, kernel, threads),
            ASYMMETRIC: lambda: _ours(shard, weights, k, weighted, threads),
            DEFAULT: lambda: _faiss(flat, queries, k, threads, _DEFAULT_BATCHES),
            TUNED: lambda: _faiss(flat, queries, k, threads, _TUNED_BATCHES),
        }
        if usearch and len(codes) * len(queries) <= _USEARCH_PAIRS:
            variants[USEARCH] = lambda: _usearch(codes, queries, k, threads)
        compared = {name: work for name, work in variants.items() if name not in (FLOOR, ASYMMETRIC)}
        _check(codes, queries, {name: work() for name, work in compared.items()})
        seconds = interleave(variants, rounds)
    return ScanResult(
        tiles=len(codes),
        bits=codes.shape[1] * 8,
        batch=len(queries),
        k=k,
        kernel=kernel.name,
        seconds=seconds,
    )


def _read(codes: Codes, pool: ThreadPoolExecutor, threads: int) -> int:
    """One pass over the codes by all threads: no scan can be quicker."""
    words = codes.reshape(-1)[: codes.size // 8 * 8].view(np.uint64)
    edges = np.linspace(0, len(words), threads + 1).astype(int)
    parts = [words[edges[number] : edges[number + 1]] for number in range(threads)]
    return sum(int(value) for value in pool.map(np.bitwise_xor.reduce, parts))


def _ours(shard: Shard, queries: npt.NDArray[Query], k: int, kernel: RowScan[Query], threads: int) -> Answer:
    """As `Snapshot.search` does it: scan, then the first k by (distance, tile id)."""
    candidates = scan.scan([scan.Selection(shard, len(shard))], queries, k, kernel, threads)
    columns = scan.best_columns([shard], candidates, k)
    rows = np.take_along_axis(candidates.rows, columns, axis=1)
    return np.take_along_axis(candidates.scores, columns, axis=1), rows


def _faiss(flat: Any, queries: Codes, k: int, threads: int, batches: tuple[int, int]) -> Answer:
    before = faiss.cvar.hamming_batch_size  # type: ignore[attr-defined]
    faiss.cvar.hamming_batch_size, flat.query_batch_size = batches  # type: ignore[attr-defined]
    faiss.omp_set_num_threads(threads)
    try:
        distances, rows = flat.search(queries, k)
    finally:
        faiss.cvar.hamming_batch_size = before  # type: ignore[attr-defined]
    return distances.astype(np.int64), rows


def _usearch(codes: Codes, queries: Codes, k: int, threads: int) -> Answer:
    from usearch import index

    hamming: Any = index.MetricKind.Hamming  # type: ignore[attr-defined]
    found: Any = index.search(codes, queries, k, hamming, exact=True, threads=threads)
    return np.atleast_2d(found.distances).astype(np.int64), np.atleast_2d(found.keys).astype(np.int64)


def _check(codes: Codes, queries: Codes, answers: dict[str, Answer]) -> None:
    """Equal distances; each id at the distance it was given; equal ids where ours are the only choice."""
    distances, rows = answers[OURS]
    clear = distances < distances[:, -1:]
    for name, (theirs, _) in answers.items():
        if not np.array_equal(theirs, distances):
            raise AnswersDiffer(
                f"The distances of {name} differ from ours on {len(codes)} codes; report this."
            )
    for name, (_, found) in answers.items():
        for query, line in enumerate(found):
            measured = np.bitwise_count(codes[line] ^ queries[query]).sum(axis=1)
            same = set(rows[query][clear[query]].tolist()) == set(line[clear[query]].tolist())
            if not same or not np.array_equal(measured, distances[query]):
                raise AnswersDiffer(
                    f"The tiles that {name} found for query {query} are not the nearest; report this."
                )


def has_usearch() -> bool:
    """Whether usearch is installed (it is among the development packages)."""
    try:
        import usearch.index  # noqa: F401
    except ImportError:
        return False
    return True
