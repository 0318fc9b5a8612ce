from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError, QueryError
from geoloc.localization.routes.emission import EmissionModel, evidence_of_logs
from geoloc.localization.routes.filter import FilterSettings, PlacePosterior, RouteFilter
from geoloc.localization.routes.kernels import OFF_MAP
from geoloc.localization.routes.motion import GridMotion, HopMotion, Step
from tests.localization.routes.small_graphs import all_walks, grid_graph, random_evidence, random_graph

PHOTOS = 5


def table(posterior: PlacePosterior) -> dict[int, float]:
    found = dict(zip(posterior.places.tolist(), posterior.weight.tolist(), strict=True))
    return found | {OFF_MAP: posterior.off_map}


def same(found: PlacePosterior, expected: dict[int, float]) -> None:
    ours = table(found)
    for place in set(ours) | set(expected):
        assert ours.get(place, 0.0) == pytest.approx(expected.get(place, 0.0), abs=1e-9), place


@pytest.mark.parametrize("seed", range(6))
def test_posterior_path_and_smoothing_are_those_of_all_walks(seed: int) -> None:
    graph, rng = random_graph(seed), np.random.default_rng(seed + 100)
    evidence = [random_evidence(rng, len(graph), outside=True) for _ in range(PHOTOS)]
    chances = {"leave": 0.1, "enter": 0.3, "starts_off_map": 0.2}
    route = RouteFilter(HopMotion(graph, turn_back=0.15), FilterSettings(**chances, least_weight=0.0))
    for number, said in enumerate(evidence, start=1):
        route.update(said)
        walks = all_walks(graph, evidence[:number], **chances, turn_back=0.15)
        same(route.posterior(), walks.marginal(-1))
        assert np.array_equal(route.path(), walks.best())
    for photo, posterior in enumerate(route.smoothed()):
        same(posterior, walks.marginal(photo))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_last_places_are_the_most_probable_ones_together(seed: int, count: int) -> None:
    graph, rng = grid_graph(2 + seed % 2), np.random.default_rng(seed)
    evidence = [random_evidence(rng, len(graph), outside=False) for _ in range(4)]
    chances = {"leave": 0.0, "enter": 0.0, "starts_off_map": 0.0}
    route = RouteFilter(HopMotion(graph, turn_back=0.1), FilterSettings(**chances, least_weight=0.0))
    for said in evidence:
        route.update(said)
    walks = all_walks(graph, evidence, **chances, turn_back=0.1)
    assert np.array_equal(route.last_places(count), walks.best_end(min(count, 4)))


def test_a_route_that_is_continued_elsewhere_goes_on_as_if_it_had_not_been() -> None:
    graph, rng = grid_graph(4), np.random.default_rng(0)
    evidence = [random_evidence(rng, len(graph), outside=True) for _ in range(8)]
    whole, first = RouteFilter(HopMotion(graph)), RouteFilter(HopMotion(graph))
    for said in evidence[:4]:
        whole.update(said)
        first.update(said)
    second = RouteFilter(HopMotion(graph), continued=first.state)
    for said in evidence[4:]:
        whole.update(said)
        second.update(said)
    same(second.posterior(), table(whole.posterior()))
    assert np.array_equal(second.path(), whole.path()[4:])


def test_few_states_of_a_long_route_are_enough_and_its_memory_is_bounded() -> None:
    graph = grid_graph(20)
    truth = np.r_[np.arange(0, 20), np.arange(39, 400, 20)]
    rng, model = np.random.default_rng(3), EmissionModel(temperature=1.0, outlier=0.1)
    route = RouteFilter(HopMotion(graph), FilterSettings(lag=10))
    for place in np.tile(np.r_[truth, truth[-2:0:-1]], 3):
        similarity = rng.normal(0, 1, len(graph))
        similarity[place] += 5.0
        route.update(model.evidence(similarity))
    assert route.photos == 3 * (2 * len(truth) - 2)
    assert len(route.smoothed()) == len(route.path()) == 10
    assert len(route.state.states) < len(graph)
    kept = route.state.heaviest(3)
    assert len(kept.states) == 3
    assert kept.weight.sum() + kept.off_map == pytest.approx(1.0)


def test_a_camera_that_leaves_the_map_and_comes_back_is_said_to() -> None:
    graph = grid_graph(6)
    model = EmissionModel(temperature=0.2, outlier=0.02, outside_slope=8.0, outside_intercept=-4.0)
    route = RouteFilter(HopMotion(graph), FilterSettings(leave=0.01))
    walk = [0, 1, 2, OFF_MAP, OFF_MAP, OFF_MAP, OFF_MAP, 33, 34, 35]
    for place in walk:
        similarity = np.zeros(len(graph))
        if place != OFF_MAP:
            similarity[place] = 1.0
        route.update(model.evidence(similarity))
    assert route.path().tolist() == walk
    assert route.posterior().places[0] == 35
    assert [posterior.off_map > 0.5 for posterior in route.smoothed()] == [place < 0 for place in walk]


def test_regions_hold_the_truth_as_often_as_they_promise_where_the_model_is_right() -> None:
    """Walks and photos are drawn from the model itself; the last place of a region is drawn for an exact share."""
    graph, rng, motion = grid_graph(7), np.random.default_rng(5), HopMotion(grid_graph(7), turn_back=0.05)
    inside = []
    for _ in range(150):
        route = RouteFilter(motion, FilterSettings(leave=0.0, enter=0.0, starts_off_map=0.0))
        state = int(rng.integers(len(graph)))
        for photo in range(6):
            if photo:
                moves = motion.moves(np.array([state]), Step())
                state = int(rng.choice(moves.target, p=moves.weight))
            place = motion.place[state]
            distance = (rng.normal(0, 1, 8) + _marks(len(graph))[place]) - _marks(len(graph))
            logs = -0.5 * (distance**2).sum(axis=1)
            route.update(evidence_of_logs(np.arange(len(graph)), logs, 0.0, -np.inf))
        posterior = route.posterior()
        region = posterior.region(0.9)
        before = float(posterior.weight[: len(region) - 1].sum())
        last = (0.9 - before) / float(posterior.weight[len(region) - 1])
        inside.append(place in region[:-1] or (place == region[-1] and rng.random() < last))
    assert np.mean(inside) == pytest.approx(0.9, abs=3 * np.sqrt(0.9 * 0.1 / 150))


def _marks(count: int) -> np.ndarray:
    return np.random.default_rng(11).normal(0, 0.8, (count, 8))


def test_without_streets_a_flight_is_followed_by_its_odometry() -> None:
    x, y = (part.ravel() for part in np.meshgrid(np.arange(0, 300, 10.0), np.arange(0, 300, 10.0)))
    route = RouteFilter(GridMotion(x, y, reach_m=100.0))
    model, rng = EmissionModel(temperature=0.5, outlier=0.3), np.random.default_rng(1)
    at = np.array([40.0, 60.0])
    for photo in range(9):
        if photo:
            at = at + np.array([24.0, 7.0])
        similarity = rng.normal(0, 1, len(x)) - np.hypot(x - at[0], y - at[1]) / 40.0
        route.update(
            model.evidence(similarity), Step(moved_m=25.0, course_deg=float(np.degrees(np.arctan2(24, 7))))
        )
    posterior = route.posterior()
    mean = np.array([posterior.weight @ x[posterior.places], posterior.weight @ y[posterior.places]])
    assert np.hypot(*(mean - at)) < 15.0


def test_where_nothing_leads_on_the_route_has_ended() -> None:
    route = RouteFilter(HopMotion(grid_graph(2)), FilterSettings(leave=0.0, enter=0.0, starts_off_map=0.0))
    nowhere = evidence_of_logs(np.arange(4), np.full(4, -np.inf), -np.inf, 0.0)
    with pytest.raises(QueryError, match="No way leads on from where the route was; begin a new route"):
        route.update(nowhere)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"leave is 1\.0; give a probability below 1"):
        FilterSettings(leave=1.0)
    with pytest.raises(ConfigError, match="lag is 0; give 1 or more"):
        FilterSettings(lag=0)
    route = RouteFilter(HopMotion(grid_graph(2)))
    assert route.path().tolist() == route.last_places(3).tolist() == route.smoothed() == []
