"""How a camera moves between the photos of a route: weighted moves between states, on a street graph or on a grid.

A state is a place with what the next move depends on. On a street graph it is the link by which the place was reached,
so that a walk does not turn back by chance. On a grid it is the place alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import i0e

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import ConfigError, QueryError
from geoloc.geometry.street_graph import StreetGraph, expand
from geoloc.localization.routes.enumeration import turn_bits
from geoloc.localization.routes.kernels import Moves, row_entries

TURN_BACK = 0.02
"""Probability that a walk turns back at a place where it could go on."""
_WRONG_TURN_BIT = 0.01
_REACH_SDS = 3.0  # standard deviations beyond the distance travelled that a move may be long
_MOST_MOVES = 20_000_000


@dataclass(frozen=True)
class Step:
    """What is known of the way from the photo before to this one; None where nothing is.

    moved_m: metres travelled, moved_sd_m their standard deviation. turn_deg: change of the direction of travel.
    course_deg: direction of travel. turned: whether the heading changed by more than 30 degrees, as published.

    Convention: degrees clockwise, of a course from north; a positive turn is to the right.
    """

    moved_m: float | None = None
    moved_sd_m: float | None = None
    turn_deg: float | None = None
    turn_sd_deg: float = 30.0
    course_deg: float | None = None
    course_sd_deg: float = 20.0
    turned: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("moved_m", 0.0),
            ("moved_sd_m", 1e-3),
            ("turn_sd_deg", 0.1),
            ("course_sd_deg", 0.1),
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and least <= value <= 1e6):
                raise QueryError(f"{name} is {value}; give {least:g} or more.", reason="bad_motion")
        for name in ("turn_deg", "course_deg"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and abs(value) <= 360.0):
                raise QueryError(f"{name} is {value}; give degrees, -360 to 360.", reason="bad_motion")


UNKNOWN = Step()


class Motion(Protocol):
    """Where a state may lead: what the filter needs of a map."""

    @property
    def place(self) -> IntArray:
        """The place of each state, int64[S]."""

    @property
    def entry(self) -> FloatArray:
        """The probability of each state where a route begins or comes back to the map, float64[S]."""

    @property
    def memory(self) -> int:
        """How many of the last photos' places a state holds: 2 where it names the place of the photo before."""

    def came_from(self, state: int) -> int:
        """The place of the photo before, -1 for none on the map; only where `memory` is 2."""

    def moves(self, states: IntArray, step: Step) -> Moves:
        """The moves from states int64[A]."""


class _GraphStates:
    """States of a street graph of N places: N without a way there, then the directed links, by their first place."""

    def __init__(self, graph: StreetGraph, turn_back: float) -> None:
        if not len(graph):
            raise ConfigError("The street graph holds no place; give one with places.")
        if not 0.0 <= turn_back < 1.0:
            raise ConfigError(f"turn_back is {turn_back}; give a probability below 1.")
        matrix = graph.matrix
        self.graph = graph
        self.turn_back = turn_back
        self.starts: IntArray = matrix.indptr.astype(np.int64)
        self.head: IntArray = np.repeat(np.arange(len(graph)), np.diff(self.starts))
        self.tail: IntArray = matrix.indices.astype(np.int64)

    @cached_property
    def place(self) -> IntArray:
        """See `Motion`."""
        return np.concatenate([np.arange(len(self.graph)), self.tail])

    @cached_property
    def before(self) -> IntArray:
        """The place before that of each state, int64[S]; -1 without one."""
        return np.concatenate([np.full(len(self.graph), -1), self.head])

    @cached_property
    def entry(self) -> FloatArray:
        """See `Motion`: all places alike, without a way there."""
        count = len(self.graph)
        return np.where(np.arange(len(self.place)) < count, 1.0 / count, 0.0)

    @cached_property
    def turn_bit(self) -> IntArray:
        """The published turn bit of each state's link, int64[S]; 3 without one."""
        known = turn_bits(self.graph.yaw_deg, np.maximum(self.before, 0), self.place)
        return np.where(self.before < 0, 3, known)

    @cached_property
    def course_deg(self) -> FloatArray:
        """Direction of travel of each state's link in degrees, float64[S], NaN without one."""
        east = self.graph.x[self.place] - self.graph.x[np.maximum(self.before, 0)]
        north = self.graph.y[self.place] - self.graph.y[np.maximum(self.before, 0)]
        return np.where(self.before < 0, np.nan, np.degrees(np.arctan2(east, north)))

    @cached_property
    def length_m(self) -> FloatArray:
        """Length of each state's link in metres, float64[S]; 0 without one."""
        before = np.where(self.before < 0, self.place, self.before)
        return np.hypot(
            self.graph.x[self.place] - self.graph.x[before], self.graph.y[self.place] - self.graph.y[before]
        )

    def hops(self, states: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """(source, target, probability) of going one link on from states int64[A]; see `Moves`."""
        place = self.place[states]
        source, link = expand(self.starts, place)
        target = link + len(self.graph)
        back = self.place[target] == self.before[states][source]
        degree = np.diff(self.starts)[place]
        onward = degree - np.bincount(source, back, len(states)).astype(np.int64)
        turn_back = np.where((self.before[states] < 0), 0.0, self.turn_back)
        share = (1.0 - np.where(degree > onward, turn_back, 0.0)) / np.maximum(onward, 1)
        return source, target, np.where(back, turn_back[source], share[source])

    def observed(self, states: IntArray, source: IntArray, target: IntArray, step: Step) -> FloatArray:
        """Likelihood of a step's turn and course for moves, float64[E], against directions drawn at random."""
        weight: FloatArray = np.ones(len(target))
        if step.turned is not None:
            matches = self.turn_bit[target] == int(step.turned)
            weight *= np.where(matches, 1.0 - _WRONG_TURN_BIT, _WRONG_TURN_BIT)
        if step.course_deg is not None:
            weight *= _von_mises(self.course_deg[target] - step.course_deg, step.course_sd_deg)
        if step.turn_deg is not None:
            change = self.course_deg[target] - self.course_deg[states][source]
            weight *= _von_mises(change - step.turn_deg, step.turn_sd_deg)
        return weight


class HopMotion(_GraphStates):
    """One link of a street graph a step, as in the published routes; what a step says of metres is not used."""

    memory = 2

    def __init__(self, graph: StreetGraph, *, turn_back: float = TURN_BACK) -> None:
        super().__init__(graph, turn_back)

    @cached_property
    def _all_hops(self) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        """The moves of all states, by state: starts int64[S + 1], targets, weights, and what leaves each state."""
        count = len(self.place)
        source, target, weight = self.hops(np.arange(count))
        leaving = np.maximum(0.0, 1.0 - np.bincount(source, weight, count))
        return np.searchsorted(source, np.arange(count + 1)), target, weight, leaving

    def moves(self, states: IntArray, step: Step) -> Moves:
        """See `Motion`; states int64[A]."""
        starts, targets, weights, leaving = self._all_hops
        source, target, weight, leaves = row_entries(starts, targets, weights, leaving, states)
        if step.turned is not None or step.course_deg is not None or step.turn_deg is not None:
            weight = weight * self.observed(states, source, target, step)
        return Moves(source, target, weight, leaves)

    def came_from(self, state: int) -> int:
        """See `Motion`."""
        return int(self.before[state])


class DistanceMotion(_GraphStates):
    """Along the streets of a graph by the metres travelled, with their error.

    usual_m: metres of a step about which nothing is known, with a standard deviation as large. least_sd_m and share:
    standard deviation of the metres where a step gives none. Memory: about 40 bytes for each place within `reach_m` of
    each state. Raises `ConfigError` for more than 20 million of these.
    """

    memory = 1

    def __init__(
        self,
        graph: StreetGraph,
        *,
        reach_m: float = 60.0,
        usual_m: float = 12.0,
        least_sd_m: float = 5.0,
        share: float = 0.25,
        turn_back: float = TURN_BACK,
    ) -> None:
        super().__init__(graph, turn_back)
        self.reach_m, self.usual_m = reach_m, usual_m
        self.least_sd_m, self.share = least_sd_m, share
        self._reach = self._reachable()

    def _reachable(self) -> tuple[IntArray, IntArray, FloatArray, FloatArray, FloatArray]:
        """Starts of each state's places within reach, and of each: state, metres, probability of its way, spacing."""
        count = len(self.place)
        spacing = (
            float(np.median(self.length_m[len(self.graph) :])) if count > len(self.graph) else self.usual_m
        )
        state = np.arange(count)
        parts = [(state, state, np.zeros(count), np.ones(count), np.full(count, spacing))]
        total = count
        while len(parts[-1][0]):
            origin, current, metres, chance, _ = parts[-1]
            source, target, share = self.hops(current)
            length = self.length_m[target]
            further = metres[source] + length
            near = (further <= self.reach_m) & (share > 0)
            parts.append((
                origin[source[near]], target[near], further[near], (chance[source] * share)[near], length[near],
            ))  # fmt: skip
            total += len(parts[-1][0])
            if total > _MOST_MOVES:
                raise ConfigError(
                    f"More than {_MOST_MOVES:,} moves of up to {self.reach_m:g} m lie in this street graph; give a "
                    "smaller reach or a smaller area."
                )
        origin, target, metres, chance, length = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        order = np.argsort(origin, kind="stable")
        starts = np.searchsorted(origin[order], np.arange(count + 1))
        return starts, target[order], metres[order], chance[order], length[order]

    def came_from(self, state: int) -> int:
        """See `Motion`; not known."""
        return -1

    def moves(self, states: IntArray, step: Step) -> Moves:
        """See `Motion`; states int64[A]. What the places in reach do not take leaves the map."""
        starts, targets, metres, chance, spacing = self._reach
        source, entry = expand(starts, states)
        moved_m, sd_m = metres_of(step, self.usual_m, self.least_sd_m, self.share)
        _check_reach(moved_m, sd_m, self.reach_m)
        weight = chance[entry] * spacing[entry] * _normal(metres[entry] - moved_m, sd_m)
        total = np.bincount(source, weight, len(states))
        weight = weight / np.maximum(total, 1.0)[source]
        target = targets[entry]
        leaving = np.maximum(0.0, 1.0 - total)
        return Moves(source, target, weight * self.observed(states, source, target, step), leaving)


class GridMotion:
    """Over places without a street graph, such as the tiles under a flight.

    x, y: float64[P] in metres. A step with a course goes there, with an error; one without goes any way. The parameters
    are those of `DistanceMotion`; reach_m bounds the moves of a step.

    Convention: x east, y north.
    """

    memory = 1

    def __init__(
        self,
        x: FloatArray,
        y: FloatArray,
        *,
        reach_m: float = 200.0,
        usual_m: float = 20.0,
        least_sd_m: float = 5.0,
        share: float = 0.25,
    ) -> None:
        if not len(x):
            raise ConfigError("The map holds no place; give one with places.")
        self._points = np.stack([x, y], axis=-1)
        self._tree = cKDTree(self._points)
        self.place: IntArray = np.arange(len(x))
        self.entry: FloatArray = np.full(len(x), 1.0 / len(x))
        self.reach_m, self.usual_m = reach_m, usual_m
        self.least_sd_m, self.share = least_sd_m, share
        near = np.asarray(self._tree.query(self._points, k=[2])[0]).ravel()
        self._cell_m2 = (max(float(np.median(near)), 0.1) if len(x) > 1 else usual_m) ** 2

    def came_from(self, state: int) -> int:
        """See `Motion`; not known."""
        return -1

    def moves(self, states: IntArray, step: Step) -> Moves:
        """See `Motion`; states int64[A]. What lies beyond the places leaves the map."""
        moved_m, sd_m = metres_of(step, self.usual_m, self.least_sd_m, self.share)
        _check_reach(moved_m, sd_m, self.reach_m)
        sd_m = max(sd_m, 0.5 * math.sqrt(self._cell_m2))  # a place stands for its cell
        if step.course_deg is None:
            source, target, apart = self._near(self._points[states], moved_m + _REACH_SDS * sd_m)
            ring_m = np.maximum(apart, 0.5 * math.sqrt(self._cell_m2))
            weight = self._cell_m2 * _normal(apart - moved_m, sd_m) / (2.0 * math.pi * ring_m)
        else:
            angle = math.radians(step.course_deg)
            shift = moved_m * np.array([math.sin(angle), math.cos(angle)])
            across_m = math.hypot(sd_m, moved_m * math.radians(step.course_sd_deg))
            spread = max(sd_m, across_m)
            source, target, apart = self._near(self._points[states] + shift, _REACH_SDS * spread)
            off = self._points[target] - self._points[states][source] - shift
            along = off @ (shift / max(moved_m, 1e-9)) if moved_m > 0 else np.zeros(len(off))
            across = np.sqrt(np.maximum(apart**2 - along**2, 0.0))
            weight = self._cell_m2 * _normal(along, sd_m) * _normal(across, across_m)
        total = np.bincount(source, weight, len(states))
        weight = weight / np.maximum(total, 1.0)[source]
        return Moves(source, target, weight, np.maximum(0.0, 1.0 - total))

    def _near(self, points: FloatArray, radius_m: float) -> tuple[IntArray, IntArray, FloatArray]:
        """(point, place, metres) of the places within a radius of points float64[A, 2], by point."""
        found = cKDTree(points).sparse_distance_matrix(self._tree, radius_m, output_type="ndarray")
        if len(found) > _MOST_MOVES:
            raise QueryError(
                f"A step has {len(found):,} possible moves, more than {_MOST_MOVES:,}; restrict the area to search, or "
                "give the metres travelled.",
                reason="bad_motion",
            )
        order = np.argsort(found["i"], kind="stable")
        return (
            found["i"][order].astype(np.int64),
            found["j"][order].astype(np.int64),
            found["v"][order],
        )


def reach_of(steps: Iterable[Step], least_m: float) -> float:
    """Metres that the moves of all of these steps stay within, `least_m` or more."""
    moved = (metres_of(step, 0.0, 5.0, 0.25) for step in steps if step.moved_m is not None)
    return max([least_m, *(metres + _REACH_SDS * sd_m for metres, sd_m in moved)])


def metres_of(step: Step, usual_m: float, least_sd_m: float, share: float) -> tuple[float, float]:
    """Metres travelled in a step and their standard deviation."""
    if step.moved_m is None:
        return usual_m, max(usual_m, least_sd_m)
    return step.moved_m, step.moved_sd_m or max(least_sd_m, share * step.moved_m)


def _check_reach(moved_m: float, sd_m: float, reach_m: float) -> None:
    if moved_m + sd_m > reach_m:
        raise QueryError(
            f"A step moved {moved_m:g} m (error {sd_m:g} m), beyond the reach of {reach_m:g} m; raise reach_m, or give "
            "more photos of the way.",
            reason="bad_motion",
        )


def _normal(off: FloatArray, sd: float) -> FloatArray:
    """The normal density, float64[E], of deviations float64[E]."""
    return np.asarray(np.exp(-0.5 * (off / sd) ** 2) / (sd * math.sqrt(2.0 * math.pi)))


def _von_mises(off_deg: FloatArray, sd_deg: float) -> FloatArray:
    """The von Mises density over that of any direction, float64[E], of deviations in degrees; 1 where they are NaN."""
    kappa = 1.0 / math.radians(sd_deg) ** 2
    density = np.exp(kappa * (np.cos(np.radians(off_deg)) - 1.0)) / i0e(kappa)
    return np.where(np.isfinite(off_deg), density, 1.0)
