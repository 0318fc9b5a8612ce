from __future__ import annotations

import itertools

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.geometry.street_graph import StreetGraph
from geoloc.synthetic.world.network import Network
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.routes import random_routes, street_graph

BOUNDS = (0.0, 0.0, 700.0, 600.0)


@pytest.fixture(scope="module")
def graph(city: City) -> StreetGraph:
    return street_graph(city.network, BOUNDS)


def distance_from_streets(network: Network, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each point from the nearest middle line, by brute force over all pieces of all curves."""
    edges = network.edges_in(BOUNDS, margin_m=80)
    a, b = edges.curve[:, :-1].reshape(-1, 2), edges.curve[:, 1:].reshape(-1, 2)
    point = np.stack([x, y], -1)[:, None]
    share = np.clip(((point - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1), 0, 1)
    return np.asarray(np.linalg.norm(point - a - share[..., None] * (b - a), axis=-1).min(1))


def test_nodes_lie_on_streets_within_bounds(city: City, graph: StreetGraph) -> None:
    assert len(graph) > 300
    assert (graph.x >= 0).all()
    assert (graph.x < 700).all()
    assert (graph.y >= 0).all()
    assert (graph.y < 600).all()
    assert distance_from_streets(city.network, graph.x, graph.y).max() < 0.85


def test_neighbours_are_ten_to_fifteen_metres_apart(graph: StreetGraph) -> None:
    a, b = graph.links.T
    apart = np.hypot(graph.x[a] - graph.x[b], graph.y[a] - graph.y[b])
    assert np.percentile(apart, [2, 98]).round() == pytest.approx([12, 12], abs=3)
    assert apart.max() < 16.5
    assert (a < b).all()
    assert len(np.unique(graph.links, axis=0)) == len(graph.links)


def test_neighbours_are_mutual_and_crossings_join_streets(graph: StreetGraph) -> None:
    degree = np.array([len(graph.neighbours(node)) for node in range(len(graph))])
    assert degree.sum() == 2 * len(graph.links)
    for node in (0, 5, len(graph) - 1):
        assert all(node in graph.neighbours(int(other)) for other in graph.neighbours(node))
    assert (degree == 2).mean() > 0.6
    assert (degree >= 3).sum() > 10
    assert len(graph.largest_part()) > 0.8 * len(graph)


def test_the_car_looks_along_its_street(graph: StreetGraph) -> None:
    inner = (graph.x > 20) & (graph.x < 680) & (graph.y > 20) & (graph.y < 580)
    for node in np.nonzero(inner)[0][::5]:
        beside = graph.neighbours(int(node))
        towards = np.degrees(np.arctan2(graph.x[beside] - graph.x[node], graph.y[beside] - graph.y[node]))
        turn = (graph.yaw_deg[node] - towards) % 180
        assert np.minimum(turn, 180 - turn).min() < 15
    assert ((graph.yaw_deg >= 0) & (graph.yaw_deg < 360)).all()


def test_a_part_of_the_city_gives_the_same_nodes(city: City, graph: StreetGraph) -> None:
    part = street_graph(city.network, (200.0, 150.0, 500.0, 450.0))
    whole = set(zip(graph.x.tolist(), graph.y.tolist(), graph.yaw_deg.tolist(), strict=True))
    inner = (part.x > 230) & (part.x < 470) & (part.y > 180) & (part.y < 420)
    assert inner.sum() > 50
    assert (
        set(zip(part.x[inner].tolist(), part.y[inner].tolist(), part.yaw_deg[inner].tolist(), strict=True))
        <= whole
    )


def test_routes_are_walks_in_the_graph_without_revisits(graph: StreetGraph) -> None:
    routes = random_routes(graph.largest_part(), 20, 40, seed=3)
    part = graph.largest_part()
    assert routes.shape == (20, 40)
    for route in routes:
        assert len(set(route.tolist())) == 40
        assert all(b in part.neighbours(int(a)) for a, b in itertools.pairwise(route))
    assert np.array_equal(routes, random_routes(part, 20, 40, seed=3))
    assert len({tuple(route) for route in routes.tolist()}) == 20


def test_a_graph_too_small_for_a_route_says_so(graph: StreetGraph) -> None:
    few = graph.only(np.arange(len(graph)) < 6)
    with pytest.raises(
        ConfigError, match=r"No walk of 40 nodes .* street graph of 6 nodes; ask for shorter routes"
    ):
        random_routes(few, 1, 40, seed=0)
