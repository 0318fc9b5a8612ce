"""The streets as a graph of places where photos are taken, and routes through it: walks that never come back.

Nodes lie on the middle of the streets every ten to fifteen metres; crossings are nodes that streets share.
"""

from __future__ import annotations

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.geometry.street_graph import StreetGraph
from geoloc.geometry.street_graph import random_routes as walks
from geoloc.synthetic.world.network import Bounds, Edges, Network
from geoloc.synthetic.world.noise import generator, uniform

_STEPS = np.array([(1, 0), (0, 1), (1, 1), (-1, 1)])


def street_graph(
    network: Network, bounds: Bounds, *, spacing_m: float = 12.0, sway_m: float = 0.8, seed: int = 0
) -> StreetGraph:
    """The graph of the streets within `bounds`, in an order that depends on the streets alone.

    Each street between two crossings is cut into equal pieces of about `spacing_m`; nodes between crossings lie
    up to `sway_m` beside the middle of the road, as a car drives.

    Convention: x east, y north in city metres; yaw clockwise from grid north, along the street.
    """
    edges = network.edges_in(bounds)
    crossings, ends = _crossings(edges)
    x, y, yaw = [crossings[:, 0]], [crossings[:, 1]], [np.zeros(len(crossings))]
    links = [np.zeros((0, 2), np.int64)]
    turned = uniform(network.seed + 40, edges.i, edges.j, edges.kind) < 0.5
    used = np.zeros(len(crossings), bool)
    count = len(crossings)
    for k in range(len(edges)):
        points, along = _cut(edges.curve[k], spacing_m)
        heading = (np.degrees(np.arctan2(along[:, 0], along[:, 1])) + 180 * turned[k]) % 360
        inner = np.arange(count, count + len(points) - 2)
        place = np.arange(len(inner))
        sway = sway_m * (2 * uniform(seed + 41, edges.i[k], edges.j[k], edges.kind[k], place) - 1)
        x.append(points[1:-1, 0] - along[1:-1, 1] * sway)
        y.append(points[1:-1, 1] + along[1:-1, 0] * sway)
        yaw.append(heading[1:-1])
        for end, at in ((ends[k, 0], 0), (ends[k, 1], -1)):
            if not used[end]:
                yaw[0][end], used[end] = heading[at], True
        chain = np.concatenate([ends[k, :1], inner, ends[k, 1:]])
        links.append(np.sort(np.stack([chain[:-1], chain[1:]], -1), 1))
        count += len(inner)
    graph = StreetGraph(
        np.concatenate(x), np.concatenate(y), np.concatenate(yaw), np.unique(np.concatenate(links), axis=0)
    )
    west, south, east, north = bounds
    return graph.only((graph.x >= west) & (graph.x < east) & (graph.y >= south) & (graph.y < north))


def _crossings(edges: Edges) -> tuple[FloatArray, IntArray]:
    """Positions of the crossings where edges end, float64[C, 2], and each edge's two: int64[E, 2]."""
    start = np.stack([edges.i, edges.j], -1)
    names = np.concatenate([start, start + _STEPS[edges.kind]])
    unique, inverse = np.unique(names, axis=0, return_inverse=True)
    position = np.empty((len(unique), 2))
    position[inverse.ravel()] = np.concatenate([edges.curve[:, 0], edges.curve[:, -1]])
    return position, np.asarray(inverse.reshape(2, len(edges)).T, np.int64)


def _cut(curve: FloatArray, spacing_m: float) -> tuple[FloatArray, FloatArray]:
    """Points along a curve at equal distances of about `spacing_m`, and unit vectors along it: float64[K, 2] twice."""
    step = np.diff(curve, axis=0)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(step[:, 0], step[:, 1]))])
    at = np.linspace(0, length[-1], max(1, round(float(length[-1]) / spacing_m)) + 1)
    points = np.stack([np.interp(at, length, curve[:, k]) for k in range(2)], -1)
    piece = np.clip(np.searchsorted(length, at, side="right") - 1, 0, len(step) - 1)
    along = step[piece] / np.hypot(step[piece, 0], step[piece, 1])[:, None]
    return points, along


def random_routes(graph: StreetGraph, count: int, steps: int, seed: int) -> IntArray:
    """The walks int64[count, steps] of `geoloc.geometry.street_graph.random_routes`, with the city's randomness."""
    return walks(graph, count, steps, lambda route, attempt: generator(seed + 42, route, attempt))
