"""The compiled inner loops of the route filter: moves that meet in a state, and what a photo says of the live states.

They evaluate likelihoods at live states alone, so a step costs as many operations as there are moves, and not as many
as the map has places. The memory of a call is a few numbers for each move. A list of live states has no order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from geoloc.core.arrays import FloatArray, IntArray

OFF_MAP = -1
"""The place of a photo that was not taken on the map."""
_NOTHING = -40.0  # exp(-40) is lost in the sum of a softmax over fewer than a million places
_LEAST_SCORE = 1e-300
_LOG2_E, _LOG_2 = 1.4426950408889634, 0.6931471805599453
_LEAST_POWER = -1000.0  # of 2, which a double can still hold
_ROUND = 6755399441055744.0  # 1.5 * 2^52: a double plus this is rounded to a whole number, in its lowest bits


class Evidence(NamedTuple):
    """What one photo says: likelihoods of places up to a common factor.

    Those of places int64[K], ascending, that were compared: (gain exp(rate (similarity - top)) + base) ^ weight, with
    similarity float64[K]. Every other place has `others`, and all that is not on the map has `outside`. `all_places`:
    every place of the map was compared, in order, and `places` is not read.
    """

    similarity: FloatArray
    places: IntArray
    all_places: bool
    top: float
    rate: float
    gain: float
    base: float
    weight: float
    others: float
    outside: float

    def at(self, places: IntArray) -> FloatArray:
        """Likelihoods float64[A] of places int64[A]."""
        return np.asarray(likelihoods(self, places))


class Moves(NamedTuple):
    """Weighted moves from some states, E of them.

    source: int64[E], positions in the list of those states, ascending. target: int64[E], states. weight: float64[E],
    the probability of the move times the likelihood of what was observed of it. leaving: float64[A], the probability
    that a state's move leads off the map.
    """

    source: IntArray
    target: IntArray
    weight: FloatArray
    leaving: FloatArray


class Belief(NamedTuple):
    """Live states int64[A] with weights and best path scores float64[A], and both of being off the map."""

    states: IntArray
    weight: FloatArray
    score: FloatArray
    off_map: float
    off_map_score: float


class Arrival(NamedTuple):
    """A belief after a move, and where the best path of each state came from: positions int64[A], or off the map."""

    belief: Belief
    back: IntArray
    off_map_back: int


class Entries(NamedTuple):
    """States int64[n] where a route may begin, their probabilities float64[n] and places int64[n]; the greatest one."""

    states: IntArray
    chance: FloatArray
    places: IntArray
    most: float


class Chances(NamedTuple):
    """Of leaving the map and of coming back to it, and the share of the heaviest state below which one is dropped."""

    leave: float
    enter: float
    least_weight: float


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nnan", "nsz"})
def softmax_total(similarity: FloatArray, top: float, rate: float) -> float:
    """The sum of exp(rate (similarity - top)) over similarities float64[K] of at most `top`.

    exp(x) is 2^n exp(f) with an integer n and |f| <= log(2) / 2, a Taylor series of degree 8 (error 3e-10). Written so,
    the loops become vector instructions.
    """
    count, scale = len(similarity), rate * _LOG2_E
    whole, values = np.empty(count), np.empty(count)
    for number in range(count):
        power = max(scale * (similarity[number] - top), _LEAST_POWER)
        shifted = power + _ROUND
        rest = (power - (shifted - _ROUND)) * _LOG_2
        value = 1.0 / 40320.0
        value = value * rest + 1.0 / 5040.0
        value = value * rest + 1.0 / 720.0
        value = value * rest + 1.0 / 120.0
        value = value * rest + 1.0 / 24.0
        value = value * rest + 1.0 / 6.0
        value = value * rest + 0.5
        value = value * rest + 1.0
        whole[number], values[number] = shifted, value * rest + 1.0
    exponent, bits = whole.view(np.int64), values.view(np.int64)
    for number in range(count):
        bits[number] += exponent[number] << 52  # of a double: its exponent
    return _sum(values)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc"})
def _sum(values: FloatArray) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


@numba.njit(cache=True, nogil=True)
def _likelihood(evidence: Evidence, place: int, floor: float) -> float:
    """Of one place; `floor` is base ^ weight."""
    at = place
    if not evidence.all_places:
        at = int(np.searchsorted(evidence.places, place))
        if at == len(evidence.places) or evidence.places[at] != place:
            return evidence.others
    exponent = evidence.rate * (evidence.similarity[at] - evidence.top)
    if evidence.base > 0.0 and exponent < _NOTHING and evidence.gain < 1e6 * evidence.base:
        return floor
    value = evidence.gain * math.exp(exponent) + evidence.base
    return value if evidence.weight == 1.0 else value**evidence.weight


@numba.njit(cache=True, nogil=True)
def likelihoods(evidence: Evidence, places: IntArray) -> FloatArray:
    """Likelihoods float64[A] of places int64[A]."""
    floor = evidence.base**evidence.weight
    found = np.empty(len(places))
    for number in range(len(places)):
        found[number] = _likelihood(evidence, places[number], floor)
    return found


@numba.njit(cache=True, nogil=True)
def row_entries(
    starts: IntArray, targets: IntArray, weights: FloatArray, leaving: FloatArray, states: IntArray
) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """(source, target, weight, leaving) of all moves of states int64[A]; a state's moves are a row of a sparse matrix.

    starts: int64[S + 1]; targets, weights: of all moves; leaving: float64[S].
    """
    count = 0
    for state in states:
        count += starts[state + 1] - starts[state]
    source, target, weight = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    leaves = np.empty(len(states))
    move = 0
    for number in range(len(states)):
        state = states[number]
        leaves[number] = leaving[state]
        for entry in range(starts[state], starts[state + 1]):
            source[move], target[move], weight[move] = number, targets[entry], weights[entry]
            move += 1
    return source, target, weight, leaves


@numba.njit(cache=True, nogil=True)
def advance(
    moves: Moves,
    before: Belief,
    entries: Entries,
    places: IntArray,
    evidence: Evidence,
    chances: Chances,
    slot: IntArray,
) -> tuple[Arrival, FloatArray, float]:
    """One step of the filter: the belief after moves, weighed by a photo; see `weigh` for what it gives.

    It is one call, because a call from Python costs as much as the work on a hundred states. places: int64[S] of the
    states. slot: int64[S] of -1 for each state there is, and so again at the end.
    """
    arrival = _arrive(moves, before, chances, slot)
    if before.off_map * chances.enter > 0.0:
        arrival = _enter(arrival, before, entries, places, evidence, chances, slot)
    return weigh(arrival, places, evidence, chances.least_weight)


@numba.njit(cache=True, nogil=True)
def _arrive(moves: Moves, before: Belief, chances: Chances, slot: IntArray) -> Arrival:
    """The states after moves, before the photo has weighed them. slot: as in `advance`."""
    source, target, move, leaving = moves
    stays, live = 1.0 - chances.leave, 0
    states, back = np.empty(len(target), np.int64), np.empty(len(target), np.int64)
    weight, score = np.empty(len(target)), np.empty(len(target))
    for number in range(len(target)):
        state, start = target[number], source[number]
        at = slot[state]
        if at < 0:
            at = slot[state] = live
            states[at], weight[at], score[at], back[at] = state, 0.0, -1.0, OFF_MAP
            live += 1
        chance = move[number] * stays
        weight[at] += before.weight[start] * chance
        onward = before.score[start] * chance
        if onward >= score[at]:
            score[at], back[at] = onward, start
    for at in range(live):
        slot[states[at]] = -1
    off_map = before.off_map * (1.0 - chances.enter)
    off_map_score, off_map_back = before.off_map_score * (1.0 - chances.enter), OFF_MAP
    for start in range(len(leaving)):
        chance = chances.leave + stays * leaving[start]
        off_map += before.weight[start] * chance
        if before.score[start] * chance > off_map_score:
            off_map_score, off_map_back = before.score[start] * chance, start
    belief = Belief(states[:live], weight[:live], score[:live], off_map, off_map_score)
    return Arrival(belief, back[:live], off_map_back)


@numba.njit(cache=True, nogil=True)
def _heaviest(belief: Belief, places: IntArray, evidence: Evidence) -> float:
    """The greatest weight of a belief once the photo has weighed it."""
    floor, heaviest = evidence.base**evidence.weight, belief.off_map * evidence.outside
    for at in range(len(belief.states)):
        weight = belief.weight[at] * _likelihood(evidence, places[belief.states[at]], floor)
        heaviest = max(heaviest, weight)
    return heaviest


@numba.njit(cache=True, nogil=True)
def _enter(
    arrival: Arrival,
    before: Belief,
    entries: Entries,
    places: IntArray,
    evidence: Evidence,
    chances: Chances,
    slot: IntArray,
) -> Arrival:
    """The same with the states that are also reached from off the map, as far as the photo would not drop them.

    places, slot: as in `advance`.
    """
    entering = before.off_map * chances.enter
    floor = evidence.base**evidence.weight
    most = max((evidence.gain + evidence.base) ** evidence.weight, evidence.others)
    belief = arrival.belief
    upper = max(1e-300, chances.least_weight * _heaviest(belief, places, evidence))
    if entering <= 0.0 or entering * entries.most * most < upper:
        return arrival
    live = len(belief.states)
    room = live + len(entries.states)
    states, back = np.empty(room, np.int64), np.empty(room, np.int64)
    weight, score = np.empty(room), np.empty(room)
    states[:live], weight[:live], score[:live], back[:live] = (
        belief.states,
        belief.weight,
        belief.score,
        arrival.back,
    )
    for at in range(live):
        slot[states[at]] = at
    for number in range(len(entries.states)):
        chance = chances.enter * entries.chance[number]
        likelihood = _likelihood(evidence, entries.places[number], floor)
        if before.off_map * chance * likelihood < upper:
            continue
        at = slot[entries.states[number]]
        if at < 0:
            at = live
            states[at], weight[at], score[at], back[at] = entries.states[number], 0.0, -1.0, OFF_MAP
            live += 1
        weight[at] += before.off_map * chance
        if before.off_map_score * chance > score[at]:
            score[at], back[at] = before.off_map_score * chance, OFF_MAP
    for at in range(len(belief.states)):
        slot[states[at]] = -1
    entered = Belief(states[:live], weight[:live], score[:live], belief.off_map, belief.off_map_score)
    return Arrival(entered, back[:live], arrival.off_map_back)


@numba.njit(cache=True, nogil=True)
def weigh(
    arrival: Arrival, places: IntArray, evidence: Evidence, least_weight: float
) -> tuple[Arrival, FloatArray, float]:
    """An arrival that the photo has weighed, with likelihoods float64[A] and the greatest weight before it was scaled.

    Weights add up to 1 and the best score is 1. Lighter states than the share `least_weight` of the heaviest are
    dropped. Where nothing has a weight, the greatest one is 0 and the arrival is as it was.
    """
    belief = arrival.belief
    count, live, total = len(belief.states), 0, 0.0
    floor = evidence.base**evidence.weight
    likelihood, weighed = np.empty(count), np.empty(count)
    off_map, off_map_score = belief.off_map * evidence.outside, belief.off_map_score * evidence.outside
    heaviest, best = off_map, off_map_score
    for at in range(count):
        likelihood[at] = _likelihood(evidence, places[belief.states[at]], floor)
        weighed[at] = belief.weight[at] * likelihood[at]
        heaviest = max(heaviest, weighed[at])
    if not heaviest > 0.0:
        return arrival, likelihood, 0.0
    states, back = np.empty(count, np.int64), np.empty(count, np.int64)
    weight, score, said = np.empty(count), np.empty(count), np.empty(count)
    for at in range(count):
        if weighed[at] < least_weight * heaviest:
            continue
        states[live], back[live], said[live] = belief.states[at], arrival.back[at], likelihood[at]
        weight[live], score[live] = weighed[at], belief.score[at] * likelihood[at]
        total += weighed[at]
        best = max(best, score[live])
        live += 1
    total, best = total + off_map, max(best, _LEAST_SCORE)
    for at in range(live):
        weight[at] /= total
        score[at] /= best
    weighted = Belief(
        states[:live].copy(), weight[:live].copy(), score[:live].copy(), off_map / total, off_map_score / best
    )
    return Arrival(weighted, back[:live].copy(), arrival.off_map_back), said[:live].copy(), heaviest


@numba.njit(cache=True, nogil=True)
def best_ways(
    source: IntArray, target: IntArray, move: FloatArray, score: FloatArray, states: IntArray, slot: IntArray
) -> tuple[FloatArray, IntArray]:
    """Best scores float64[A] of states int64[A] over moves from scores float64[B], and where they come from.

    slot: as in `advance`. A state that no move reaches has the score 0.
    """
    found, back = np.zeros(len(states)), np.full(len(states), OFF_MAP)
    for at in range(len(states)):
        slot[states[at]] = at
    for number in range(len(target)):
        at = slot[target[number]]
        if at >= 0:
            onward = score[source[number]] * move[number]
            if onward > 0.0 and onward >= found[at]:
                found[at], back[at] = onward, source[number]
    for at in range(len(states)):
        slot[states[at]] = -1
    return found, back
