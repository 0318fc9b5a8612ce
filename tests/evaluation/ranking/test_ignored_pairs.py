"""Pairs that are neither right nor wrong, and items that are taken out, against plain loops over sets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.evaluation.ranking.blockwise_scores import Hamming
from geoloc.evaluation.ranking.ranks import Question, RankCounts, TruthTable, rank
from geoloc.evaluation.ranking.shortlist import shortlist_ranks

QUERIES, ITEMS = 5, 24


def pairs(rng: np.random.Generator, count: int) -> TruthTable:
    drawn = sorted({(int(rng.integers(QUERIES)), int(rng.integers(ITEMS))) for _ in range(count)})
    query, tile = zip(*drawn, strict=True) if drawn else ((), ())
    return TruthTable(np.array(query, np.int64), np.array(tile, np.int64))


@dataclass
class Case:
    """Codes with many ties, and a question about them."""

    codes: np.ndarray
    gallery: np.ndarray
    question: Question
    dropped: np.ndarray

    @classmethod
    def drawn(cls, seed: int) -> Case:
        rng = np.random.default_rng(seed)
        codes, gallery = (rng.integers(0, 4, (count, 2), dtype=np.uint8) for count in (QUERIES, ITEMS))
        question = Question(pairs(rng, 9), pairs(rng, int(rng.integers(0, 30))))
        return cls(codes, gallery, question, rng.random(ITEMS) < 0.2)

    def distance(self, query: int, item: int) -> int:
        return int(np.bitwise_count(self.codes[query] ^ self.gallery[item]).sum())

    def sets(self, query: int, *, there: set[int]) -> tuple[set[int], set[int]]:
        """(right, wrong) items of a query among those that are there."""
        right, aside = (
            set(truth.tile[truth.query == query].tolist())
            for truth in (self.question.positives, self.question.ignored)
        )
        return (right - aside) & there, there - right - aside


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_ignored_and_dropped_items_do_not_count(seed: int) -> None:
    case = Case.drawn(seed)
    blocks = np.split(case.gallery, [7, 7, 20])
    found = rank(
        case.codes, lambda: blocks, Hamming(2), [case.question], dropped=case.dropped, k=4, all_positives=True
    )
    there = set(np.flatnonzero(~case.dropped).tolist())
    every: list[tuple[int, int, int, int]] = []
    for query in range(QUERIES):
        right, wrong = case.sets(query, there=there)
        away = {item: case.distance(query, item) for item in range(ITEMS)}
        counts = (
            found.counts[0].better[query],
            found.counts[0].tied[query],
            found.counts[0].positives[query],
        )
        if right:
            best = min(away[item] for item in right)
            assert counts == (
                sum(away[item] < best for item in wrong),
                sum(away[item] == best for item in wrong),
                sum(away[item] == best for item in right),
            )
        else:
            assert counts == (len(there), 0, 0)
        for own in sorted(away[item] for item in right):
            better = sum(away[item] < own for item in wrong)
            tied = sum(away[item] == own for item in wrong)
            every.append((query, better, tied, -own))
        nearest = sorted(there, key=lambda item: (away[item], item))[:4]
        assert found.rows[query].tolist() == nearest
    assert found.positives is not None
    ranks = found.positives
    assert (
        list(
            zip(
                *(part.tolist() for part in (ranks.query, ranks.better, ranks.tied, ranks.score)), strict=True
            )
        )
        == every
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, ITEMS))
def test_a_shortlist_in_another_order_counts_right_and_wrong_items_alone(seed: int, keep: int) -> None:
    case = Case.drawn(seed)
    rng = np.random.default_rng([seed, keep])
    by_codes = rank(case.codes, lambda: [case.gallery], Hamming(2), [case.question])
    rows = np.array([
        sorted(range(ITEMS), key=lambda item: (case.distance(query, item), item))[:keep]
        for query in range(QUERIES)
    ])  # fmt: skip
    rows = np.concatenate([rows, np.full((QUERIES, 2), -1)], axis=1)
    similarity = np.where(rows >= 0, rng.integers(0, 4, rows.shape) / 4, np.nan).astype(np.float32)
    counts = by_codes.counts[0]
    found = shortlist_ranks(rows, similarity, case.question, counts)
    for query in range(QUERIES):
        score = {
            int(row): float(own) for row, own in zip(rows[query], similarity[query], strict=True) if row >= 0
        }
        right, wrong = case.sets(query, there=set(score))
        got = (found.better[query], found.tied[query], found.positives[query])
        if right:
            best = max(score[item] for item in right)
            assert got == (
                sum(score[item] > best for item in wrong),
                sum(score[item] == best for item in wrong),
                sum(score[item] == best for item in right),
            )
        else:  # behind the shortlist, where it stood by its codes
            behind, size = int(counts.better[query]), len(wrong)
            assert got == (
                max(behind, size),
                0 if behind < size else counts.tied[query],
                counts.positives[query],
            )


@pytest.mark.parametrize(("better", "tied", "want"), [(1, 2, (2, 0)), (2, 2, (2, 2)), (3, 1, (3, 1))])
def test_ties_at_the_end_of_a_shortlist_are_broken_by_it(
    better: int, tied: int, want: tuple[int, int]
) -> None:
    """Two wrong items are listed, the right one is not: those of its ties that are listed stand above it."""
    by_codes = RankCounts(np.array([better]), np.array([tied]), np.array([1]), 9)
    question = Question(TruthTable(np.array([0]), np.array([8])))
    found = shortlist_ranks(np.array([[0, 1]]), np.array([[0.5, 0.2]], np.float32), question, by_codes)
    assert (found.better[0], found.tied[0], found.positives[0]) == (*want, 1)
