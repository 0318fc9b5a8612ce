"""Routes on a real street graph with simulated embeddings: the published enumeration against the filter.

    python studies/routes/measure.py --root ../shared/data/map25d --area wallstreet5kU

The text and the tables are in docs/routes.md. The noise of the photos is set so that a single photo finds its place
with the published probability. The emission and its weight are fitted on another drive: fresh noise of the same
strength and other walks, in another area with `--fit-area`. Times are of the thread's processor, so that other
processes disturb them less.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.geometry.street_graph import StreetGraph, random_routes
from geoloc.localization.routes.emission import EmissionModel, fit_emission, similarity_of_distance
from geoloc.localization.routes.enumeration import OVERLAP, CulledEnumeration, turn_bits
from geoloc.localization.routes.filter import FilterSettings, PlacePosterior, RouteFilter
from geoloc.localization.routes.motion import HopMotion, Step
from geoloc.sources.street_graphs import graph_of_area

LENGTHS = (5, 10, 20, 40)
DIM = 64
TOP1 = {"wallstreet5kU": 0.6088, "hudsonriver5kU": 0.6710, "unionsquare5kU": 0.8296}
"""Published share of single photos that find their place."""
SIMILARITIES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "log": similarity_of_distance,
    "squared": lambda distance: -(distance**2),
}
WEIGHTS = (1.0, 0.85, 0.7, 0.5, 0.35, 0.25)
STAYS = FilterSettings(leave=0.0, enter=0.0, starts_off_map=0.0)  # on the map, as the published routes do
SETTINGS = {"filter": STAYS, "light filter": replace(STAYS, least_weight=1e-3)}
PUBLISHED, ADDED_LOGS = "published", "published, logs added"
TURN_BACK = 0.001
ALIKE, STREET_M, HARDNESS = 0.95, 60.0, 0.6
SURE = (0.0, 0.5, 0.9, 0.99)
"""Bins of the heaviest place's probability."""


@dataclass(frozen=True)
class Simulated:
    """Embeddings of the map, float32[N, DIM], and what the noise of a drive is: see `drive`."""

    graph: StreetGraph
    places: FloatArray
    shared: float
    sigma: float

    @cached_property
    def motion(self) -> HopMotion:
        """How the routes move."""
        return HopMotion(self.graph, turn_back=TURN_BACK)

    def drive(self, rng: np.random.Generator, sigma: float | None = None) -> FloatArray:
        """Embeddings of the photos of all places, float32[N, DIM].

        The `shared` part of the noise is common to photos of a street within about 60 m, as weather, season and what
        hides the houses are. Its strength is log-normal (0.6); half of that is common in the same way, so whole streets
        are harder than others.
        """
        count = len(self.graph)
        noise = np.sqrt(1 - self.shared) * rng.normal(size=(count, DIM))
        noise += np.sqrt(self.shared) * smooth(self.graph, STREET_M, rng)
        street = smooth(self.graph, STREET_M, rng)[:, :1]
        harder = np.exp(HARDNESS * np.sqrt(0.5) * (rng.normal(size=(count, 1)) + street))
        return (self.places + (sigma or self.sigma) * harder * noise).astype("f4")


def smooth(graph: StreetGraph, scale_m: float, rng: np.random.Generator) -> FloatArray:
    """Gaussian fields of unit variance over the places, float64[N, DIM], by random Fourier features."""
    waves, phase = rng.normal(size=(2, 256)) / scale_m, rng.uniform(0, 2 * np.pi, 256)
    basis = np.sqrt(2 / 256) * np.cos(np.stack([graph.x, graph.y], -1) @ waves + phase)
    return np.asarray(basis @ rng.normal(size=(256, DIM)))


def distances(photos: FloatArray, places: FloatArray) -> FloatArray:
    """Euclidean distances float64[Q, N]."""
    squared = (photos**2).sum(1)[:, None] - 2 * photos @ places.T + (places**2).sum(1)
    return np.sqrt(np.maximum(squared, 0)).astype(np.float64)


def simulate(graph: StreetGraph, top1: float, shared: float, rng: np.random.Generator) -> Simulated:
    """A map whose places resemble their neighbours, and the noise that gives `top1`.

    Tiles of 152 m every 10 m show nearly the same, so their embeddings correlate by 0.92.
    """
    own = np.sqrt(1 - ALIKE) * rng.normal(size=(len(graph), DIM)) + np.sqrt(ALIKE) * smooth(graph, 40.0, rng)
    found = Simulated(graph, own.astype("f4"), shared, 1.0)
    some, low, high = rng.choice(len(graph), 1000, replace=False), 0.1, 10.0
    for number in range(10):
        sigma = float(np.sqrt(low * high))
        photos = found.drive(np.random.default_rng([number, 17]), sigma)
        right = (distances(photos[some], found.places).argmin(1) == some).mean()
        low, high = (sigma, high) if right > top1 else (low, sigma)
    return Simulated(graph, found.places, shared, float(np.sqrt(low * high)))


def steps_of(graph: StreetGraph, route: IntArray, turns: bool) -> list[Step]:
    """What is known of the way to each photo: the published turn bit, or nothing."""
    if not turns:
        return [Step()] * len(route)
    bits = turn_bits(graph.yaw_deg, route[:-1], route[1:])
    return [Step(), *(Step(turned=bool(bit)) for bit in bits)]


def probability(posterior: PlacePosterior, place: int) -> float:
    """That of a place; 0 where it was dropped."""
    return float(posterior.weight[posterior.places == place].sum())


def fit(
    simulated: Simulated,
    routes: IntArray,
    similarity: Callable[[FloatArray], FloatArray],
    rng: np.random.Generator,
) -> EmissionModel:
    """The emission by single photos, then the weight that gives true places the greatest probability on routes."""
    photos = simulated.drive(rng)
    some = rng.choice(len(simulated.graph), 200, replace=False)
    model = fit_emission(similarity(distances(photos[some], simulated.places)), some)
    scores = []
    for weight in WEIGHTS:
        weighted, logs = model.model_copy(update={"weight": weight}), []
        for route in routes:
            follow = RouteFilter(simulated.motion, SETTINGS["filter"])
            for place, row in zip(route, distances(photos[route], simulated.places), strict=True):
                follow.update(weighted.evidence(similarity(row)))
                logs.append(np.log(max(probability(follow.posterior(), place), 1e-12)))
        scores.append(float(np.mean(logs)))
    return model.model_copy(update={"weight": WEIGHTS[int(np.argmax(scores))]})


Sums = dict[str, dict[str, float]]


def judge(sums: dict[str, float], posterior: PlacePosterior, place: int) -> None:
    """Add one step to the test of a posterior, by the probability of the heaviest place.

    What is added: a step, the probability that it promises, whether that place is right, and whether the 90 % region
    holds the truth. Below 0.9 the region has several places, so its share can be wrong.
    """
    top = float(posterior.weight[0]) if len(posterior.weight) else 0.0
    at = int(np.searchsorted(SURE, top, side="right")) - 1
    right = float(len(posterior.places) > 0 and posterior.places[0] == place)
    values = {"steps": 1.0, "promised": top, "right": right, "90 %": posterior.holds(place)}
    for name, value in values.items():
        sums[f"{SURE[at]:g}: {name}"] += value


@dataclass(frozen=True)
class Follower:
    """What follows routes on a map: the published enumeration, with distances or their logarithms, and the filters."""

    simulated: Simulated
    model: EmissionModel
    similarity: Callable[[FloatArray], FloatArray]

    def add(self, rows: FloatArray, route: IntArray, steps: list[Step], sums: Sums) -> None:
        """Add the figures of one route: rows float64[T, N] are the distances of its photos from all places."""
        graph = self.simulated.graph
        published = {name: CulledEnumeration(graph) for name in (PUBLISHED, ADDED_LOGS)}
        filters = {name: RouteFilter(self.simulated.motion, settings) for name, settings in SETTINGS.items()}
        sums["single photo"]["all"] += float((rows.argmin(1) == route).mean())
        logs = np.log(rows) - np.log(rows).min()
        for length, (row, added, similarity, step) in enumerate(
            zip(rows, logs, self.similarity(rows), steps, strict=True), 1
        ):
            ends = [time.thread_time()]
            for search, distance in zip(published.values(), (row, added), strict=True):
                search.step(distance, step.turned)
                ends.append(time.thread_time())
            for follow in filters.values():
                follow.update(self.model.evidence(similarity), step)
                ends.append(time.thread_time())
            part, count = ("first 5", OVERLAP) if length <= OVERLAP else ("later", len(route) - OVERLAP)
            for name, seconds in zip([*published, *filters], np.diff(ends), strict=True):
                sums[f"{name} ms"]["all"] += 1e3 * seconds / len(route)
                sums[f"{name} ms"][part] += 1e3 * seconds / count
            for name, follow in filters.items():
                judge(sums[f"{name} posterior"], follow.posterior(), int(route[length - 1]))
            if length in LENGTHS:
                found = {name: search.finds(route[:length]) for name, search in published.items()}
                for name, follow in filters.items():
                    found[name] = np.array_equal(follow.last_places(OVERLAP), route[:length][-OVERLAP:])
                compare(sums, str(length), found)


def compare(sums: Sums, length: str, found: dict[str, bool]) -> None:
    """Add whether each algorithm found a route, and where the filter and the published one differ."""
    for name, right in found.items():
        sums[name][length] += right
    sums["filter alone right"][length] += found["filter"] and not found[PUBLISHED]
    sums["published alone right"][length] += found[PUBLISHED] and not found["filter"]


def measure(follower: Follower, routes: IntArray, photos: FloatArray, turns: bool, sums: Sums) -> None:
    """Add the figures of routes int64[R, T] by photos float32[N, DIM] of all places."""
    simulated = follower.simulated
    for route in routes:
        rows = distances(photos[route], simulated.places)
        follower.add(rows, route, steps_of(simulated.graph, route, turns), sums)


def shares(sums: Sums, routes: int) -> Sums:
    """Shares of routes, or of the steps of a bin; ms of a step."""
    found: Sums = {}
    for name, row in sums.items():
        of_steps = name.endswith("posterior")
        found[name] = {
            key: round(value / (row[f"{key.split(':')[0]}: steps"] if of_steps else routes), 4)
            for key, value in row.items()
            if not key.endswith("steps")
        }
        if of_steps:
            steps = {key: value for key, value in row.items() if key.endswith("steps")}
            held = sum(value for key, value in row.items() if key.endswith("90 %"))
            found[name] |= {**steps, "all: 90 %": round(held / sum(steps.values()), 4)}
    return found


def main() -> None:
    """Measure one area and write the figures as JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of the data set's metadata")
    parser.add_argument("--area", default="wallstreet5kU", choices=TOP1)
    parser.add_argument(
        "--fit-area", choices=TOP1, help="area of the photos that fit the emission; default: the same"
    )
    parser.add_argument("--similarity", default="log", choices=SIMILARITIES)
    parser.add_argument("--shared", type=float, default=0.3, help="share of the noise that neighbours share")
    parser.add_argument("--routes", type=int, default=300, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--turns", action="store_true", help="both algorithms are given the published turn bit"
    )
    given = parser.parse_args()
    graph, similarity = graph_of_area(given.root, given.area).graph, SIMILARITIES[given.similarity]
    fit_area = given.fit_area or given.area
    fit_graph = graph_of_area(given.root, fit_area).graph
    sums: Sums = defaultdict(lambda: defaultdict(float))
    models = []
    for seed in given.seeds:
        fitted = simulate(fit_graph, TOP1[fit_area], given.shared, np.random.default_rng([seed, 3]))
        model = fit(fitted, walks(fit_graph, 20, 20, 2, seed), similarity, np.random.default_rng([seed, 1]))
        simulated = simulate(graph, TOP1[given.area], given.shared, np.random.default_rng([seed, 0]))
        photos = simulated.drive(np.random.default_rng([seed, 2]))
        routes = walks(graph, given.routes, max(LENGTHS), 1, seed)
        measure(Follower(simulated, model, similarity), routes, photos, given.turns, sums)
        models.append({"seed": seed, "sigma": simulated.sigma, **model.model_dump()})
    report = {**vars(given), "models": models, **shares(sums, given.routes * len(given.seeds))}
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


def walks(graph: StreetGraph, count: int, photos: int, kind: int, seed: int) -> IntArray:
    """Random walks int64[count, photos] that follow from a kind and a seed."""
    return random_routes(
        graph, count, photos, lambda route, attempt: np.random.default_rng([kind, seed, route, attempt])
    )


if __name__ == "__main__":
    main()
