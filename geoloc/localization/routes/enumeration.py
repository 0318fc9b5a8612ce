"""The published localization of routes: candidate routes are enumerated, scored by added distances and culled.

Zhou, Liu, Zhong, Calway, arXiv 2308.05993, after "You are here" (Samano, Zhou, Calway, ECCV 2020); the details are
those of the authors' code. Two routes with the same last node are never merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geoloc.core.arrays import BoolArray, FloatArray, Int32Array, IntArray
from geoloc.core.errors import ConfigError
from geoloc.geometry.street_graph import StreetGraph, expand

TURN_DEG = 30.0
OVERLAP = 5
"""Last nodes of a route that must be right."""
_UNKNOWN_TURN = 3  # equals no observed bit


@dataclass(frozen=True)
class EnumerationSettings:
    """The constants of the published code.

    kept_percent: share of the candidates that a step keeps, 100 for all. spared: so few candidates are never culled.
    most: candidates at most, the best ones; None: as many as there are, which grows without a bound where all are kept.
    """

    kept_percent: int = 50
    spared: int = 100
    most: int | None = None


def turn_bits(yaw_deg: FloatArray, before: IntArray, after: IntArray) -> IntArray:
    """1 where the heading changes by more than 30 degrees between nodes int64[E], else 0; 3 where one is unknown.

    Convention: yaw_deg float64[N], degrees of any origin; a change of 180 degrees counts as a turn.
    """
    change = np.abs((yaw_deg[after] - yaw_deg[before] + 180.0) % 360.0 - 180.0)
    return np.where(np.isfinite(change), (change > TURN_DEG).astype(np.int64), _UNKNOWN_TURN)


@dataclass
class CulledEnumeration:
    """Candidate routes of one sequence, step by step.

    routes: int32[R, m], candidates after m steps, the best first; distance: float64[R]. cut: candidates that `most`
    left out, over all steps. The memory is R * m numbers.
    """

    graph: StreetGraph
    settings: EnumerationSettings = field(default_factory=EnumerationSettings)
    routes: Int32Array = field(init=False)
    distance: FloatArray = field(init=False)
    cut: int = 0
    _extended: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.settings.kept_percent <= 100:
            raise ConfigError(f"kept_percent is {self.settings.kept_percent}; give 1 to 100.")
        self.routes = np.arange(len(self.graph), dtype=np.int32)[:, None]
        self.distance = np.zeros(len(self.graph))

    def step(self, node_distance: FloatArray, turned: bool | None = None) -> None:
        """Take in an observation: its distance from each node, float64[N], and whether the heading changed (or None).

        Routes are extended first, except at the first step, whose routes are the single nodes.
        """
        if self._extended:
            self._extend()
            if turned is not None:
                self._keep(turn_bits(self.graph.yaw_deg, *self._last_two()) == int(turned))
        self._extended = True
        self.distance = self.distance + node_distance[self.routes[:, -1]]
        order = np.argsort(self.distance, kind="stable")
        count = len(order)
        if count > self.settings.spared:
            order = order[: count * self.settings.kept_percent // 100]
        if self.settings.most is not None and len(order) > self.settings.most:
            self.cut += len(order) - self.settings.most
            order = order[: self.settings.most]
        self.routes, self.distance = self.routes[order], self.distance[order]

    def finds(self, truth: IntArray, *, first: int = 1) -> bool:
        """Whether one of the `first` best candidates ends in the same last nodes, in order, as the route int64[m]."""
        tail = truth[-OVERLAP:]
        best = self.routes[:first, -OVERLAP:]
        return best.shape[1:] == tail.shape and bool((best == tail).all(axis=1).any())

    def _last_two(self) -> tuple[IntArray, IntArray]:
        return self.routes[:, -2].astype(np.int64), self.routes[:, -1].astype(np.int64)

    def _keep(self, chosen: BoolArray) -> None:
        self.routes, self.distance = self.routes[chosen], self.distance[chosen]

    def _extend(self) -> None:
        """Each route by each neighbour of its last node that it has not visited; dead ends are dropped."""
        matrix = self.graph.matrix
        route, entry = expand(matrix.indptr.astype(np.int64), self.routes[:, -1].astype(np.int64))
        node = matrix.indices[entry]
        fresh = (self.routes[route] != node[:, None]).all(axis=1)
        route, node = route[fresh], node[fresh]
        self.routes = np.concatenate([self.routes[route], node[:, None].astype(np.int32)], axis=1)
        self.distance = self.distance[route]
