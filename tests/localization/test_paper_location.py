"""The released code's location, step by step, and dominant sets against an independent solver."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from geoloc.core.errors import InputError
from geoloc.localization.cluster import dominant_set
from geoloc.localization.paper_location import (
    PaperSettings,
    in_place_dominant_set,
    locate_as_paper,
    paper_degrees,
    within_tolerance,
)


def by_the_recipe(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The steps of the paper's code in plain Python, one query."""
    n = len(points)
    a = [[np.exp(-(((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) ** 0.5)) for q in points] for p in points]
    x = [1 / n] * n
    for _ in range(50):
        for j in range(n):
            payoff = sum(a[j][k] * x[k] for k in range(n))
            x[j] *= payoff / sum(x[i] * a[i][k] * x[k] for i in range(n) for k in range(n))
    kept = [p for p, weight in zip(points, x, strict=True) if weight >= 0.1]
    return sum(p[0] for p in kept) / len(kept), sum(p[1] for p in kept) / len(kept)


def test_a_location_is_that_of_the_steps_written_out() -> None:
    rng = np.random.default_rng(0)
    lat, lon = rng.normal(54.9, 2.0, (6, 7)), rng.normal(111.0, 2.0, (6, 7))
    found = locate_as_paper(lat, lon)
    for row in range(6):
        expected = by_the_recipe(list(zip(lat[row, :5], lon[row, :5], strict=True)))
        assert (found.lat[row], found.lon[row]) == pytest.approx(expected, abs=1e-9)


def test_updates_are_in_place_and_do_not_keep_the_sum() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(0, 2, (1, 5, 2))
    affinity = np.exp(-np.linalg.norm(points[:, :, None] - points[:, None], axis=-1))
    x = in_place_dominant_set(affinity, 1)[0]
    payoff = affinity[0] @ np.full(5, 0.2)
    assert x[0] == pytest.approx(0.2 * payoff[0] / (0.2 * payoff.sum()))
    together = 0.2 * payoff / (0.2 * payoff.sum())
    assert not np.allclose(x[1:], together[1:])
    assert abs(x.sum() - 1) > 1e-6


def test_equal_points_share_and_the_far_one_of_five_is_dropped() -> None:
    lat = np.array([[0.0, 0.0, 0.0, 0.0, 9.0]])
    found = locate_as_paper(lat, np.zeros((1, 5)))
    assert found.lat[0] == pytest.approx(0.0)
    assert found.membership[0, 4] < 0.1
    everything = locate_as_paper(lat, np.zeros((1, 5)), PaperSettings(threshold=0.0))
    assert everything.lat[0] == pytest.approx(9 / 5)
    assert np.isnan(locate_as_paper(lat, np.zeros((1, 5)), PaperSettings(threshold=2.0)).lat[0])


def test_the_zone_is_the_wrong_one_as_published() -> None:
    lat, lon = paper_degrees(np.array([693_000.0]), np.array([6_090_000.0]))
    # Canberra in zone 55 south, read in zone 49 north.
    assert lat[0] == pytest.approx(54.9, abs=0.1)
    assert lon[0] == pytest.approx(114.0, abs=0.1)


def test_the_tolerance_is_in_degrees_of_both_axes_alike_and_nan_is_a_miss() -> None:
    at = np.zeros(4)
    inside = within_tolerance(
        np.array([0.018, 0.0, 0.0128, np.nan]), np.array([0, 0.01801, 0.0128, 0]), at, at
    )
    assert inside.tolist() == [True, False, False, False]


def test_matches_that_are_too_few_or_without_coordinates_are_refused() -> None:
    with pytest.raises(InputError, match="needs 5 matches"):
        locate_as_paper(np.zeros((1, 4)), np.zeros((1, 4)))
    with pytest.raises(InputError, match="coordinates of every match"):
        locate_as_paper(np.full((1, 5), np.nan), np.zeros((1, 5)))


@pytest.mark.parametrize("seed", range(4))
def test_a_dominant_set_is_a_local_maximum_that_an_independent_solver_cannot_leave(seed: int) -> None:
    rng = np.random.default_rng(seed)
    east, north = rng.normal(0, 20, (1, 6)), rng.normal(0, 20, (1, 6))
    weights = rng.dirichlet(np.ones(6))[None]
    x = dominant_set(east, north, weights, 30.0, iterations=20_000)[0]
    distance = np.hypot(east.T - east, north.T - north)
    a = np.exp(-distance / 30.0) * np.sqrt(weights.T * weights)
    a[distance > 60] = 0
    np.fill_diagonal(a, 0)
    solved = minimize(
        lambda z: -z @ a @ z,
        x,
        jac=lambda z: -2 * a @ z,
        bounds=[(0, 1)] * 6,
        constraints={"type": "eq", "fun": lambda z: z.sum() - 1, "jac": lambda z: np.ones(6)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.success
    assert -solved.fun == pytest.approx(x @ a @ x, rel=1e-4)
    np.testing.assert_allclose(solved.x, x, atol=5e-3)
