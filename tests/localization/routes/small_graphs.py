"""Small street graphs, and the probabilities of all walks through them by listing every one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from geoloc.geometry.street_graph import StreetGraph
from geoloc.localization.routes.emission import evidence_of_logs
from geoloc.localization.routes.kernels import Evidence

OFF = -1


def random_graph(seed: int, count: int = 5) -> StreetGraph:
    rng = np.random.default_rng(seed)
    pairs = np.array(list(itertools.combinations(range(count), 2)))
    links = pairs[rng.random(len(pairs)) < 0.5]
    if not len(links):
        links = pairs[:1]
    return StreetGraph(
        rng.uniform(0, 50, count), rng.uniform(0, 50, count), rng.uniform(0, 360, count), links
    )


def grid_graph(side: int, spacing_m: float = 10.0) -> StreetGraph:
    """A square grid of streets; node row * side + column lies at (column, row) * spacing_m."""
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    number = (row * side + column).astype(np.int64)
    across = np.stack([number[:, :-1].ravel(), number[:, 1:].ravel()], -1)
    along = np.stack([number[:-1].ravel(), number[1:].ravel()], -1)
    links = np.concatenate([across, along])
    return StreetGraph(
        column.ravel() * spacing_m, row.ravel() * spacing_m, np.full(side * side, np.nan), links
    )


def random_evidence(rng: np.random.Generator, places: int, *, outside: bool) -> Evidence:
    values = rng.normal(0, 2, places)
    outside_log = float(rng.normal(0, 1)) if outside else -np.inf
    return evidence_of_logs(np.arange(places), values, 0.0, outside_log)


@dataclass
class Walks:
    """All sequences of places with their probabilities given the photos: walks int64[W, T], chance float64[W]."""

    walks: np.ndarray
    chance: np.ndarray

    def marginal(self, photo: int) -> dict[int, float]:
        return {
            int(place): float(self.chance[self.walks[:, photo] == place].sum())
            for place in np.unique(self.walks[:, photo])
        }

    def best(self) -> np.ndarray:
        return self.walks[self.chance.argmax()]

    def best_end(self, count: int) -> np.ndarray:
        ends, number = np.unique(self.walks[:, -count:], axis=0, return_inverse=True)
        return ends[np.bincount(number.ravel(), self.chance).argmax()]


def all_walks(
    graph: StreetGraph,
    evidence: list[Evidence],
    *,
    leave: float,
    enter: float,
    starts_off_map: float,
    turn_back: float,
) -> Walks:
    """By listing all sequences of places: written from the words of the model, without any of its code."""
    count, places = len(graph), range(OFF, len(graph))
    beside = {v: {int(b if a == v else a) for a, b in graph.links if v in (a, b)} for v in range(count)}

    def first(place: int) -> float:
        return starts_off_map if place == OFF else (1 - starts_off_map) / count

    def onward(before: int, here: int) -> dict[int, float]:
        """Probabilities of the next place from `here`, which was reached from `before` (off the map: anyhow)."""
        if here == OFF:
            return {OFF: 1 - enter} | dict.fromkeys(range(count), enter / count)
        ways = beside[here] - {before}
        back = turn_back if before in beside[here] else 0.0
        chance = {way: (1 - back) / len(ways) for way in ways}
        if back:
            chance[before] = back
        moved = {place: (1 - leave) * value for place, value in chance.items()}
        return moved | {OFF: leave + (1 - leave) * (1 - sum(chance.values()))}

    walks, chances = [], []
    for walk in itertools.product(places, repeat=len(evidence)):
        chance = first(walk[0])
        for number in range(1, len(walk)):
            before = walk[number - 2] if number > 1 else OFF
            chance *= onward(before, walk[number - 1]).get(walk[number], 0.0)
            if chance == 0.0:
                break
        if chance == 0.0:
            continue
        for place, said in zip(walk, evidence, strict=True):
            chance *= said.outside if place == OFF else np.exp(said.similarity[place] - said.top)
        walks.append(walk)
        chances.append(chance)
    chance = np.array(chances)
    return Walks(np.array(walks), chance / chance.sum())
