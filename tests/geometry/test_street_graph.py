from __future__ import annotations

import numpy as np
import pytest

from geoloc.geometry.street_graph import MappedGraph, expand, neighbour_links


@pytest.mark.parametrize("seed", range(4))
def test_links_are_those_without_a_third_place_between(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 100, (60, 2))
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    expected = {
        (a, b)
        for a in range(60)
        for b in range(a + 1, 60)
        if apart[a, b] <= 25
        and not any(max(apart[a, c], apart[b, c]) < apart[a, b] for c in range(60) if c not in (a, b))
    }
    found = neighbour_links(points[:, 0], points[:, 1], 25.0)
    assert {tuple(pair) for pair in found.tolist()} == expected
    assert found.tolist() == sorted(found.tolist())


def test_places_along_a_street_are_a_chain_and_far_ones_have_no_link() -> None:
    x = np.array([0.0, 9.0, 20.0, 31.0, 90.0])
    assert neighbour_links(x, np.zeros(5)).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert neighbour_links(x[[0, 4]], np.zeros(2)).shape == (0, 2)


def test_rows_of_a_sparse_matrix_are_expanded_in_their_order() -> None:
    position, entry = expand(np.array([0, 2, 2, 5]), np.array([2, 1, 0, 2]))
    assert position.tolist() == [0, 0, 0, 2, 2, 3, 3, 3]
    assert entry.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]


def test_a_graph_from_degrees_is_in_metres_and_has_each_link_once() -> None:
    lat, lon = np.array([48.0, 48.0, 48.0009]), np.array([2.0, 2.001, 2.001])
    links = np.array([[1, 0], [0, 1], [2, 1], [2, 2]])
    graph = MappedGraph.from_degrees(["a", "b", "c"], lat, lon, np.full(3, np.nan), links).graph
    assert graph.links.tolist() == [[0, 1], [1, 2]]
    assert graph.x[1] - graph.x[0] == pytest.approx(74.6, abs=0.1)
    assert graph.y[2] - graph.y[1] == pytest.approx(100.1, abs=0.1)
