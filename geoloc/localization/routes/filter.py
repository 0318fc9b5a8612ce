"""A hidden Markov filter over the photos of a route: where the camera is now, where it was, and its most likely path.

The states are those of a `Motion`, and one for all that is not on the map. Photos come one by one (the forward
algorithm; Rabiner, Proc. IEEE 77, 1989, section III), the best path is kept beside it (Viterbi), and the last `lag`
photos can be smoothed (backward algorithm). Paths that meet in a state are merged, which is exact, so a step costs as
many operations as there are moves. The loops are compiled (`kernels`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import ConfigError, QueryError
from geoloc.localization.routes.kernels import (
    OFF_MAP,
    Arrival,
    Belief,
    Chances,
    Entries,
    Evidence,
    Moves,
    advance,
    best_ways,
    weigh,
)
from geoloc.localization.routes.motion import UNKNOWN, Motion, Step


@dataclass(frozen=True)
class FilterSettings:
    """How often cameras leave the map, and how much of a route is kept.

    leave, enter: probabilities of leaving the map and of coming back within a step. starts_off_map: of a first photo.
    lag: photos that paths and smoothing reach back; it bounds the memory. least_weight: states less probable than this
    share of the most probable are dropped.
    """

    leave: float = 1e-3
    enter: float = 0.1
    starts_off_map: float = 0.01
    lag: int = 64
    least_weight: float = 1e-9

    def __post_init__(self) -> None:
        for name in ("leave", "enter", "starts_off_map"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a probability below 1.")
        if self.lag < 1:
            raise ConfigError(f"lag is {self.lag}; give 1 or more photos.")


@dataclass(frozen=True)
class PlacePosterior:
    """Probabilities of places: places int64[K] with weight float64[K], the heaviest first, and that of none of them."""

    places: IntArray
    weight: FloatArray
    off_map: float

    def region(self, share: float = 0.9) -> IntArray:
        """The fewest places int64[n] that hold `share` of the probability; all where the map holds less."""
        enough = int(np.searchsorted(np.cumsum(self.weight), share - 1e-12)) + 1
        return self.places[:enough]

    def holds(self, place: int, share: float = 0.9) -> float:
        """Whether the region holds a place, 0 or 1; its last place counts as far as `share` needs it.

        So the mean over cases in which the probabilities are right is `share`, though places are whole.
        """
        region = self.region(share)
        if place not in region:
            return 0.0
        if place != region[-1]:
            return 1.0
        before = float(self.weight[: len(region) - 1].sum())
        return float(np.clip((share - before) / self.weight[len(region) - 1], 0.0, 1.0))


@dataclass(frozen=True)
class FilterState:
    """What continues a route: states int64[A], their weights and path scores float64[A], and those off the map.

    The weights and `off_map` add up to 1; a score is the probability of the best path to a state over that of the best
    path of all.
    """

    states: IntArray
    weight: FloatArray
    score: FloatArray
    off_map: float
    off_map_score: float

    def heaviest(self, count: int) -> FilterState:
        """The `count` heaviest states alone, with weights that add up to 1 again."""
        kept = np.sort(np.argsort(-self.weight, kind="stable")[:count])
        total = float(self.weight[kept].sum()) + self.off_map
        return FilterState(
            self.states[kept],
            self.weight[kept] / total,
            self.score[kept],
            self.off_map / total,
            self.off_map_score,
        )


class _Taken(NamedTuple):
    """A photo that was taken in: the belief after it, where each state's best path came from, what the photo said.

    back: int64[A], positions in the states before, -1 for off the map; off_map_back as well. likelihood float64[A].
    """

    after: Belief
    back: IntArray
    off_map_back: int
    likelihood: FloatArray
    off_map_likelihood: float
    step: Step


class RouteFilter:
    """The filter of one route; `update` takes in one photo.

    Memory: `lag` photos of as many numbers as states are alive; a few hundred after some photos, all at first.
    """

    def __init__(
        self, motion: Motion, settings: FilterSettings | None = None, *, continued: FilterState | None = None
    ) -> None:
        self.motion = motion
        self.settings = settings or FilterSettings()
        states = np.flatnonzero(motion.entry)
        chance = motion.entry[states].astype(np.float64)
        self._entries = Entries(states, chance, motion.place[states], float(chance.max(initial=0.0)))
        self._slot = np.full(len(motion.place), -1)
        chances = self.settings
        self._chances = Chances(float(chances.leave), float(chances.enter), float(chances.least_weight))
        self.photos = 0
        self._taken: deque[_Taken] = deque(maxlen=self.settings.lag)
        self._before = self._entry() if continued is None else _belief(continued)
        self._begun = continued is not None

    def _entry(self) -> Belief:
        off_map = float(self.settings.starts_off_map)
        weight = self._entries.chance * (1.0 - off_map)
        return Belief(self._entries.states, weight, weight, off_map, off_map)

    @property
    def _belief(self) -> Belief:
        """The belief after the last photo."""
        return self._taken[-1].after if self._taken else self._before

    @property
    def state(self) -> FilterState:
        """The state after the last photo, from which the route can be continued."""
        return FilterState(*self._belief)

    def update(self, evidence: Evidence, step: Step = UNKNOWN) -> None:
        """Take in a photo and the way to it from the photo before; `QueryError` where the way leads nowhere at all."""
        before, place, chances = self._belief, self.motion.place, self._chances
        if self._begun:
            moves = self.motion.moves(before.states, step)
            taken = advance(moves, before, self._entries, place, evidence, chances, self._slot)
        else:
            taken = weigh(_stay(before), place, evidence, chances.least_weight)
        (after, back, off_map_back), likelihood, heaviest = taken
        if not heaviest > 0:
            raise QueryError(
                "No way leads on from where the route was; begin a new route.", reason="route_ended"
            )
        self._taken.append(_Taken(after, back, off_map_back, likelihood, evidence.outside, step))
        self._begun = True
        self.photos += 1

    def _moves(self, states: IntArray, step: Step) -> Moves:
        """The moves of the motion, less what leaves the map by chance."""
        found, leave = self.motion.moves(states, step), self.settings.leave
        stays = 1.0 - leave
        return Moves(found.source, found.target, found.weight * stays, leave + stays * found.leaving)

    def _leave(self, score: FloatArray, off_map_score: float, moves: Moves) -> tuple[float, int]:
        """The best path's score off the map after a move, and its origin; score: float64[A] of the states before."""
        staying = off_map_score * (1.0 - self.settings.enter)
        if len(score):
            leaving = score * moves.leaving
            leaver = int(leaving.argmax())
            if leaving[leaver] > staying:
                return float(leaving[leaver]), leaver
        return staying, OFF_MAP

    def posterior(self) -> PlacePosterior:
        """Where the last photo was taken."""
        belief = self._belief
        return self._by_place(belief.states, belief.weight, belief.off_map)

    def _by_place(self, states: IntArray, weight: FloatArray, off_map: float) -> PlacePosterior:
        place, number = np.unique(self.motion.place[states], return_inverse=True)
        total = _summed(number, weight, len(place))
        order = np.argsort(-total, kind="stable")
        return PlacePosterior(place[order], total[order], off_map)

    def path(self) -> IntArray:
        """Places of the most likely path through the last photos, `lag` at most: int64[T], `OFF_MAP` off the map."""
        if not self._taken:
            return np.zeros(0, np.int64)
        records = list(self._taken)
        backs = [(record.back, record.off_map_back) for record in records]
        end = _best_end(records[-1].after.score, records[-1].after.off_map_score)
        return self._traced(records, backs, end, len(records))

    def last_places(self, count: int) -> IntArray:
        """The most probable places of the last `count` photos together, int64[count]; all of them where fewer came.

        What came before is summed over and not maximised: the probability of the places is what the filter knows of the
        first of them, times the moves and photos since.
        """
        if not self._taken:
            return np.zeros(0, np.int64)
        if count == 1:
            posterior = self.posterior()
            likely = len(posterior.weight) and posterior.weight[0] >= posterior.off_map
            return np.array([posterior.places[0] if likely else OFF_MAP])
        records = list(self._taken)[max(0, len(self._taken) - count + self.motion.memory - 1) :]
        score, off_map_score = records[0].after.weight, records[0].after.off_map
        backs = [(np.zeros(0, np.int64), OFF_MAP)]
        for earlier, record in pairwise(records):
            moves, states = self._moves(earlier.after.states, record.step), record.after.states
            to_off_map, off_map_back = self._leave(score, off_map_score, moves)
            onward, back = best_ways(moves.source, moves.target, moves.weight, score, states, self._slot)
            entered = off_map_score * self.settings.enter * self.motion.entry[states]
            back = np.where(entered > onward, OFF_MAP, back)
            score, off_map_score = (
                np.maximum(onward, entered) * record.likelihood,
                to_off_map * record.off_map_likelihood,
            )
            best = max(float(score.max(initial=0.0)), off_map_score, 1e-300)
            score, off_map_score = score / best, off_map_score / best
            backs.append((back, off_map_back))
        return self._traced(records, backs, _best_end(score, off_map_score), min(count, len(self._taken)))

    def _traced(
        self, records: list[_Taken], backs: list[tuple[IntArray, int]], at: int, count: int
    ) -> IntArray:
        """The places int64[count] of the best path that ends at a position, by where each state's path came from."""
        found: list[int] = []
        for record, (back, off_map_back) in zip(reversed(records), reversed(backs), strict=True):
            state = OFF_MAP if at < 0 else int(record.after.states[at])
            found.append(OFF_MAP if at < 0 else int(self.motion.place[state]))
            if len(found) == len(records) < count:
                found.append(OFF_MAP if at < 0 else self.motion.came_from(state))
            if len(back) or at < 0:
                at = off_map_back if at < 0 else int(back[at])
        return np.array(found[::-1], np.int64)

    def smoothed(self) -> list[PlacePosterior]:
        """Where each of the last photos was taken, given all of them: up to `lag`, the oldest first."""
        if not self._taken:
            return []
        records = list(self._taken)
        beta, off_map_beta = np.ones(len(records[-1].after.states)), 1.0
        found = []
        for number in range(len(records) - 1, -1, -1):
            after = records[number].after
            weight, off_map = after.weight * beta, after.off_map * off_map_beta
            total = float(weight.sum()) + off_map
            found.append(self._by_place(after.states, weight / total, off_map / total))
            if number:
                beta, off_map_beta = self._backward(
                    records[number - 1].after, records[number], beta, off_map_beta
                )
        return found[::-1]

    def _backward(
        self, before: Belief, taken: _Taken, beta: FloatArray, off_map_beta: float
    ) -> tuple[FloatArray, float]:
        """Likelihood of all later photos from each state before one, float64[A], up to a common factor."""
        moves = self._moves(before.states, taken.step)
        later = np.zeros(len(self.motion.place))
        later[taken.after.states] = taken.likelihood * beta
        outside = taken.off_map_likelihood * off_map_beta
        earlier = _summed(moves.source, moves.weight * later[moves.target], len(before.states))
        earlier += moves.leaving * outside
        enter = self.settings.enter
        off_map = (1.0 - enter) * outside + enter * float(self.motion.entry @ later)
        scale = max(float(earlier.max(initial=0.0)), off_map, 1e-300)
        return earlier / scale, off_map / scale


def _belief(state: FilterState) -> Belief:
    return Belief(state.states, state.weight, state.score, state.off_map, state.off_map_score)


def _stay(before: Belief) -> Arrival:
    """The states before a first photo, which no move led to."""
    return Arrival(before, np.full(len(before.states), OFF_MAP), OFF_MAP)


def _summed(number: IntArray, values: FloatArray, count: int) -> FloatArray:
    """Sums float64[count] of values float64[E] by number int64[E]."""
    return np.bincount(number, values, count).astype(np.float64, copy=False)


def _best_end(score: FloatArray, off_map_score: float) -> int:
    """The position of the best of scores float64[A], `OFF_MAP` where being off the map is better."""
    if not len(score):
        return OFF_MAP
    at = int(score.argmax())
    return OFF_MAP if off_map_score > score[at] else at
