"""Scores of queries against a gallery of shards, shard by shard, with partial results merged.

The results are those of one scan of all blocks (`blockwise_scores`): a shard's part is a scan of its own blocks, counts
add up, and best items are merged with ties in order of rows. Who computes the parts is up to `run`, so that this works
in one process and on a cluster alike. The caller holds one chunk of queries and the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, IntArray
from geoloc.evaluation.ranking.blockwise_scores import (
    Blocks,
    ScanResult,
    Similarity,
    Thresholds,
    candidates,
    pair_scores,
    scan,
)

CHUNK_BYTES = 64 * 2**20  # of queries that are compared at a time
_CHUNK_STEP = 256  # as `scan` cuts queries, so that products have the same shapes


@dataclass(frozen=True)
class ShardTask:
    """One chunk of queries against one shard, whose rows are numbered from 0.

    queries: rows [q, R, E], or whatever `run` puts in their place. With `scores_only`, the scores of `pairs` alone.
    """

    shard: int
    queries: Any
    similarity: Similarity
    pairs: tuple[IntArray, IntArray]
    scores_only: bool = False
    thresholds: Thresholds | None = None
    dropped: BoolArray | None = None
    k: int = 0

    def result(self, gallery: Blocks) -> ScanResult | Float32Array:
        """Compute the task on the shard's blocks [n, D]: the scan, or scores float32[P] of the pairs."""
        if self.scores_only:
            return pair_scores(self.queries, gallery, self.similarity, *self.pairs)
        return scan(
            self.queries,
            gallery,
            self.similarity,
            thresholds=self.thresholds,
            pairs=self.pairs,
            dropped=self.dropped,
            k=self.k,
        )


Run = Callable[[Iterable[ShardTask]], Iterator[Any]]


class ShardedScanner:
    """Compares queries with shards of `sizes` rows each; `run` gives the results of tasks in their order.

    Tasks are about `at_once` or more, where there are queries enough.
    """

    def __init__(self, sizes: Sequence[int], run: Run, *, at_once: int = 1) -> None:
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        self._run = run
        self._at_once = at_once

    def pair_scores(
        self, queries: AnyArray, similarity: Similarity, query: IntArray, item: IntArray
    ) -> Float32Array:
        """Scores float32[P], see `blockwise_scores.pair_scores`."""
        out = np.full(len(query), -np.inf, dtype=np.float32)
        places: list[IntArray] = []

        def tasks() -> Iterator[ShardTask]:
            for part, chunk in self._chunks(queries):
                mine = np.flatnonzero((query >= part.start) & (query < part.stop))
                edges = np.searchsorted(item[mine], self._starts)
                for shard in range(len(self._starts) - 1):
                    inside = mine[edges[shard] : edges[shard + 1]]
                    if len(inside):
                        pairs = query[inside] - part.start, item[inside] - self._starts[shard]
                        places.append(inside)
                        yield ShardTask(shard, chunk, similarity, pairs, scores_only=True)

        for number, scores in enumerate(self._run(tasks())):
            out[places[number]] = scores
        return out

    def scan(
        self,
        queries: AnyArray,
        similarity: Similarity,
        *,
        thresholds: Thresholds | None = None,
        pairs: tuple[IntArray, IntArray] | None = None,
        dropped: BoolArray | None = None,
        k: int = 0,
    ) -> ScanResult:
        """Counts and best items of queries [Q, D] or [Q, R, D], see `blockwise_scores.scan`."""
        limits = thresholds or Thresholds(np.empty(0, np.int64), np.empty(0, np.float32))
        query, item = pairs or (np.empty(0, np.int64), np.empty(0, np.int64))
        count, size = len(queries), int(self._starts[-1])
        whole = ScanResult(
            np.zeros(len(limits.query), np.int64),
            np.full(len(query), -np.inf, np.float32),
            np.full((count, k), -1, np.int64),
            np.full((count, k), -np.inf, np.float32),
            size,
        )
        places: list[tuple[slice, int, IntArray, IntArray]] = []

        def tasks() -> Iterator[ShardTask]:
            for part, chunk in self._chunks(queries):
                mine = np.flatnonzero((query >= part.start) & (query < part.stop))
                edges = np.searchsorted(item[mine], self._starts)
                counted = np.flatnonzero((limits.query >= part.start) & (limits.query < part.stop))
                own = Thresholds(limits.query[counted] - part.start, limits.value[counted])
                for shard in range(len(self._starts) - 1):
                    inside = mine[edges[shard] : edges[shard + 1]]
                    start, stop = self._starts[shard : shard + 2]
                    out = None if dropped is None else dropped[start:stop]
                    places.append((part, int(start), counted, inside))
                    yield ShardTask(
                        shard,
                        chunk,
                        similarity,
                        (query[inside] - part.start, item[inside] - start),
                        thresholds=own,
                        dropped=out if out is not None and out.any() else None,
                        k=k,
                    )

        for number, found in enumerate(self._run(tasks())):
            part, start, counted, inside = places[number]
            whole.above[counted] += found.above
            whole.pair_scores[inside] = found.pair_scores
            _merge_best(whole, part, found, start)
        return whole

    def _chunks(self, queries: AnyArray) -> Iterator[tuple[slice, AnyArray]]:
        """Queries in chunks of bounded size: (positions, rows [q, R, E])."""
        rows = candidates(queries)
        heads = rows.shape[1]
        fitting = CHUNK_BYTES // max(1, 4 * heads * rows.shape[2])
        shards = max(1, len(self._starts) - 1)
        wanted = -(-len(rows) // max(1, -(-self._at_once // shards)))
        step = max(1, _CHUNK_STEP // heads)
        size = max(1, min(fitting, -(-wanted // step) * step))
        for first in range(0, len(rows), size):
            yield slice(first, min(first + size, len(rows))), rows[first : first + size]


def _merge_best(whole: ScanResult, part: slice, found: ScanResult, start: int) -> None:
    """Put the best items of one shard behind those of earlier ones and keep the best; equals stay in this order."""
    k = whole.rows.shape[1]
    if not k:
        return
    rows = np.concatenate([whole.rows[part], np.where(found.rows >= 0, found.rows + start, -1)], axis=1)
    scores = np.concatenate([whole.scores[part], found.scores], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    whole.rows[part] = np.take_along_axis(rows, order, axis=1)
    whole.scores[part] = np.take_along_axis(scores, order, axis=1)


def run_here(galleries: Sequence[Blocks]) -> Run:
    """Computes tasks in this process, on the blocks of each shard."""
    return lambda tasks: (task.result(galleries[task.shard]) for task in tasks)


def with_queries(task: ShardTask, queries: Any) -> ShardTask:
    """The same task with something else in the place of its queries."""
    return replace(task, queries=queries)
