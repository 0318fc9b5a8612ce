"""Scores of queries against a gallery of shards, shard by shard, with partial results merged.

The results are those of one scan of all blocks (`blockwise_scores`): a shard's part is a scan of its own blocks, counts
add up, and best items are merged with ties in order of rows. Who computes the parts is up to `run`, so that this works
in one process and on a cluster alike. The caller holds one chunk of queries and the results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, IntArray
from geoloc.evaluation.ranking.blockwise_scores import (
    NO_PAIRS,
    NO_THRESHOLDS,
    Blocks,
    Pairs,
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
    pairs: Pairs
    scores_only: bool = False
    thresholds: Thresholds = NO_THRESHOLDS
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
Place = TypeVar("Place")


@dataclass(frozen=True)
class _Cut:
    """A chunk of queries (`part` of all, rows [q, R, E]) against one shard, and the pairs of both.

    pair: int64[p], the positions of those pairs among all; pairs: the pairs as numbered within chunk and shard.
    """

    shard: int
    first_row: int
    part: slice
    queries: AnyArray
    pair: IntArray
    pairs: Pairs


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
        planned = (
            (ShardTask(cut.shard, cut.queries, similarity, cut.pairs, scores_only=True), cut)
            for cut in self._cuts(queries, (query, item))
            if len(cut.pair)
        )
        for cut, scores in self._results(planned):
            out[cut.pair] = scores
        return out

    def scan(
        self,
        queries: AnyArray,
        similarity: Similarity,
        *,
        thresholds: Thresholds = NO_THRESHOLDS,
        pairs: Pairs = NO_PAIRS,
        dropped: BoolArray | None = None,
        k: int = 0,
    ) -> ScanResult:
        """Counts and best items of queries [Q, D] or [Q, R, D], see `blockwise_scores.scan`."""
        whole = ScanResult.of_nothing(len(queries), k, thresholds, pairs)

        def planned() -> Iterator[tuple[ShardTask, tuple[_Cut, IntArray]]]:
            for cut in self._cuts(queries, pairs):
                counted = _within(thresholds.query, cut.part)
                own = Thresholds(thresholds.query[counted] - cut.part.start, thresholds.value[counted])
                out = None if dropped is None else dropped[cut.first_row : self._starts[cut.shard + 1]]
                task = ShardTask(
                    cut.shard,
                    cut.queries,
                    similarity,
                    cut.pairs,
                    thresholds=own,
                    dropped=out if out is not None and out.any() else None,
                    k=k,
                )
                yield task, (cut, counted)

        for (cut, counted), found in self._results(planned()):
            whole.above[counted] += found.above
            whole.pair_scores[cut.pair] = found.pair_scores
            _merge_best(whole, cut.part, found, cut.first_row)
        return replace(whole, gallery=int(self._starts[-1]))

    def _results(self, planned: Iterable[tuple[ShardTask, Place]]) -> Iterator[tuple[Place, Any]]:
        """The results of tasks in their order, each with what was planned beside its task."""
        places: deque[Place] = deque()

        def tasks() -> Iterator[ShardTask]:
            for task, place in planned:
                places.append(place)
                yield task

        for result in self._run(tasks()):
            yield places.popleft(), result

    def _cuts(self, queries: AnyArray, pairs: Pairs) -> Iterator[_Cut]:
        """Every chunk of queries with every shard; `pairs` have their rows ascending."""
        query, item = pairs
        for part, chunk in self._chunks(queries):
            mine = _within(query, part)
            edges = np.searchsorted(item[mine], self._starts)
            for shard, first_row in enumerate(self._starts[:-1]):
                inside = mine[edges[shard] : edges[shard + 1]]
                own = query[inside] - part.start, item[inside] - first_row
                yield _Cut(shard, int(first_row), part, chunk, inside, own)

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


def _within(query: IntArray, part: slice) -> IntArray:
    """Positions of the values that lie in a part of the queries."""
    return np.flatnonzero((query >= part.start) & (query < part.stop))


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


def with_queries(task: ShardTask, queries: Any) -> ShardTask:
    """The same task with something else in the place of its queries."""
    return replace(task, queries=queries)
