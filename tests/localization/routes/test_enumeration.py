from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.geometry.street_graph import StreetGraph
from geoloc.localization.routes.enumeration import CulledEnumeration, EnumerationSettings, turn_bits
from tests.localization.routes.small_graphs import grid_graph, random_graph


def by_lists(
    graph: StreetGraph, distances: np.ndarray, turned: list[bool] | None, kept_percent: int, spared: int
) -> list[tuple[float, list[int]]]:
    """The published steps, route by route, from the words of their description."""
    candidates = [(0.0, [node]) for node in range(len(graph))]
    for step, distance in enumerate(distances):
        if step:
            candidates = [
                (added, [*route, int(other)])
                for added, route in candidates
                for other in graph.neighbours(route[-1])
                if other not in route
            ]
            if turned is not None:
                kept = []
                for added, route in candidates:
                    change = (graph.yaw_deg[route[-1]] - graph.yaw_deg[route[-2]]) % 360
                    if (min(change, 360 - change) > 30) == turned[step]:
                        kept.append((added, route))
                candidates = kept
        candidates = [(added + distance[route[-1]], route) for added, route in candidates]
        candidates.sort(key=lambda one: one[0])
        if len(candidates) > spared:
            candidates = candidates[: len(candidates) * kept_percent // 100]
    return candidates


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize(("kept_percent", "spared"), [(100, 100), (50, 10)])
def test_candidates_are_those_of_the_published_steps(
    seed: int, turns: bool, kept_percent: int, spared: int
) -> None:
    graph = random_graph(seed, 9)
    rng = np.random.default_rng(seed)
    distances = rng.uniform(0, 1, (5, len(graph)))
    turned = (rng.random(5) < 0.7).tolist() if turns else None
    found = CulledEnumeration(graph, EnumerationSettings(kept_percent, spared))
    for step, distance in enumerate(distances):
        found.step(distance, turned[step] if turned is not None else None)
    expected = by_lists(graph, distances, turned, kept_percent, spared)
    assert found.routes.tolist() == [route for _, route in expected]
    assert found.distance == pytest.approx([added for added, _ in expected])


def test_a_route_is_found_by_its_last_five_nodes_in_order() -> None:
    graph = grid_graph(4)
    truth = np.array([0, 1, 2, 6, 10, 14, 13])
    found = CulledEnumeration(graph)
    for node in truth:
        found.step(np.where(np.arange(16) == node, 0.0, 1.0))
    assert found.finds(truth)
    assert found.finds(np.r_[7, truth[2:]])
    assert not found.finds(np.r_[truth[:-5], truth[-5:][::-1]])
    assert not found.finds(np.r_[truth[:-3], 9, 8, 4])


def test_a_heading_that_is_not_known_matches_no_turn() -> None:
    yaw = np.array([0.0, 29.0, 331.0, 180.0, np.nan])
    before = np.zeros(5, np.int64)
    assert turn_bits(yaw, before, np.arange(5)).tolist() == [0, 0, 0, 1, 3]


def test_the_candidates_can_be_bounded_and_what_is_cut_is_counted() -> None:
    found = CulledEnumeration(grid_graph(4), EnumerationSettings(kept_percent=100, most=20))
    for _ in range(4):
        found.step(np.arange(16.0))
    assert len(found.routes) == 20
    assert found.cut > 0
    with pytest.raises(ConfigError, match="kept_percent is 0; give 1 to 100"):
        CulledEnumeration(grid_graph(2), EnumerationSettings(kept_percent=0))
