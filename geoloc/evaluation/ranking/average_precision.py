"""Average precision of a ranking with several right answers, exact under ties."""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.evaluation.ranking.metrics import Ties
from geoloc.evaluation.ranking.ranks import PositiveRanks


def average_precision(ranks: PositiveRanks, ties: Ties = "expected", *, tie: float = 0.0) -> FloatArray:
    """Trapezoidal average precision float64[Q] of each query; 0 for a query without a positive.

    University-1652's definition (evaluate_gpu.py): for the i-th of m positives at row r, both counted from 0,
    half the sum of the precision with it, (i + 1) / (r + 1), and of that just before it, i / r (1 where r is 0);
    the mean of these over the m positives. It is not the step-wise average precision of scikit-learn.

    `expected` is the exact mean over all orders of tied items, the others put positives first or last among
    them. Positives whose scores differ by `tie` at most are level.
    """
    start, wrong, right, before = _groups(ranks, tie)
    if ties == "expected":
        total = _expected(start, wrong, right, before)
    else:
        total = _fixed(start + (wrong if ties == "pessimistic" else 0), right, before)
    query = ranks.query[_leaders(ranks, tie)] if len(ranks.query) else ranks.query
    found = np.bincount(query, weights=total, minlength=ranks.queries)
    return np.asarray(found / np.maximum(np.bincount(ranks.query, minlength=ranks.queries), 1))


def _leaders(ranks: PositiveRanks, tie: float) -> IntArray:
    """Positions of the first positive of each group of level ones."""
    leaders: list[int] = []
    query, score = ranks.query.tolist(), ranks.score.tolist()
    for place in range(len(query)):
        same = leaders and query[leaders[-1]] == query[place] and score[leaders[-1]] - score[place] <= tie
        if not same:
            leaders.append(place)
    return np.array(leaders, dtype=np.int64)


def _groups(ranks: PositiveRanks, tie: float) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Of each group of level positives: items before it, wrong ones in it, positives in it, positives before it."""
    leaders = _leaders(ranks, tie)
    right = np.diff(np.append(leaders, len(ranks.query)))
    first_of_query = np.searchsorted(ranks.query, ranks.query[leaders])
    before = leaders - first_of_query
    return ranks.better[leaders] + before, ranks.tied[leaders], right, before


def _fixed(start: IntArray, right: IntArray, before: IntArray) -> FloatArray:
    """Sums of the terms of groups whose positives stand one after the other from row `start` on, float64[G]."""
    group = np.repeat(np.arange(len(start)), right)
    place = np.arange(len(group)) - np.repeat(np.cumsum(right) - right, right)
    row, earlier = start[group] + place, before[group] + place
    with_it = (earlier + 1) / (row + 1)
    without_it = np.where(row > 0, earlier / np.maximum(row, 1), 1.0)
    return np.bincount(group, weights=(with_it + without_it) / 2, minlength=len(start)).astype(np.float64)


def _expected(start: IntArray, wrong: IntArray, right: IntArray, before: IntArray) -> FloatArray:
    """Means of the same sums when each group's n = right + wrong items stand in random order, float64[G].

    The item at place p of a group is right with probability right / n, and then has on average
    p * (right - 1) / (n - 1) of the group's positives before it; both halves of a term are linear in that
    number, so the sums over p are harmonic numbers.
    """
    count = (right + wrong).astype(np.float64)
    slope = np.where(count > 1, (right - 1) / np.maximum(count - 1, 1), 0.0)
    s, c = start.astype(np.float64), before.astype(np.float64)
    with_it = slope * count + (c + 1 - slope * (s + 1)) * _harmonic(s + 1, count)
    top = s == 0  # the very first row has no precision before it: it counts as 1
    tail = slope * (count - top) + (c - slope * s) * _harmonic(s + top, count - top)
    return np.asarray(right / count * (with_it + tail + top) / 2, dtype=np.float64)


def _harmonic(first: FloatArray, count: FloatArray) -> FloatArray:
    """1 / first + 1 / (first + 1) + ... of `count` terms."""
    return np.asarray(digamma(first + count) - digamma(first), dtype=np.float64)
