"""Random routes of photos on a street graph: how often each algorithm has the last places right, by length.

The published enumeration (Zhou et al., arXiv 2308.05993) and the filter see the same distances, with turns and
without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from geoloc.core.arrays import Float32Array, FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.geometry.street_graph import StreetGraph, random_routes
from geoloc.localization.routes.emission import EmissionModel, fit_emission, similarity_of_distance
from geoloc.localization.routes.enumeration import OVERLAP, CulledEnumeration, EnumerationSettings, turn_bits
from geoloc.localization.routes.filter import FilterSettings, RouteFilter
from geoloc.localization.routes.motion import HopMotion, Step

ROUTE_NODES = 40
_FITTED = 10  # every tenth photo fits the emissions
_LIMIT = 5000
_CULLED = EnumerationSettings()
_ALL = EnumerationSettings(kept_percent=100, most=_LIMIT)
_FILTER = FilterSettings(leave=1e-4)
_TURN_BACK = 0.001


class RouteFigures(BaseModel):
    """Shares of routes in percent whose last places are right, by algorithm and length.

    accuracy: of each algorithm a figure for each of `lengths`. region_held: percent of present positions that the 90 %
    region of the filter holds, by the same names. nodes, links: of the graph.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    routes: int
    nodes: int
    links: int
    lengths: tuple[int, ...]
    accuracy: dict[str, tuple[float, ...]]
    region_held: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class RoutePhotos:
    """Photos and their map tiles at the places of a graph: embeddings float32[N, C] each, row by row."""

    graph: StreetGraph
    photos: Float32Array
    tiles: Float32Array

    def distances(self, places: IntArray) -> FloatArray:
        """Euclidean distances float64[m, N] of the photos of some places from all tiles."""
        photos = self.photos[places].astype(np.float64)
        tiles = self.tiles.astype(np.float64)
        squared = (photos**2).sum(1)[:, None] - 2.0 * photos @ tiles.T + (tiles**2).sum(1)
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def route_accuracy(
    data: RoutePhotos, routes: int, *, nodes: int = ROUTE_NODES, seed: int = 0
) -> RouteFigures:
    """Locate random routes by all algorithms. The emissions of the filter are fitted on every tenth photo alone.

    Raises `ConfigError` where the graph has no such routes and `InputError` where it has too few photos to fit.
    """
    if len(data.graph) < 20 * _FITTED:
        raise InputError(
            f"{len(data.graph)} photos have a place and a tile; routes need {20 * _FITTED} or more.",
            reason="no_rows",
        )
    fitted = np.arange(0, len(data.graph), _FITTED)
    emission = fit_emission(similarity_of_distance(data.distances(fitted)), fitted)
    walks = random_routes(
        data.graph, routes, nodes, lambda route, attempt: np.random.default_rng([seed, route, attempt])
    )
    names = ("culled 50 %", f"best {_LIMIT:,} kept", "filter")
    right = {f"{name}{turns}": np.zeros(nodes) for name in names for turns in ("", ", turns")}
    held = {f"filter{turns}": np.zeros(nodes) for turns in ("", ", turns")}
    motion = HopMotion(data.graph, turn_back=_TURN_BACK)
    for walk in walks:
        rows = data.distances(walk)
        bits = turn_bits(data.graph.yaw_deg, walk[:-1], walk[1:])
        for words, steps in (("", [Step()] * nodes), (", turns", [Step(), *map(_turned, bits.tolist())])):
            right[f"{names[0]}{words}"] += _enumerated(data.graph, _CULLED, rows, steps, walk)
            right[f"{names[1]}{words}"] += _enumerated(data.graph, _ALL, rows, steps, walk)
            found, inside = _filtered(motion, emission, rows, steps, walk)
            right[f"filter{words}"] += found
            held[f"filter{words}"] += inside
    return RouteFigures(
        routes=routes,
        nodes=len(data.graph),
        links=len(data.graph.links),
        lengths=tuple(range(1, nodes + 1)),
        accuracy={name: _percent(counts, routes) for name, counts in right.items()},
        region_held={name: _percent(counts, routes) for name, counts in held.items()},
    )


def _percent(counts: FloatArray, routes: int) -> tuple[float, ...]:
    return tuple(round(100.0 * float(count) / routes, 3) for count in counts)


def _turned(bit: int) -> Step:
    """The step of a turn bit; 3 where a heading is unknown."""
    return Step(turned=bool(bit)) if bit in (0, 1) else Step()


def _enumerated(
    graph: StreetGraph, settings: EnumerationSettings, rows: FloatArray, steps: Sequence[Step], walk: IntArray
) -> FloatArray:
    """Whether each prefix of a walk is right, float64[T], by the published algorithm."""
    search, found = CulledEnumeration(graph, settings), np.zeros(len(walk))
    for number, (row, step) in enumerate(zip(rows, steps, strict=True)):
        search.step(row, step.turned)
        found[number] = search.finds(walk[: number + 1])
    return found


def _filtered(
    motion: HopMotion, emission: EmissionModel, rows: FloatArray, steps: Sequence[Step], walk: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Whether each prefix is right by the filter, and how much its 90 % region holds the present place, float64[T]."""
    route, found, held = RouteFilter(motion, _FILTER), np.zeros(len(walk)), np.zeros(len(walk))
    for number, (row, step) in enumerate(zip(rows, steps, strict=True)):
        route.update(emission.evidence(similarity_of_distance(row)), step)
        tail = walk[: number + 1][-OVERLAP:]
        found[number] = np.array_equal(route.last_places(len(tail)), tail)
        held[number] = route.posterior().holds(int(walk[number]))
    return found, held
