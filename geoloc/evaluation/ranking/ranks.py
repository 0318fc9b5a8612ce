"""Ranks of the truth in a gallery: how many other items score better than the best right one, and how many tie.

Other positives never count against a query. What a tie is worth is decided by `metrics`, not here. Everything is
counted in one scan of blocks of scores (`blockwise_scores`), whose memory bound holds here too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, FloatArray, IntArray
from geoloc.evaluation.ranking.blockwise_scores import (
    Blocks,
    BlockScanner,
    Scanner,
    Similarity,
    Thresholds,
)


@dataclass(frozen=True)
class TruthTable:
    """Pairs of a query and a gallery item that belong together: parallel arrays of positions, int64[P]."""

    query: IntArray
    tile: IntArray

    def counts(self, queries: int) -> IntArray:
        """Positives of each of the queries, int64[Q]."""
        return np.bincount(self.query, minlength=queries).astype(np.int64)

    def without_items(self, dropped: BoolArray) -> TruthTable:
        """The pairs whose item is not dropped (bool[N])."""
        keep = ~dropped[self.tile]
        return TruthTable(self.query[keep], self.tile[keep])


NOTHING = TruthTable(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Question:
    """The positives to rank, and pairs that are neither right nor wrong (`ignored`).

    A pair that is in both is ignored.
    """

    positives: TruthTable
    ignored: TruthTable = NOTHING


@dataclass(frozen=True)
class RankCounts:
    """Where the truth stands for Q queries, int64[Q] each.

    Other tiles scoring `better` than the best positive and `tied` with it, and how many positives share that
    best score (`positives`). Queries without a positive have positives 0 and better N.
    """

    better: IntArray
    tied: IntArray
    positives: IntArray
    gallery: int

    def only(self, rows: BoolArray) -> RankCounts:
        """The counts of some of the queries (bool[Q])."""
        return RankCounts(self.better[rows], self.tied[rows], self.positives[rows], self.gallery)

    def expected_rank(self) -> FloatArray:
        """Rank float64[Q] of the first positive, from 1, as the mean over all orders of tied items.

        A single positive that ties with n others stands n / 2 places lower. Queries without a positive get infinity.
        """
        rank = self.better + 1.0 + self.tied / (self.positives + 1.0)
        return np.where(self.positives > 0, rank, np.inf)


@dataclass(frozen=True)
class PositiveRanks:
    """Where every positive stands: parallel int64[P] and float32[P], in order of queries, best first.

    better, tied: wrong items above it and level with it. Positives themselves and ignored items are not counted.
    """

    query: IntArray
    better: IntArray
    tied: IntArray
    score: Float32Array
    queries: int


@dataclass(frozen=True)
class GroupRanks:
    """Ranks of one group of queries: counts for each question, and all positives of the first question.

    rows, scores: int64[Q, k] and float32[Q, k], the best items, ties in order of rows, -1 and -inf where there are
    fewer.
    """

    counts: list[RankCounts]
    positives: PositiveRanks | None
    rows: IntArray
    scores: Float32Array


def chance_counts(positives: IntArray, gallery: int) -> RankCounts:
    """Ranks in a gallery in which all items tie, for queries with `positives` int64[Q] right ones."""
    others = np.maximum(gallery - positives, 0)
    return RankCounts(np.zeros_like(positives), others, positives, gallery)


def rank(
    queries: AnyArray,
    gallery: Blocks | Scanner,
    similarity: Similarity,
    questions: Sequence[Question],
    *,
    dropped: BoolArray | None = None,
    k: int = 0,
    all_positives: bool = False,
) -> GroupRanks:
    """Ranks for all questions about queries [Q, D] or [Q, R, D], in one scan of the gallery: its blocks or a scanner.

    `dropped` (bool[N]) are items taken out of the ranking for every query. `all_positives` also ranks all positives
    of the first question, not only the best one. The k best rows are kept.
    """
    count = len(queries)
    scanner = BlockScanner(gallery) if callable(gallery) else gallery
    kept = [_without(question, dropped) for question in questions]
    query, tile = _all_pairs([truth for question in kept for truth in (question.positives, question.ignored)])
    pairs = query, tile, scanner.pair_scores(queries, similarity, query, tile)
    best = [_BestPositive(question, count, pairs, similarity.tie) for question in kept]
    every = _EveryPositive(kept[0], pairs, similarity.tie) if all_positives else None
    thresholds = [each.thresholds for each in best] + ([every.thresholds] if every else [])
    found = scanner.scan(
        queries,
        similarity,
        thresholds=Thresholds(
            np.concatenate([part.query for part in thresholds]) if thresholds else np.empty(0, np.int64),
            np.concatenate([part.value for part in thresholds]) if thresholds else np.empty(0, np.float32),
        ),
        pairs=(query, tile),
        dropped=dropped,
        k=k,
    )
    ends = np.cumsum([len(part.query) for part in thresholds])[:-1]
    above = np.split(found.above, ends) if thresholds else []
    out = 0 if dropped is None else int(dropped.sum())
    counts = [
        each.counts(part, found.pair_scores, found.gallery, out)
        for each, part in zip(best, above, strict=False)
    ]
    positives = every.ranks(above[-1], found.pair_scores, count) if every else None
    return GroupRanks(counts, positives, found.rows, found.scores)


def score_ranks(scores: Float32Array, right: IntArray) -> RankCounts:
    """Ranks from scores float32[Q, N] that are in memory: query q has the one right item `right[q]`, int64[Q].

    Scores tie only when they are equal.
    """
    best = scores[np.arange(len(scores)), right][:, None]
    better, level = (scores > best).sum(axis=1), (scores == best).sum(axis=1)
    return RankCounts(better, level - 1, np.ones(len(scores), np.int64), scores.shape[1])


Pairs = tuple[IntArray, IntArray, Float32Array]  # query, tile (ascending), score: of all questions together


def _without(question: Question, dropped: BoolArray | None) -> Question:
    """The question without dropped items, and without positives that are ignored."""
    positives, ignored = question.positives, question.ignored
    if dropped is not None:
        positives, ignored = positives.without_items(dropped), ignored.without_items(dropped)
    if len(ignored.query):
        keep = ~np.isin(_keys(positives.query, positives.tile), _keys(ignored.query, ignored.tile))
        positives = TruthTable(positives.query[keep], positives.tile[keep])
    return Question(positives, ignored)


def _keys(query: IntArray, tile: IntArray) -> IntArray:
    """One number for each pair, ascending with (tile, query)."""
    return np.asarray((tile << 32) | query, dtype=np.int64)


def _all_pairs(truths: Sequence[TruthTable]) -> tuple[IntArray, IntArray]:
    keys = np.unique(
        np.concatenate([_keys(truth.query, truth.tile) for truth in truths] or [np.empty(0, np.int64)])
    )
    return keys & 0xFFFFFFFF, keys >> 32


def _places(truth: TruthTable, pairs: Pairs) -> IntArray:
    """Positions of a truth table's pairs among all pairs."""
    return np.searchsorted(_keys(pairs[0], pairs[1]), np.unique(_keys(truth.query, truth.tile)))


def _ties(value: Float32Array, tie: float) -> tuple[Float32Array, Float32Array]:
    """(threshold above which a score is better, threshold above which it is at least equal)."""
    upper = value + np.float32(tie)
    lower = np.nextafter(value - np.float32(tie), np.float32(-np.inf), dtype=np.float32)
    return upper.astype(np.float32), lower


class _BestPositive:
    """Thresholds and counts for the best positive of each query."""

    def __init__(self, question: Question, queries: int, pairs: Pairs, tie: float) -> None:
        self._right = _places(question.positives, pairs)
        self._aside = np.concatenate([self._right, _places(question.ignored, pairs)])
        self._query = pairs[0]
        self._queries = queries
        best = np.full(queries, -np.inf, dtype=np.float32)
        right_query, right_score = pairs[0][self._right], pairs[2][self._right]
        np.maximum.at(best, right_query, right_score)
        self._upper, self._lower = _ties(best, tie)
        level = right_score >= best[right_query] - np.float32(tie)
        self._positives = np.bincount(right_query[level], minlength=queries).astype(np.int64)
        every = np.arange(queries, dtype=np.int64)
        self.thresholds = Thresholds(
            np.concatenate([every, every]), np.concatenate([self._upper, self._lower])
        )

    def counts(self, above: IntArray, pair_score: Float32Array, gallery: int, dropped: int) -> RankCounts:
        better, at_least = above[: self._queries].copy(), above[self._queries :].copy()
        query, value = self._query[self._aside], pair_score[self._aside]
        better -= np.bincount(query[value > self._upper[query]], minlength=self._queries)
        at_least -= np.bincount(query[value > self._lower[query]], minlength=self._queries)
        known = self._positives > 0
        return RankCounts(
            np.where(known, better, gallery - dropped),
            np.where(known, at_least - better, 0),
            self._positives,
            gallery,
        )


class _EveryPositive:
    """Thresholds and ranks for all positives of a question."""

    def __init__(self, question: Question, pairs: Pairs, tie: float) -> None:
        places = _places(question.positives, pairs)
        order = np.lexsort((-pairs[2][places], pairs[0][places]))
        self._right = places[order]
        self._aside = np.concatenate([places, _places(question.ignored, pairs)])
        self._query = pairs[0]
        self._score = pairs[2][self._right]
        self._upper, self._lower = _ties(self._score, tie)
        query = self._query[self._right]
        self.thresholds = Thresholds(
            np.concatenate([query, query]), np.concatenate([self._upper, self._lower])
        )

    def ranks(self, above: IntArray, pair_score: Float32Array, queries: int) -> PositiveRanks:
        query = self._query[self._right]
        aside = np.stack([self._query[self._aside].astype(np.float64), pair_score[self._aside]], axis=1)
        aside = aside[np.lexsort((aside[:, 1], aside[:, 0]))]
        starts = np.searchsorted(aside[:, 0], np.arange(queries + 1))
        half = len(query)
        better = above[:half] - _above_within(aside[:, 1], starts, query, self._upper)
        at_least = above[half:] - _above_within(aside[:, 1], starts, query, self._lower)
        return PositiveRanks(query, better, at_least - better, self._score, queries)


def _above_within(values: FloatArray, starts: IntArray, query: IntArray, threshold: Float32Array) -> IntArray:
    """How many of its query's values (ascending between starts) lie above each threshold, int64[P]."""
    out = np.empty(len(query), dtype=np.int64)
    bounds = np.append(np.searchsorted(query, np.unique(query)), len(query))
    for first, last in itertools.pairwise(bounds):
        low, high = starts[query[first]], starts[query[first] + 1]
        of_query = values[low:high]
        out[first:last] = len(of_query) - np.searchsorted(of_query, threshold[first:last], side="right")
    return out
