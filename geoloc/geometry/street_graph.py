"""Streets as a graph of places: positions, headings, and which places are neighbours; walks through it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from geoloc.core.arrays import BoolArray, FloatArray, Int32Array, IntArray
from geoloc.core.errors import ConfigError
from geoloc.core.geodesy import LatLon, LocalFrame

LONGEST_LINK_M = 20.0
"""Panoramas of a street lie about ten metres apart."""
_TRIES = 200
"""Walks begun anew for each route before the graph is called too small."""


@dataclass(frozen=True)
class StreetGraph:
    """Places on streets and which of them are neighbours.

    x, y: float64[N] in metres. yaw_deg: float64[N], where the camera looked, NaN where unknown. links: int64[M, 2],
    each pair of neighbours once, the lower number first.

    Convention: x east, y north; yaw clockwise from the frame's north in [0, 360).
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


@dataclass(frozen=True)
class MappedGraph:
    """A street graph on Earth: ids of its places, their WGS84 degrees float64[N], and the graph in local metres."""

    ids: tuple[str, ...]
    lat: FloatArray
    lon: FloatArray
    graph: StreetGraph

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprint(self) -> str:
        """SHA-256 of ids, positions, headings and links."""
        digest = hashlib.sha256("\n".join(self.ids).encode())
        for part in (self.lat, self.lon, self.graph.yaw_deg, self.graph.links):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @classmethod
    def from_degrees(
        cls, ids: Sequence[str], lat: FloatArray, lon: FloatArray, yaw_deg: FloatArray, links: IntArray
    ) -> MappedGraph:
        """A graph from WGS84 degrees float64[N], headings float64[N] and links int64[M, 2] in any order.

        Convention: headings clockwise from true north; the frame's north is true north at the middle of the places.
        """
        x, y = local_metres(lat, lon)
        ordered = np.unique(np.sort(links.reshape(-1, 2), axis=1), axis=0)
        return cls(tuple(ids), lat, lon, StreetGraph(x, y, yaw_deg, ordered[ordered[:, 0] < ordered[:, 1]]))


def local_metres(lat: FloatArray, lon: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(x, y) float64[N] in metres about the middle of places lat, lon float64[N] in degrees.

    Convention: x east, y north.
    """
    if not len(lat):
        return np.zeros(0), np.zeros(0)
    return LocalFrame(LatLon(float(np.median(lat)), float(np.median(lon)))).to_metres(lat, lon)


def neighbour_links(x: FloatArray, y: FloatArray, longest_m: float = LONGEST_LINK_M) -> IntArray:
    """Links int64[M, 2] between places float64[N] that have no third place between them: lower number first.

    This is the relative neighbourhood graph (Toussaint 1980) of links up to `longest_m`: two places are linked unless a
    third is nearer to both than they are to each other. Along a street it is the chain of its places.
    """
    points = np.stack([x, y], axis=-1)
    pairs = np.sort(cKDTree(points).query_pairs(longest_m, output_type="ndarray"), axis=1).astype(np.int64)
    if not len(pairs):
        return pairs.reshape(0, 2)
    length = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    source, target = np.r_[pairs[:, 0], pairs[:, 1]], np.r_[pairs[:, 1], pairs[:, 0]]
    order = np.argsort(source, kind="stable")
    starts = np.searchsorted(source[order], np.arange(len(points) + 1))
    pair, third = expand(starts, pairs[:, 0])
    third = target[order][third]
    to_both = np.maximum(
        np.hypot(*(points[pairs[pair, 0]] - points[third]).T),
        np.hypot(*(points[pairs[pair, 1]] - points[third]).T),
    )
    between = np.zeros(len(pairs), bool)
    between[pair[to_both < length[pair]]] = True
    kept = pairs[~between]
    return kept[np.lexsort((kept[:, 1], kept[:, 0]))]


def expand(starts: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """All entries of some rows of a compressed sparse matrix: position in `rows` and position of the entry, int64[E].

    starts: int64[R + 1], where each row begins; rows: int64[A].
    """
    counts = starts[rows + 1] - starts[rows]
    position = np.repeat(np.arange(len(rows)), counts)
    within = np.arange(len(position)) - np.repeat(np.cumsum(counts) - counts, counts)
    return position, starts[rows][position] + within


def random_routes(
    graph: StreetGraph, count: int, steps: int, generator: Callable[[int, int], np.random.Generator]
) -> IntArray:
    """Random walks from random nodes that visit no node twice: node numbers int64[count, steps].

    A walk that ends in a dead end is begun anew; `generator(route, attempt)` gives the randomness of an attempt. Raises
    `ConfigError` when the graph holds no such walk.
    """
    routes = np.empty((count, steps), np.int64)
    for route in range(count):
        for attempt in range(_TRIES):
            walk = _walk(graph, steps, generator(route, attempt))
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
