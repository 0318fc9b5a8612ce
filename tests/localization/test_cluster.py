"""The dominant set and the position that comes of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoloc.core import geodesy
from geoloc.localization.cluster import ClusterSettings, dominant_set, find_cluster, weights_of

ORIGIN = geodesy.LatLon(-35.28, 149.13)
SETTINGS = ClusterSettings(sigma_m=30.0, temperature=0.03)


def place(
    east: list[float], north: list[float], origin: geodesy.LatLon = ORIGIN
) -> tuple[np.ndarray, np.ndarray]:
    lat, lon = geodesy.LocalFrame(origin).to_degrees(np.array([east]), np.array([north]))
    return lat, lon


def error_m(cluster, east: float, north: float, origin: geodesy.LatLon = ORIGIN) -> float:
    lat, lon = geodesy.LocalFrame(origin).to_degrees(east, north)
    return float(geodesy.distance_m(cluster.lat[0], cluster.lon[0], lat, lon))


def affinity(east, north, weights, sigma):
    distance = np.hypot(east[:, None] - east[None], north[:, None] - north[None])
    matrix = np.exp(-distance / sigma) * np.sqrt(weights[:, None] * weights[None])
    matrix[distance > 2 * sigma] = 0
    np.fill_diagonal(matrix, 0)
    return matrix


points = hnp.arrays(np.float64, (1, 8), elements=st.floats(-60, 60))


@settings(deadline=None, max_examples=50)
@given(points, points, hnp.arrays(np.float64, (1, 8), elements=st.floats(0.01, 1)))
def test_replicator_dynamics_stay_on_the_simplex_and_never_lose_cohesion(east, north, weights):
    weights = weights / weights.sum()
    matrix = affinity(east[0], north[0], weights[0], 30.0)
    before = weights[0] @ matrix @ weights[0]
    for iterations in (1, 2, 5, 20):
        x = dominant_set(east, north, weights, 30.0, iterations)[0]
        assert (x >= 0).all()
        assert x.sum() == pytest.approx(1.0) or not x.any()
        after = x @ matrix @ x
        assert after >= before - 1e-9
        before = after


@settings(deadline=None, max_examples=50)
@given(points, points, st.permutations(range(8)))
def test_the_order_of_equal_matches_does_not_move_the_position(east, north, order):
    lat, lon = place(list(east[0]), list(north[0]))
    similarity = np.full((1, 8), 0.5)
    one = find_cluster(lat, lon, similarity, SETTINGS)
    other = find_cluster(lat[:, order], lon[:, order], similarity, SETTINGS)
    # Ties between equally good clusters may fall either way; the winner then has as many tiles.
    assert one.in_cluster.sum() == other.in_cluster.sum()


def test_a_clear_best_match_is_the_position():
    lat, lon = place([0, 40, 80], [0, 0, 0])
    cluster = find_cluster(lat, lon, np.array([[0.9, 0.4, 0.4]]), SETTINGS)
    assert error_m(cluster, 0, 0) < 0.01


def test_two_equal_neighbours_are_averaged():
    lat, lon = place([0, 40, 500], [0, 0, 0])
    cluster = find_cluster(lat, lon, np.array([[0.8, 0.8, 0.3]]), SETTINGS)
    assert error_m(cluster, 20, 0) < 0.01
    assert cluster.in_cluster.tolist() == [[True, True, False]]


def test_far_tiles_do_not_support_each_other():
    lat, lon = place([0, 300], [0, 0])
    cluster = find_cluster(lat, lon, np.array([[0.80, 0.79]]), SETTINGS)
    assert error_m(cluster, 0, 0) < 0.01
    assert cluster.in_cluster.tolist() == [[True, False]]


def test_several_agreeing_tiles_outweigh_a_lone_best_match():
    lat, lon = place([2000, 0, 10, 5, -5], [0, 0, 5, -5, 5])
    cluster = find_cluster(lat, lon, np.array([[0.80, 0.79, 0.79, 0.79, 0.79]]), SETTINGS)
    assert error_m(cluster, 2.5, 1.25) < 3.0
    assert not cluster.in_cluster[0, 0]


def test_a_cluster_lighter_than_the_best_match_loses():
    lat, lon = place([2000, 0, 10], [0, 0, 0])
    cluster = find_cluster(lat, lon, np.array([[0.80, 0.70, 0.70]]), SETTINGS)
    assert cluster.in_cluster.tolist() == [[True, False, False]]


@pytest.mark.parametrize("origin", [geodesy.LatLon(10.0, 180.0), geodesy.LatLon(-89.9995, 20.0)])
def test_clusters_across_the_antimeridian_and_near_the_pole(origin):
    lat, lon = place([-20, 20], [0, 0], origin)
    cluster = find_cluster(lat, lon, np.array([[0.8, 0.8]]), SETTINGS)
    assert error_m(cluster, 0, 0, origin) < 0.05


def test_no_match_gives_nan():
    nothing = np.full((1, 4), np.nan)
    cluster = find_cluster(nothing, nothing, nothing, SETTINGS)
    assert np.isnan(cluster.lat[0])
    assert not cluster.in_cluster.any()


def test_matches_beyond_the_members_change_nothing():
    lat, lon = place([0, 40, 10, 15], [0, 0, 0, 0])
    similarity = np.array([[0.8, 0.8, 0.79, 0.79]])
    two = ClusterSettings(sigma_m=30.0, temperature=0.03, members=2)
    wide = find_cluster(lat, lon, similarity, two)
    narrow = find_cluster(lat[:, :2], lon[:, :2], similarity[:, :2], two)
    assert wide.lat[0] == narrow.lat[0]
    assert wide.lon[0] == narrow.lon[0]
    assert wide.in_cluster.shape == (1, 4)


def test_weights_are_a_softmax_that_skips_missing_matches():
    weights = weights_of(np.array([[0.5, np.nan, 0.5], [np.nan, np.nan, np.nan]]), 0.1)
    np.testing.assert_allclose(weights, [[0.5, 0, 0.5], [0, 0, 0]])


def grid(rng: np.random.Generator, step_m: float, true: tuple[float, float]) -> tuple[np.ndarray, ...]:
    """Matches of a photo at `true` (metres): a grid about it whose similarity falls with distance, best first."""
    east, north = (
        values.ravel() for values in np.meshgrid(np.arange(-4, 5) * step_m, np.arange(-4, 5) * step_m)
    )
    apart = np.hypot(east - true[0], north - true[1])
    similarity = 0.6 * np.exp(-((apart / (1.8 * step_m)) ** 2)) + rng.normal(0, 0.003, apart.shape)
    order = np.argsort(-similarity)
    return east[order], north[order], similarity[order]


def test_a_fine_position_is_the_mean_of_the_tiles_about_the_best_member() -> None:
    fine = ClusterSettings(sigma_m=15.0, temperature=0.03, fine_m=15.0, fine_temperature=0.06)
    rng = np.random.default_rng(5)
    for _ in range(20):
        true = (float(rng.uniform(-5, 5)), float(rng.uniform(-5, 5)))
        east, north, similarity = grid(rng, 10.0, true)
        lat, lon = place(list(east), list(north))
        found = find_cluster(lat, lon, similarity[None], fine)
        first = slice(0, fine.members)
        near = np.hypot(east[first] - east[0], north[first] - north[0]) <= 15.0
        weight = np.where(near, np.exp(similarity[first] / 0.06), 0.0)
        weight /= weight.sum()
        assert error_m(found, weight @ east[first], weight @ north[first]) < 0.01
        assert (found.in_cluster[0, first] == near).all()
        assert not found.in_cluster[0, fine.members :].any()


def test_a_fine_position_is_nearer_than_the_best_tile_and_the_cluster() -> None:
    rng = np.random.default_rng(6)
    errors: dict[str, list[float]] = {"best": [], "cluster": [], "fine": []}
    kinds = {
        "best": ClusterSettings(sigma_m=0.01, temperature=0.03),
        "cluster": ClusterSettings(sigma_m=15.0, temperature=0.03),
        "fine": ClusterSettings(sigma_m=15.0, temperature=0.03, fine_m=15.0),
    }
    for _ in range(40):
        true = (float(rng.uniform(-5, 5)), float(rng.uniform(-5, 5)))
        east, north, similarity = grid(rng, 10.0, true)
        lat, lon = place(list(east), list(north))
        for name, each in kinds.items():
            errors[name].append(error_m(find_cluster(lat, lon, similarity[None], each), *true))
    best, cluster, finer = (float(np.median(errors[name])) for name in ("best", "cluster", "fine"))
    assert finer < 0.8 * cluster < best


def test_a_fine_position_stays_in_the_place_that_the_cluster_chose() -> None:
    """A lone tile that looks best far away loses against three that agree; the mean is about the best of the three."""
    fine = ClusterSettings(sigma_m=15.0, temperature=0.03, fine_m=15.0)
    lat, lon = place([500.0, 0.0, 10.0, 0.0], [0.0, 0.0, 0.0, 10.0])
    similarity = np.array([[0.60, 0.595, 0.59, 0.585]])
    found = find_cluster(lat, lon, similarity, fine)
    assert found.in_cluster.tolist() == [[False, True, True, True]]
    assert error_m(found, 3.2, 2.9) < 0.5


def test_a_fine_position_without_matches_is_none() -> None:
    nothing = np.full((1, 3), np.nan)
    found = find_cluster(nothing, nothing, nothing, ClusterSettings(fine_m=15.0))
    assert np.isnan(found.lat[0])
    assert not found.in_cluster.any()
