"""Worthless figures are refused or said out loud."""

import numpy as np
import pytest

from geoloc.errors import InputError
from geoloc.evaluation.gates import check_embeddings, no_better_than_chance, without_match
from geoloc.evaluation.leaks import check_overlap


def unit(rows: int = 5, dim: int = 4) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_honest_embeddings_pass():
    check_embeddings([unit(3), unit(2)], "tiles")


@pytest.mark.parametrize(
    ("spoil", "reason", "sentence"),
    [
        (lambda e: np.where(np.arange(4) == 1, np.nan, e), "embedding_not_finite", "5 of 5 embeddings"),
        (lambda e: 2 * e, "embedding_not_normalised", "instead of 1"),
        (lambda e: np.repeat(e[:1], 5, axis=0), "embedding_constant", "are the same"),
    ],
)
def test_broken_embeddings_are_refused(spoil, reason, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        check_embeddings([spoil(unit())], "tiles")
    assert caught.value.reason == reason


def test_training_data_is_not_evaluated():
    check_overlap({"a"}, {"b"}, "queries")
    with pytest.raises(InputError, match=r"2 of 3 queries .* trained on"):
        check_overlap({"a", "b"}, {"a", "b", "c"}, "queries")


def test_chance_level_is_said():
    assert no_better_than_chance(50.0, 1.0, 200, "floats") == []
    assert (
        "R@1 of floats is 1.50 %, no better than chance" in no_better_than_chance(1.5, 1.0, 200, "floats")[0]
    )
    assert "3 of 200 queries" in without_match(3, 200)[0]
    assert without_match(0, 200) == []
