"""Worthless figures are refused or said out loud, each in its own sentence."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from geoloc.core.errors import InputError
from geoloc.evaluation.protocol import sanity_checks


def unit(rows: int = 5, dim: int = 4) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_honest_embeddings_pass():
    sanity_checks.check_embeddings([unit(3), unit(2)], "tiles")
    sanity_checks.check_embeddings([unit().astype(np.float16)], "tiles")
    sanity_checks.check_embeddings([unit(1), unit(0)], "one tile")


@pytest.mark.parametrize(
    ("spoil", "reason", "sentence"),
    [
        (
            lambda e: np.where(np.arange(4) == 1, np.nan, e),
            "embedding_not_finite",
            "5 of 8 embeddings of tiles hold NaN or infinity; the model is broken: train again",
        ),
        (lambda e: np.where(e == e[2, 1], np.inf, e), "embedding_not_finite", "1 of 8 embeddings"),
        (
            lambda e: 2 * e,
            "embedding_not_normalised",
            "lengths from 1 to 2 instead of 1; encode again",
        ),
        (lambda e: np.zeros_like(e), "embedding_not_normalised", "lengths from 0 to 1 instead of 1"),
    ],
)
def test_broken_embeddings_are_refused_wherever_they_are(spoil, reason, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        sanity_checks.check_embeddings([unit(3), spoil(unit())], "tiles")
    assert caught.value.reason == reason


def test_a_collapsed_model_is_refused_though_its_blocks_are_many():
    same = np.repeat(unit(1), 5, axis=0)
    with pytest.raises(InputError, match="All 10 embeddings of tiles are the same; the model has collapsed"):
        sanity_checks.check_embeddings([same, same], "tiles")


def test_ids_that_repeat_are_refused():
    sanity_checks.check_ids(pa.array(["a", "b"]), "photos")
    with pytest.raises(InputError, match=r"1 ids of photos appear more than once \(such as 'b', 2 times\)"):
        sanity_checks.check_ids(pa.array(["b", "a", "b"], pa.large_string()), "photos")


def test_sides_without_a_common_label_are_refused():
    sanity_checks.check_common(1, 5, "tiles")
    sanity_checks.check_common(0, 0, "tiles")
    with pytest.raises(InputError, match="None of 5 queries has a right answer among the gallery's tiles"):
        sanity_checks.check_common(0, 5, "tiles")


def test_a_precision_below_recall_cannot_be():
    sanity_checks.check_precision(90.0, 90.0, "floats")
    with pytest.raises(InputError, match=r"AP 58\.00 is below R@1 60\.00 for floats"):
        sanity_checks.check_precision(58.0, 60.0, "floats")


def test_chance_level_is_said():
    assert sanity_checks.no_better_than_chance(50.0, 1.0, 200, "floats") == []
    (sentence,) = sanity_checks.no_better_than_chance(1.5, 1.0, 200, "floats")
    assert sentence.startswith(
        "R@1 of floats is 1.50 %, no better than chance (1.00 %): the model does not know"
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.floats(0, 100), st.floats(0.01, 90))
def test_chance_is_a_binomial_test(queries, recall, chance):
    hits = round(recall / 100 * queries)
    said = sanity_checks.no_better_than_chance(recall, chance, queries, "floats")
    assert bool(said) == (binomtest(hits, queries, chance / 100, alternative="greater").pvalue > 0.00135)


def test_queries_without_a_right_tile_are_counted():
    assert sanity_checks.without_match(0, 200) == []
    assert (
        "3 of 200 queries have no true tile in the index; they count as misses"
        in sanity_checks.without_match(3, 200)[0]
    )


def test_other_sizes_than_the_published_ones_are_said():
    assert sanity_checks.not_comparable(8884, 8884, (8884, 8884), "cvusa") == []
    assert sanity_checks.not_comparable(3, 4, (None, None), "tiles") == []
    (sentence,) = sanity_checks.not_comparable(8884, 100, (8884, 8884), "cvusa")
    assert sentence == "Not comparable with published figures of cvusa: 100 gallery items instead of 8,884."


def test_codes_that_are_all_alike_are_said():
    same, other = np.zeros((3, 2), np.uint8), np.ones((1, 2), np.uint8)
    assert sanity_checks.constant_codes([same, other], "tiles") == []
    assert sanity_checks.constant_codes([same[:1]], "tiles") == []
    assert "All 6 hash codes of tiles are the same" in sanity_checks.constant_codes([same, same], "tiles")[0]


def test_photos_at_the_best_of_many_headings_are_said():
    assert sanity_checks.turned_photos(0, 9, 1, "cvusa") == []
    (sentence,) = sanity_checks.turned_photos(4, 9, 32, "cvusa")
    assert sentence.startswith(
        "4 of 9 photos have no heading and were compared at the best of 32 headings: published"
    )


def test_several_right_items_where_there_should_be_one_are_said():
    assert sanity_checks.several_matches(0, 9, "cvusa") == []
    (sentence,) = sanity_checks.several_matches(2, 9, "cvusa")
    assert sentence.startswith("2 of 9 queries have more than one right item, and cvusa knows one a query")
