"""The promise on photos never seen: coverage, confidence, strangers; more evidence never makes an answer less sure."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.localization.calibration import KindCalibration
from geoloc.localization.calibration_fit import (
    MIN_PHOTOS,
    JudgedPlaces,
    NotEnoughQueries,
    choose_settings,
    conformal_quantile,
    fit_kind,
)
from geoloc.localization.cluster import ClusterSettings

from .judged import FIRST, judged, training

SETTINGS = ClusterSettings()


@pytest.fixture(scope="module")
def fit() -> KindCalibration:
    return fit_kind(training(), SETTINGS)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_located_photos_lie_within_their_radius_nine_times_in_ten(fit: KindCalibration, seed: int) -> None:
    new = judged(4000, seed)
    found = fit.judge(new.features, new.spacing_m)
    inside = new.error_m <= found.radius_m
    assert 0.87 <= inside[found.located].mean() <= 0.93
    assert found.located[new.error_m < 60].mean() > 0.6


def test_confidence_is_the_share_of_truths_within_the_radius(fit: KindCalibration) -> None:
    new = judged(8000, 21)
    found = fit.judge(new.features, new.spacing_m)
    inside = new.error_m <= found.radius_m
    bins = np.minimum((found.confidence * 10).astype(int), 9)
    for number in np.unique(bins):
        here = bins == number
        if here.sum() >= 200:
            assert inside[here].mean() == pytest.approx(found.confidence[here].mean(), abs=0.07)


def test_few_strangers_are_located(fit: KindCalibration) -> None:
    new = judged(4000, 31, kind="hidden")
    assert fit.judge(new.features, new.spacing_m).located.mean() <= 0.05


def test_strangers_that_look_right_raise_the_threshold(fit: KindCalibration) -> None:
    strangers = judged(400, 5, kind="other_place")
    better = JudgedPlaces(**vars(strangers) | {"features": strangers.features + FIRST})
    strict = fit_kind(JudgedPlaces.joined([training(), better]), SETTINGS)
    new = judged(4000, 32, kind="hidden")
    new_better = JudgedPlaces(**vars(new) | {"features": new.features + FIRST})
    assert strict.strangers == {"hidden": 800, "other_place": 400}
    assert strict.judge(new_better.features, new.spacing_m).located.mean() <= 0.05
    assert fit.judge(new_better.features, new.spacing_m).located.mean() > 0.05


def test_more_evidence_never_lowers_odds_or_confidence_or_widens_the_radius(fit: KindCalibration) -> None:
    ladder = np.zeros((200, len(FIRST))) + np.linspace(-5, 12, 200)[:, None]
    found = fit.judge(ladder, np.full(200, 10.0))
    assert (np.diff(found.log_odds) >= 0).all()
    assert (np.diff(found.confidence) >= 0).all()
    assert (np.diff(found.radius_m) <= 1e-9).all()
    assert not found.located[0]
    assert found.located[-1]


def test_the_radius_follows_the_spacing_of_tiles() -> None:
    """Mondrian: photos on dense and on sparse tiles each keep the promise, with radii of their own."""
    fit = fit_kind(training(1200, spacing_m=(10.0, 40.0)), SETTINGS)
    new = judged(6000, 41, spacing_m=(10.0, 40.0))
    found = fit.judge(new.features, new.spacing_m)
    inside = new.error_m <= found.radius_m
    for spacing in (10.0, 40.0):
        here = found.located & (new.spacing_m == spacing)
        assert 0.86 <= inside[here].mean() <= 0.94
    dense, sparse = (found.radius_m[new.spacing_m == spacing].mean() for spacing in (10.0, 40.0))
    assert sparse > 2 * dense


def test_few_photos_give_wider_radii_on_average_not_wrong_ones() -> None:
    new = judged(4000, 51)
    shares, radii = [], []
    for seed in range(100, 108):
        small = fit_kind(training(MIN_PHOTOS + 20, seed), SETTINGS)
        found = small.judge(new.features, new.spacing_m)
        shares.append((new.error_m <= found.radius_m)[found.located].mean())
        radii.append(float(np.median(found.radius_m[found.located])))
    large = fit_kind(training(1000, 7), SETTINGS).judge(new.features, new.spacing_m)
    assert np.mean(shares) >= 0.88
    assert np.mean(radii) >= np.median(large.radius_m[large.located])


def test_too_few_photos_are_refused_with_both_numbers() -> None:
    with pytest.raises(NotEnoughQueries, match=rf"{MIN_PHOTOS - 1} photos .* needs {MIN_PHOTOS}"):
        fit_kind(training(MIN_PHOTOS - 1), SETTINGS)


def test_a_kind_that_cannot_be_told_from_strangers_stays_uncalibrated() -> None:
    with pytest.raises(NotEnoughQueries):
        fit_kind(training(400, sure=0.0, right=0.4), SETTINGS)


def test_photos_that_are_all_right_to_the_centimetre_are_fitted() -> None:
    here = judged(100, 1, right=1.0)
    exact = JudgedPlaces(**vars(here) | {"error_m": np.zeros(100)})
    fit = fit_kind(JudgedPlaces.joined([exact, judged(100, 2, kind="hidden")]), SETTINGS)
    found = fit.judge(here.features, here.spacing_m)
    assert found.located.mean() > 0.5
    assert (found.radius_m > 0).all()


@pytest.mark.parametrize(("size", "rank"), [(9, 9), (19, 18), (20, 19), (29, 27), (30, 28), (39, 36)])
def test_the_quantile_is_the_conformal_order_statistic(size: int, rank: int) -> None:
    """Of n + 1 exchangeable values each is the new one once: at least 90 % lie within the quantile of the others."""
    assert rank == -(-9 * (size + 1) // 10)
    values = np.random.default_rng(size).permutation(np.arange(1.0, size + 1))
    assert conformal_quantile(values) == rank
    every = np.sort(np.random.default_rng(size).uniform(5.0, 900.0, size + 1))
    held = sum(every[new] <= conformal_quantile(np.delete(every, new)) for new in range(size + 1))
    assert held >= 0.9 * (size + 1)


def test_among_equal_settings_the_simplest_is_chosen() -> None:
    settings = [ClusterSettings(sigma_m=sigma) for sigma in (1.0, 2.0, 3.0)]
    errors = [np.array([5.0]), np.array([4.99]), np.array([8.0])]
    assert choose_settings(settings, errors) is settings[0]
    errors[1] = np.array([3.0])
    assert choose_settings(settings, errors) is settings[1]


def test_settings_are_chosen_by_how_many_are_right_and_by_how_near_these_are() -> None:
    settings = [ClusterSettings(sigma_m=sigma) for sigma in (1.0, 2.0)]
    sharp, blunt = np.full(100, 2.6), np.full(100, 3.0)
    sharp[60:], blunt[70:] = 500.0, 500.0  # the lower median is that of fewer right photos
    assert np.median(sharp) < np.median(blunt)
    assert choose_settings(settings, [sharp, blunt]) is settings[1]
    nearer = np.where(blunt < 100, 2.0, blunt)
    assert choose_settings(settings, [blunt, nearer]) is settings[1]
    farther = np.where(blunt > 100, 5000.0, blunt)  # a wrong place is wrong wherever it lies
    assert choose_settings(settings, [farther, blunt]) is settings[0]


def test_settings_at_the_tolerance_count_as_equal() -> None:
    settings = [ClusterSettings(sigma_m=sigma) for sigma in (1.0, 2.0)]
    assert choose_settings(settings, [np.array([5.0]), np.array([4.0])], tolerance=0.25) is settings[0]
    assert choose_settings(settings, [np.array([5.1]), np.array([4.0])], tolerance=0.25) is settings[1]
