"""Radius and confidence: monotone, held on queries never seen, stored without surprises."""

import json

import numpy as np
import pytest

from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.localization.calibration import (
    MIN_QUERIES,
    Calibration,
    NotEnoughQueries,
    calibration_uri,
    choose_settings,
    fit_calibration,
    load_calibration,
    protocol_name,
    save_calibration,
)
from geoloc.localization.cluster import FEATURES, ClusterSettings

SETTINGS = ClusterSettings()


def results(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and errors of queries of which the surer ones are right more often."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0, 1, count)
    right = rng.uniform(0, 1, count) < sure**0.5
    error = np.where(right, rng.rayleigh(3.0, count), rng.uniform(100, 4000, count))
    features = rng.normal(0, 0.1, (count, len(FEATURES)))
    features[:, 1] += sure
    return features, error


def fitted(seed: int = 0, count: int = 800):
    return fit_calibration(*results(count, seed), settings=SETTINGS, radius_limit_m=100.0)


def test_confidence_matches_the_share_of_truths_inside_on_new_queries():
    fit = fitted()
    features, error = results(4000, 99)
    radius, confidence = fit.apply(features)
    inside = error <= radius
    assert inside.mean() == pytest.approx(confidence.mean(), abs=0.04)
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.01)):
        here = (confidence >= low) & (confidence < high)
        if here.sum() > 100:
            assert inside[here].mean() == pytest.approx(confidence[here].mean(), abs=0.08)


def test_radius_holds_ninety_percent_where_it_is_not_at_its_limit():
    fit = fitted(count=3000)
    features, error = results(6000, 5)
    radius, _ = fit.apply(features)
    below = radius < 99.0
    assert below.sum() > 300
    assert 0.87 <= (error <= radius)[below].mean() <= 0.97


def test_radius_falls_and_confidence_grows_with_the_score():
    fit = fitted()
    assert list(fit.score_knots) == sorted(fit.score_knots)
    assert list(fit.radius_m) == sorted(fit.radius_m, reverse=True)
    assert list(fit.confidence) == sorted(fit.confidence)
    assert max(fit.radius_m) <= 100.0
    assert min(fit.confidence) > 0.0
    assert max(fit.confidence) < 1.0


@pytest.mark.parametrize("error", [0.5, 5000.0])
def test_all_right_or_all_wrong_still_fits(error):
    features, _ = results(MIN_QUERIES, 1)
    fit = fit_calibration(features, np.full(MIN_QUERIES, error), settings=SETTINGS, radius_limit_m=100.0)
    radius, confidence = fit.apply(features)
    assert np.isfinite(radius).all()
    assert (confidence > 0.8).all() if error < 1 else (confidence < 0.2).all()


def test_too_few_queries_are_refused_with_both_numbers():
    features, error = results(MIN_QUERIES - 1, 1)
    with pytest.raises(NotEnoughQueries, match=rf"{MIN_QUERIES - 1} held-out .* needs {MIN_QUERIES}"):
        fit_calibration(features, error, settings=SETTINGS, radius_limit_m=100.0)


def test_saved_and_loaded_it_gives_the_same_numbers(tmp_path):
    uri = str(tmp_path)
    fit = fitted()
    name = protocol_name("panorama", True)
    saved = Calibration(snapshot_id="a" * 32, rerank=100, protocols={name: fit})
    save_calibration(uri, saved)
    loaded = load_calibration(uri, "a" * 32)
    assert loaded == saved
    features, _ = results(50, 3)
    np.testing.assert_array_equal(loaded.protocols[name].apply(features), fit.apply(features))
    assert load_calibration(uri, "b" * 32) is None


def test_a_broken_or_foreign_file_is_named(tmp_path):
    uri = str(tmp_path)
    saved = save_calibration(uri, Calibration(snapshot_id="a" * 32, rerank=1, protocols={}))
    content = json.loads((tmp_path / "calibration" / f"{'a' * 32}.json").read_text())
    other = tmp_path / "calibration" / f"{'b' * 32}.json"
    other.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="belongs to snapshot"):
        load_calibration(uri, "b" * 32)
    (tmp_path / "calibration" / f"{'a' * 32}.json").write_text("{}")
    assert saved == calibration_uri(uri, "a" * 32)
    with pytest.raises(CorruptArtifact, match="is not a calibration"):
        load_calibration(uri, "a" * 32)


def test_among_equal_settings_the_simplest_is_chosen():
    settings = [ClusterSettings(sigma_m=sigma) for sigma in (1.0, 2.0, 3.0)]
    errors = [np.array([5.0]), np.array([4.99]), np.array([8.0])]
    assert choose_settings(settings, errors) is settings[0]
    errors[1] = np.array([3.0])
    assert choose_settings(settings, errors) is settings[1]
