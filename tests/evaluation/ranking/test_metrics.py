"""Recall under ties, the rules of "1 %", chance and error summaries."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core.errors import InputError
from geoloc.evaluation.ranking.metrics import (
    error_summary,
    hit_probability,
    recall,
    recall_table,
    top_percent_k,
)
from geoloc.evaluation.ranking.ranks import RankCounts, chance_counts


def counts(better, tied, positives, gallery=100) -> RankCounts:
    return RankCounts(np.array(better), np.array(tied), np.array(positives), gallery)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 3), st.integers(0, 4), st.integers(1, 3), st.integers(1, 8))
def test_expected_hits_are_the_mean_over_all_orders_of_the_ties(better, tied, positives, k):
    orders = list(itertools.permutations([True] * positives + [False] * tied))
    hits = [any(order[: max(0, k - better)]) for order in orders]
    found = hit_probability(counts([better], [tied], [positives]), k)[0]
    assert found == pytest.approx(np.mean(hits), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9), st.integers(1, 60))
def test_pessimistic_is_below_expected_is_below_optimistic(better, tied, positives, k):
    one = counts([better], [tied], [positives])
    low, middle, high = (
        hit_probability(one, k, ties)[0] for ties in ("pessimistic", "expected", "optimistic")
    )
    assert low - 1e-9 <= middle <= high + 1e-9


def test_a_constant_code_is_worth_chance_and_not_a_hundred_percent():
    one = counts([0], [99], [1])
    assert recall(one, 1, "optimistic") == 1.0
    assert recall(one, 1) == pytest.approx(0.01)
    assert recall_table(chance_counts(np.array([1]), 100), [1])["R@1"] == pytest.approx(1.0)


def test_queries_without_a_positive_are_misses():
    assert recall(counts([100, 0], [0, 0], [0, 1]), 1) == 0.5
    assert recall(counts([], [], []), 1) == 0.0


@pytest.mark.parametrize(
    ("rule", "gallery", "k"),
    [
        ("int_plus_one", 8884, 89),
        ("floor", 8884, 88),
        ("round_plus_one", 951, 11),
        ("floor", 50, 1),
        ("int_plus_one", 1000, 11),
    ],
)
def test_every_rule_of_one_percent(rule, gallery, k):
    assert top_percent_k(gallery, rule) == k


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="is not one of int_plus_one"):
        top_percent_k(100, "most")


def test_tables_name_their_measures():
    table = recall_table(counts([0, 4, 60], [0, 0, 0], [1, 1, 1], 1000), [1, 5])
    assert table == {
        "R@1": pytest.approx(100 / 3),
        "R@5": pytest.approx(200 / 3),
        "R@1%": pytest.approx(200 / 3),
    }


def test_errors_count_what_was_not_located_as_infinitely_far():
    summary = error_summary(np.array([1.0, 2.0, 30.0, np.nan]))
    assert summary["queries"] == 4
    assert summary["located"] == 3
    assert summary["median_m"] == 2.0
    assert summary["p90_m"] is None
    assert summary["within_5m"] == 50.0
    assert error_summary(np.empty(0))["median_m"] is None
