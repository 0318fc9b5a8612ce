"""The streets as a graph of places where photos are taken, and routes through it: walks that never come back.

Nodes lie on the middle of the streets every ten to fifteen metres; crossings are nodes that streets share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from geoloc.core.arrays import BoolArray, FloatArray, Int32Array, IntArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.network import Bounds, Edges, Network
from geoloc.synthetic.world.noise import generator, uniform

_STEPS = np.array([(1, 0), (0, 1), (1, 1), (-1, 1)])
_TRIES = 200
"""Walks begun anew for each route before the graph is called too small."""


@dataclass(frozen=True)
class StreetGraph:
    """Places on streets and which of them are neighbours.

    x, y: float64[N] in city metres. yaw_deg: float64[N], where the camera car looked. links: int64[M, 2], each
    pair of neighbours once, the lower number first.

    Convention: x east, y north; yaw clockwise from grid north in [0, 360).
    """

    x: FloatArray
    y: FloatArray
    yaw_deg: FloatArray
    links: IntArray

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def matrix(self) -> csr_array:
        """The symmetric adjacency matrix: bool[N, N], sparse, columns in order."""
        a, b = self.links.T
        there = np.ones(2 * len(self.links), bool)
        made = coo_array((there, (np.r_[a, b], np.r_[b, a])), shape=(len(self), len(self))).tocsr()
        made.sort_indices()
        return made

    def neighbours(self, node: int) -> Int32Array:
        """Numbers of the neighbours of a node in ascending order: int32[K]."""
        matrix = self.matrix
        return np.asarray(matrix.indices[matrix.indptr[node] : matrix.indptr[node + 1]])

    def only(self, keep: BoolArray) -> StreetGraph:
        """The nodes where keep bool[N] is true and the links between them, numbered from 0 again."""
        number = np.cumsum(keep) - 1
        links = self.links[keep[self.links].all(1)]
        return StreetGraph(self.x[keep], self.y[keep], self.yaw_deg[keep], number[links])

    def largest_part(self) -> StreetGraph:
        """The greatest set of nodes that can be reached from each other."""
        if not len(self):
            return self
        _, part = connected_components(self.matrix, directed=False)
        return self.only(part == np.argmax(np.bincount(part)))


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
    """Random walks from random nodes that visit no node twice: node numbers int64[count, steps].

    A walk that ends in a dead end is begun anew. Raises `ConfigError` when the graph holds no such walk.
    """
    routes = np.empty((count, steps), np.int64)
    for route in range(count):
        for attempt in range(_TRIES):
            walk = _walk(graph, steps, generator(seed + 42, route, attempt))
            if walk is not None:
                routes[route] = walk
                break
        else:
            raise ConfigError(
                f"No walk of {steps} nodes was found in a street graph of {len(graph)} nodes; ask for shorter "
                "routes or a larger area."
            )
    return routes


def _walk(graph: StreetGraph, steps: int, rng: np.random.Generator) -> list[int] | None:
    if not len(graph):
        return None
    walk = [int(rng.integers(len(graph)))]
    been = set(walk)
    while len(walk) < steps:
        open_ = [int(n) for n in graph.neighbours(walk[-1]) if int(n) not in been]
        if not open_:
            return None
        walk.append(open_[int(rng.integers(len(open_)))])
        been.add(walk[-1])
    return walk
