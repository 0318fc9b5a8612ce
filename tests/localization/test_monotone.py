"""The monotone model: its odds against a plain fit, and that they never fall."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from geoloc.localization.monotone import MonotoneModel, fit_monotone


def drawn(count: int, seed: int, weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, len(weights)))
    odds = features @ np.array(weights)
    return features, rng.uniform(size=count) < 1 / (1 + np.exp(-odds))


def test_probabilities_are_those_that_drew_the_data() -> None:
    features, success = drawn(6000, 1, (2.0, 0.5))
    model = fit_monotone(features, success)
    new, _ = drawn(2000, 2, (2.0, 0.5))
    true = 1 / (1 + np.exp(-new @ np.array([2.0, 0.5])))
    assert np.abs(model.probability(new) - true).mean() < 0.03


def test_a_feature_that_speaks_against_is_left_out_not_turned_round() -> None:
    features, success = drawn(3000, 3, (1.0, -2.0))
    model = fit_monotone(features, success)
    assert model.heights[1][-1] == pytest.approx(0.0, abs=0.05)
    assert model.heights[0][-1] > 1.0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(-20, 20), st.floats(0, 20))
def test_more_of_a_feature_never_lowers_the_odds(seed: int, value: float, more: float) -> None:
    model = fit_monotone(*drawn(120, seed, (1.0, -1.0)))
    low, high = model.log_odds(np.array([[value, 0.0], [value + more, 0.0]]))
    assert high >= low


def test_weights_count_rows_and_nothing_known_counts_as_the_lowest() -> None:
    features, success = drawn(400, 5, (1.0,))
    twice = fit_monotone(np.repeat(features, 2, axis=0), np.repeat(success, 2))
    weighted = fit_monotone(features, success, np.full(400, 2.0))
    np.testing.assert_allclose(twice.log_odds(features), weighted.log_odds(features), atol=1e-3)
    lowest = twice.log_odds(np.array([[np.nan], [features.min()]]))
    assert lowest[0] == lowest[1]


def test_a_feature_without_variation_and_data_that_is_apart_still_fit() -> None:
    features = np.stack([np.ones(50), np.arange(50.0)], axis=1)
    model = fit_monotone(features, np.arange(50) >= 25)
    assert np.isfinite(model.log_odds(features)).all()
    assert model.probability(features)[-1] > 0.9 > 0.1 > model.probability(features)[0]


def test_falling_heights_are_refused() -> None:
    with pytest.raises(ValidationError, match="must not fall"):
        MonotoneModel(knots=((0.0, 1.0),), heights=((1.0, 0.0),), intercept=0.0)
    with pytest.raises(ValidationError, match="as many heights"):
        MonotoneModel(knots=((0.0, 1.0),), heights=((1.0,),), intercept=0.0)
