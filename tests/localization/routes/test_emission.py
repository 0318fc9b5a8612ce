from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from geoloc.core.errors import InputError
from geoloc.localization.routes.emission import EmissionModel, evidence_of_logs, fit_emission


def photos(
    seed: int, count: int = 400, places: int = 60, temperature: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities, and places drawn with the probabilities of the formula without outliers."""
    rng = np.random.default_rng(seed)
    similarity = rng.normal(0, 1, (count, places))
    share = np.exp(similarity / temperature)
    share /= share.sum(axis=1, keepdims=True)
    return similarity, np.array([rng.choice(places, p=row) for row in share])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_fit_finds_the_temperature_that_the_places_were_drawn_with(scale: float) -> None:
    similarity, truth = photos(0)
    model = fit_emission(scale * similarity, truth)
    assert model.temperature / scale == pytest.approx(0.5, rel=0.25)
    assert model.outlier < 0.15


def test_the_fit_finds_how_many_photos_say_nothing() -> None:
    similarity, truth = photos(1)
    rng = np.random.default_rng(2)
    lost = rng.random(len(truth)) < 0.4
    truth = np.where(lost, rng.integers(0, 60, len(truth)), truth)
    assert fit_emission(similarity, truth).outlier == pytest.approx(0.4, abs=0.12)


def test_evidence_is_the_formula_and_places_that_were_not_compared_have_the_floor() -> None:
    model = EmissionModel(temperature=2.0, outlier=0.1)
    said = model.evidence(np.array([3.0, 1.0]), np.array([4, 2]), count=10)
    share = np.exp(np.array([1.5, 0.5])) / np.exp(np.array([1.5, 0.5])).sum()
    expected = np.log(np.full(10, 0.1))
    expected[[4, 2]] = np.log(0.9 * 10 * share + 0.1)
    everywhere = np.arange(10)
    assert np.log(said.at(everywhere)) == pytest.approx(expected)
    assert said.at(everywhere).mean() == pytest.approx(1.0)
    half = model.model_copy(update={"weight": 0.5}).evidence(np.array([3.0, 1.0]), np.array([4, 2]), count=10)
    assert np.log(half.at(everywhere)) == pytest.approx(0.5 * expected)
    assert model.evidence(np.zeros(0), count=3).at(everywhere[:3]).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("scale", "outlier"), [(1.0, 0.1), (30.0, 0.05), (300.0, 1e-6), (300.0, 0.0)])
def test_evidence_of_all_places_is_the_softmax_however_peaked_it_is(scale: float, outlier: float) -> None:
    similarity = scale * np.random.default_rng(7).normal(0, 1, 500)
    said = EmissionModel(temperature=0.7, outlier=outlier, weight=0.8).evidence(similarity)
    share = softmax(similarity / 0.7)
    expected = ((1 - outlier) * 500 * share + outlier) ** 0.8
    assert said.at(np.arange(500)) == pytest.approx(expected, rel=1e-9, abs=1e-290)


def test_log_likelihoods_are_taken_as_they_are_up_to_a_factor() -> None:
    said = evidence_of_logs(np.array([1, 4]), np.array([-900.0, -902.0]), -905.0, -901.0)
    assert np.log(said.at(np.array([4, 0, 1])) / said.outside) == pytest.approx([-1, -4, 1])


def test_photos_from_elsewhere_speak_for_being_off_the_map() -> None:
    similarity, truth = photos(3)
    similarity[np.arange(len(truth)), truth] += 3.0
    elsewhere = np.random.default_rng(4).normal(0, 1, (300, 60)).max(axis=1)
    model = fit_emission(similarity, truth, without_truth=elsewhere)
    assert (
        model.evidence(np.r_[2.0, np.zeros(59)]).outside
        > 1
        > model.evidence(np.r_[7.0, np.zeros(59)]).outside
    )
    assert fit_emission(similarity, truth).evidence(np.zeros(60)).outside == 1.0


def test_few_photos_are_refused() -> None:
    with pytest.raises(InputError, match="3 photos of known place fit no emission model; give 20"):
        fit_emission(np.zeros((3, 4)), np.zeros(3, np.int64))
