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
    query_kind,
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
    name = query_kind("panorama", True)
    saved = Calibration(snapshot_id="a" * 32, rerank=100, query_kinds={name: fit})
    save_calibration(uri, saved)
    loaded = load_calibration(uri, "a" * 32)
    assert loaded == saved
    features, _ = results(50, 3)
    np.testing.assert_array_equal(loaded.query_kinds[name].apply(features), fit.apply(features))
    assert load_calibration(uri, "b" * 32) is None


def test_a_broken_or_foreign_file_is_named(tmp_path):
    uri = str(tmp_path)
    saved = save_calibration(uri, Calibration(snapshot_id="a" * 32, rerank=1, query_kinds={}))
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


def of_equal_scores(error_m: np.ndarray):
    """The fit where all features are alike: every query has the same score."""
    features = np.zeros((len(error_m), len(FEATURES)))
    return fit_calibration(features, error_m, settings=SETTINGS, radius_limit_m=1e6)


@pytest.mark.parametrize(
    ("size", "rank"), [(20, 19), (21, 20), (25, 24), (26, 25), (29, 27), (30, 28), (39, 36)]
)
def test_the_radius_is_the_conformal_order_statistic(size, rank):
    """Of n errors the one of rank ceil(0.9 (n + 1)), in integers: 9 (n + 1) / 10 rounded up."""
    count = 12  # groups, as many as there are at most
    assert rank == -(-9 * (size + 1) // 10)
    fit = of_equal_scores(np.tile(np.arange(10.0, 10.0 + size), count))
    np.testing.assert_allclose(fit.radius_m, 9.0 + rank, rtol=1e-9)


@pytest.mark.parametrize("size", [20, 25, 29])
def test_the_radius_holds_a_new_draw_nine_times_in_ten(size):
    """Of n + 1 exchangeable errors each is the new one once: at least 90 % lie within the radius of the others."""
    errors = np.sort(np.random.default_rng(size).uniform(5.0, 900.0, size + 1))
    held = 0
    for new in range(size + 1):
        fit = of_equal_scores(np.tile(np.delete(errors, new), 12))
        held += errors[new] <= fit.radius_m[0] * (1 + 1e-9)
    assert held == -(-9 * (size + 1) // 10)


@pytest.mark.parametrize(("queries", "groups"), [(60, 3), (79, 3), (80, 4), (239, 11), (240, 12), (1000, 12)])
def test_a_group_has_at_least_twenty_queries(queries, groups):
    assert len(of_equal_scores(np.full(queries, 50.0)).score_knots) == groups


def test_radii_stay_within_their_limits_and_no_group_is_never_or_always_right():
    features = np.zeros((MIN_QUERIES, len(FEATURES)))
    small, large = (
        fit_calibration(features, np.full(MIN_QUERIES, error), settings=SETTINGS, radius_limit_m=100.0)
        for error in (0.1, 101.0)
    )
    np.testing.assert_allclose(small.radius_m, 2.0)
    np.testing.assert_allclose(large.radius_m, 100.0)
    np.testing.assert_allclose(small.confidence, 21 / 22)  # 20 of 20, one success and one failure more
    np.testing.assert_allclose(large.confidence, 1 / 22)


def test_the_stored_file_calls_query_kinds_protocols(tmp_path):
    """Files of earlier releases stay readable, and new files are readable by them."""
    save_calibration(str(tmp_path), Calibration(snapshot_id="a" * 32, rerank=1, query_kinds={"x": fitted()}))
    stored = json.loads((tmp_path / "calibration" / f"{'a' * 32}.json").read_text())
    assert set(stored["protocols"]) == {"x"}
    assert "query_kinds" not in stored


def test_settings_at_the_tolerance_count_as_equal():
    settings = [ClusterSettings(sigma_m=sigma) for sigma in (1.0, 2.0)]
    assert choose_settings(settings, [np.array([5.0]), np.array([4.0])], tolerance=0.25) is settings[0]
    assert choose_settings(settings, [np.array([5.1]), np.array([4.0])], tolerance=0.25) is settings[1]
