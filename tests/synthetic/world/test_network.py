from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.synthetic.world.network import Edges, Network, clearance_m
from geoloc.synthetic.world.style import Style


def _named(edges: Edges) -> dict[tuple[int, int, int], np.ndarray]:
    names = zip(edges.i.tolist(), edges.j.tolist(), edges.kind.tolist(), strict=True)
    return dict(zip(names, edges.curve, strict=True))


@settings(max_examples=20, deadline=None)
@given(st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(100, 600))
def test_a_part_of_the_network_is_the_same_as_in_the_whole(west: int, south: int, side: int) -> None:
    network = Network(5, Style())
    whole = _named(network.edges_in((west - 500, south - 500, west + side + 500, south + side + 500)))
    part = _named(Network(5, Style()).edges_in((west, south, west + side, south + side)))
    assert part.keys() <= whole.keys()
    for name, curve in part.items():
        np.testing.assert_array_equal(curve, whole[name])
    low, high = np.array([west, south]) - 12, np.array([west, south]) + side + 12
    touching = {n for n, c in whole.items() if (c.min(0) < high).all() and (c.max(0) > low).all()}
    assert touching == part.keys()


def test_streets_meet_at_their_nodes() -> None:
    network = Network(5, Style())
    edges = network.edges_of(np.arange(-2, 6), np.arange(-2, 6))
    np.testing.assert_allclose(edges.curve[:, 0], network.nodes(edges.i, edges.j), atol=1e-9)
    step = np.array([(1, 0), (0, 1), (1, 1), (-1, 1)])[edges.kind]
    np.testing.assert_allclose(
        edges.curve[:, -1], network.nodes(edges.i + step[:, 0], edges.j + step[:, 1]), atol=1e-9
    )


def test_normals_point_left() -> None:
    curve = np.stack([np.linspace(0, 10, 17), np.zeros(17)], -1)[None]
    east = Edges(np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), np.full(1, 4.0), curve)
    np.testing.assert_allclose(east.normals(), np.broadcast_to([0.0, 1.0], (1, 17, 2)), atol=1e-12)


def test_clearance_is_the_distance_to_the_asphalt() -> None:
    curve = np.stack([np.linspace(0, 100, 17), np.zeros(17)], -1)[None]
    avenue = Edges(np.zeros(1, int), np.zeros(1, int), np.full(1, 2), np.full(1, 6.5), curve)
    points = np.array([[50.0, 10.0], [50.0, -3.0], [-30.0, 40.0]])
    np.testing.assert_allclose(clearance_m(avenue, points), [3.5, -3.5, 43.5])


def test_seeds_give_different_cities() -> None:
    bounds = (0.0, 0.0, 500.0, 500.0)
    one, two = (_named(Network(seed, Style()).edges_in(bounds)) for seed in (1, 2))
    assert one.keys() != two.keys() or not all(np.array_equal(one[n], two[n]) for n in one)
