"""Ranks of the truth in a gallery: how many other items score better than the best right one, and how many tie.

Other positives never count against a query. What a tie is worth is decided by `metrics`, not here. Everything is
counted in one walk over blocks of scores (`scan`), whose memory bound holds here too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, FloatArray, IntArray
from geoloc.evaluation.ranking.blockwise_scores import (
    Blocks,
    Cosine,
    Edges,
    Hamming,
    Measure,
    pair_scores,
    walk,
)


@dataclass(frozen=True)
class Truth:
    """Which gallery tiles are right for which query: parallel arrays of positions, int64[P]."""

    query: IntArray
    tile: IntArray

    def counts(self, queries: int) -> IntArray:
        """Positives of each of the queries, int64[Q]."""
        return np.bincount(self.query, minlength=queries).astype(np.int64)


NOTHING = Truth(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class Question:
    """What is asked of a ranking: the positives, and pairs that are neither right nor wrong (`ignored`).

    A pair that is in both is ignored.
    """

    positives: Truth
    ignored: Truth = NOTHING


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
class Ranking:
    """Answers to the questions of one walk, all positives of the first question, and the best rows.

    rows, scores: int64[Q, k] and float32[Q, k], ties in order of rows, -1 and -inf where there are fewer.
    """

    counts: list[RankCounts]
    every: PositiveRanks | None
    rows: IntArray
    scores: Float32Array


def rank(
    queries: AnyArray,
    gallery: Blocks,
    measure: Measure,
    questions: Sequence[Question],
    *,
    dropped: BoolArray | None = None,
    k: int = 0,
    every: bool = False,
) -> Ranking:
    """Answer all questions about queries [Q, D] or [Q, R, D] in one walk over the gallery's blocks.

    `dropped` (bool[N]) are junk: taken out of the ranking for everybody. `every` asks where all positives of the
    first question stand, not only the best. The k best rows are kept.
    """
    count = len(queries)
    kept = [_without(question, dropped) for question in questions]
    query, tile = _all_pairs([truth for one in kept for truth in (one.positives, one.ignored)])
    first = pair_scores(queries, gallery, measure, query, tile)
    asked = [_Asked(one, count, (query, tile, first), measure.tie) for one in kept]
    each = _EveryPositive(kept[0], (query, tile, first), measure.tie) if every else None
    edges = [one.edges for one in asked] + ([each.edges] if each else [])
    found = walk(
        queries,
        gallery,
        measure,
        edges=Edges(
            np.concatenate([one.query for one in edges]) if edges else np.empty(0, np.int64),
            np.concatenate([one.value for one in edges]) if edges else np.empty(0, np.float32),
        ),
        pairs=(query, tile),
        dropped=dropped,
        k=k,
    )
    above = np.split(found.above, np.cumsum([len(one.query) for one in edges])[:-1]) if edges else []
    gone = 0 if dropped is None else int(dropped.sum())
    counts = [
        one.answer(part, found.pair_scores, found.gallery, gone)
        for one, part in zip(asked, above, strict=False)
    ]
    ranks = each.answer(above[-1], found.pair_scores, count) if each else None
    return Ranking(counts, ranks, found.rows, found.scores)


def score_ranks(scores: Float32Array, right: IntArray) -> RankCounts:
    """Ranks from scores float32[Q, N] that are in memory: query q has the one right item `right[q]`, int64[Q].

    Scores tie only when they are equal.
    """
    best = scores[np.arange(len(scores)), right][:, None]
    better, level = (scores > best).sum(axis=1), (scores == best).sum(axis=1)
    return RankCounts(better, level - 1, np.ones(len(scores), np.int64), scores.shape[1])


def float_ranks(queries: AnyArray, gallery: Blocks, truth: Truth) -> RankCounts:
    """Ranks by cosine of embeddings, all of length 1: gallery blocks float[n, D], queries float32[Q, D].

    Queries float32[Q, R, D] have R candidates each, of which the best counts for every tile.
    """
    return rank(queries, gallery, Cosine(), [Question(truth)]).counts[0]


def hamming_ranks(
    queries: npt.NDArray[np.uint8], gallery: Blocks, truth: Truth, *, bits: int | None = None
) -> RankCounts:
    """Ranks by Hamming distance: blocks uint8[n, B], codes uint8[Q, B] or [Q, R, B] with R candidates each.

    `bits` compares that many first bits only; `InputError` unless it is a multiple of 8 that the codes have.
    """
    return rank(queries, gallery, Hamming(queries.shape[-1], bits), [Question(truth)]).counts[0]


Pairs = tuple[IntArray, IntArray, Float32Array]  # query, tile (ascending), score: of all questions together


def _without(question: Question, dropped: BoolArray | None) -> Question:
    """The question without junk, and without positives that are ignored."""
    positives, ignored = question.positives, question.ignored
    if dropped is not None:
        positives, ignored = (
            Truth(one.query[keep], one.tile[keep])
            for one, keep in ((one, ~dropped[one.tile]) for one in (positives, ignored))
        )
    if len(ignored.query):
        keep = ~np.isin(_keys(positives.query, positives.tile), _keys(ignored.query, ignored.tile))
        positives = Truth(positives.query[keep], positives.tile[keep])
    return Question(positives, ignored)


def _keys(query: IntArray, tile: IntArray) -> IntArray:
    """One number a pair, ascending with (tile, query)."""
    return np.asarray((tile << 32) | query, dtype=np.int64)


def _all_pairs(truths: Sequence[Truth]) -> tuple[IntArray, IntArray]:
    keys = np.unique(
        np.concatenate([_keys(one.query, one.tile) for one in truths] or [np.empty(0, np.int64)])
    )
    return keys & 0xFFFFFFFF, keys >> 32


def _places(truth: Truth, pairs: Pairs) -> IntArray:
    """Where a question's pairs are among all."""
    return np.searchsorted(_keys(pairs[0], pairs[1]), np.unique(_keys(truth.query, truth.tile)))


def _ties(value: Float32Array, tie: float) -> tuple[Float32Array, Float32Array]:
    """(edge above which a score is better, edge above which it is at least equal)."""
    upper = value + np.float32(tie)
    lower = np.nextafter(value - np.float32(tie), np.float32(-np.inf), dtype=np.float32)
    return upper.astype(np.float32), lower


class _Asked:
    """A question on its way through a walk."""

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
        self.edges = Edges(np.concatenate([every, every]), np.concatenate([self._upper, self._lower]))

    def answer(self, above: IntArray, seen: Float32Array, gallery: int, dropped: int) -> RankCounts:
        better, at_least = above[: self._queries].copy(), above[self._queries :].copy()
        query, value = self._query[self._aside], seen[self._aside]
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
    """All positives of a question on their way through a walk."""

    def __init__(self, question: Question, pairs: Pairs, tie: float) -> None:
        places = _places(question.positives, pairs)
        order = np.lexsort((-pairs[2][places], pairs[0][places]))
        self._right = places[order]
        self._aside = np.concatenate([places, _places(question.ignored, pairs)])
        self._query = pairs[0]
        self._score = pairs[2][self._right]
        self._upper, self._lower = _ties(self._score, tie)
        query = self._query[self._right]
        self.edges = Edges(np.concatenate([query, query]), np.concatenate([self._upper, self._lower]))

    def answer(self, above: IntArray, seen: Float32Array, queries: int) -> PositiveRanks:
        query = self._query[self._right]
        aside = np.stack([self._query[self._aside].astype(np.float64), seen[self._aside]], axis=1)
        aside = aside[np.lexsort((aside[:, 1], aside[:, 0]))]
        starts = np.searchsorted(aside[:, 0], np.arange(queries + 1))
        half = len(query)
        better = above[:half] - _above_within(aside[:, 1], starts, query, self._upper)
        at_least = above[half:] - _above_within(aside[:, 1], starts, query, self._lower)
        return PositiveRanks(query, better, at_least - better, self._score, queries)


def _above_within(values: FloatArray, starts: IntArray, query: IntArray, edge: Float32Array) -> IntArray:
    """How many of its query's values (ascending between starts) lie above each edge, int64[P]."""
    out = np.empty(len(query), dtype=np.int64)
    bounds = np.append(np.searchsorted(query, np.unique(query)), len(query))
    for first, last in itertools.pairwise(bounds):
        low, high = starts[query[first]], starts[query[first] + 1]
        own = values[low:high]
        out[first:last] = len(own) - np.searchsorted(own, edge[first:last], side="right")
    return out
