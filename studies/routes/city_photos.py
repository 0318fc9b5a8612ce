"""Routes of the procedural city with embeddings of real pictures: single photos of limited view against the filter.

    geoloc city --seed 211 --train-photos 1 --validation-photos 150 --test-photos 100 --distractors 600 \
        --anywhere-photos 0 --routes 20 --output CITY
    geoloc index build --imagery CITY/validation/imagery --output INDEX
    python studies/routes/city_photos.py --routes CITY/validation/routes --index INDEX

Headings are unknown. Every second route is measured with the emission, and its weight, that the other routes fit, and
the other way round. A route of N photos is a piece of a longer one; pieces do not overlap. The text and the table
are in docs/routes.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from geoloc import Localizer
from geoloc.core import geodesy, storage
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.geometry.street_graph import MappedGraph
from geoloc.localization.localizer import picture
from geoloc.localization.locator import SearchResult
from geoloc.localization.query_photos import Photo, photo
from geoloc.localization.routes.emission import EmissionModel
from geoloc.localization.routes.filter import RouteFilter
from geoloc.localization.routes.motion import Step
from geoloc.localization.routes.ongoing_route import USUAL_EMISSION
from geoloc.localization.routes.route_fix import route_fix
from geoloc.localization.routes.route_map import RouteMap, emission_of_search
from geoloc.sources.street_graphs import read_graph

LENGTHS = (1, 5, 10, 20)
NEAR_M = 25.0
WEIGHTS = (1.0, 0.7, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class SearchedRoutes:
    """The photos of a district's routes after their search, route by route.

    steps: of all Q photos; route: int64[Q]; lat, lon: float64[Q] degrees, where they were taken.
    """

    localizer: Localizer
    found: SearchResult
    steps: list[Step]
    route: IntArray
    lat: FloatArray
    lon: FloatArray
    streets: MappedGraph

    @property
    def bits(self) -> int:
        """Bits of the index's codes."""
        return self.localizer.locator.snapshot.bits

    def apart_m(self, photos: slice | int, lat: float, lon: float) -> FloatArray:
        """Metres between photos and a position."""
        return np.asarray(geodesy.distance_m(self.lat[photos], self.lon[photos], lat, lon))

    def only(self, kept: BoolArray) -> SearchedRoutes:
        """The photos where kept bool[Q] is true; whole routes."""
        rows = np.flatnonzero(kept)
        matches, columns = (
            self.found.matches,
            ("rows", "tile_ids", "lat", "lon", "distance_bits", "similarity"),
        )
        kept_matches = replace(matches, **{name: getattr(matches, name)[rows] for name in columns})
        found = SearchResult(kept_matches, self.found.heading_deg[rows])
        steps = [self.steps[row] for row in rows]
        return replace(
            self, found=found, steps=steps, route=self.route[rows], lat=self.lat[rows], lon=self.lon[rows]
        )

    def pieces(self, length: int) -> Iterator[range]:
        """The photos of every piece of `length` photos; pieces of a route do not overlap."""
        for number in np.unique(self.route):
            photos = np.flatnonzero(self.route == number)
            for first in range(0, len(photos) - length + 1, length):
                yield range(int(photos[first]), int(photos[first]) + length)


def searched_routes(folder: str, index: str, matches: int) -> SearchedRoutes:
    """Search the photos of a district's routes in the index of its imagery."""
    rows = list(csv.DictReader(io.StringIO(storage.read_text(storage.join(folder, "photos.csv")))))
    localizer = Localizer.open(index)
    found = localizer.search_route_photos([_photo(folder, row) for row in rows], k=matches, rerank=matches)
    steps = [Step(moved_m=_number(row["moved_m"]), turn_deg=_number(row["turn_deg"])) for row in rows]
    lat, lon = np.array([[float(row["lat"]), float(row["lon"])] for row in rows]).T
    route = np.array([int(row["route_id"]) for row in rows])
    streets = read_graph(storage.join(folder, "streets.csv"))
    return SearchedRoutes(localizer, found, steps, route, lat, lon, streets)


def _photo(folder: str, row: dict[str, str]) -> Photo:
    pixels = picture(storage.join(folder, "photos", row["photo"])).pixels
    return photo(pixels, view=row["view"], fov_deg=float(row["fov_deg"]))


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def follow(
    routes: SearchedRoutes, route_map: RouteMap, emission: EmissionModel, photos: range, odometer: bool
) -> Iterator[RouteFilter]:
    """The filter after each of some photos; without the odometer a photo is about 12 m from the one before."""
    route = RouteFilter(route_map.motion)
    for number in photos:
        step = routes.steps[number] if odometer else Step(moved_m=12.0, moved_sd_m=12.0)
        route.update(route_map.evidence(routes.found, number, routes.bits, emission), step)
        yield route


def fitted(routes: SearchedRoutes, route_map: RouteMap) -> EmissionModel:
    """The emission of single photos, with the weight that gives true places the greatest probability on routes."""
    tiles = len(route_map.rows)
    model = emission_of_search(routes.found, routes.lat, routes.lon, routes.bits, tiles=tiles, near_m=NEAR_M)
    scores = []
    for weight in WEIGHTS:
        weighted, logs = model.model_copy(update={"weight": weight}), []
        for photos in routes.pieces(max(LENGTHS)):
            for number, route in zip(photos, follow(routes, route_map, weighted, photos, True), strict=True):
                posterior = route.posterior()
                at = posterior.places
                near = geodesy.distance_m(
                    route_map.lat[at], route_map.lon[at], routes.lat[number], routes.lon[number]
                )
                logs.append(np.log(max(float(posterior.weight[near <= NEAR_M].sum()), 1e-9)))
        scores.append(float(np.mean(logs)))
    return model.model_copy(update={"weight": WEIGHTS[int(np.argmax(scores))]})


Answers = dict[int, list[tuple[float, float]]]
"""By the length of a route: metres from the truth to the last position, and the radius promised (NaN without)."""


def measure(
    routes: SearchedRoutes, route_map: RouteMap, emission: EmissionModel, odometer: bool, answers: Answers
) -> None:
    """Add the answers to the routes of each length."""
    for length in LENGTHS:
        for photos in routes.pieces(length):
            *_, route = follow(routes, route_map, emission, photos, odometer)
            fix = route_fix(route, route_map, routes.localizer.snapshot_id, calibrated=True).present
            unknown = fix.lat is None or fix.lon is None
            apart_m = np.inf if unknown else float(routes.apart_m(photos[-1], fix.lat, fix.lon))
            answers[length].append((apart_m, np.nan if fix.radius_m is None else fix.radius_m))


def shares(answers: Answers) -> dict[str, dict[str, float]]:
    """Of each length: routes, per cent within 25 m, median error, and per cent of radii (10 m or more) that held."""
    found = {}
    for length, pairs in answers.items():
        apart_m, radius_m = np.array(pairs).T
        promised = np.isfinite(radius_m)
        held = apart_m[promised] <= np.maximum(radius_m[promised], 10.0)
        found[str(length)] = {
            "routes": len(pairs),
            "within 25 m": round(100 * float((apart_m <= NEAR_M).mean()), 1),
            "median m": round(float(np.median(apart_m)), 1),
            "with a radius": int(promised.sum()),
            "radius held": round(100 * float(held.mean()), 1) if promised.any() else float("nan"),
        }
    return found


def single_photos(routes: SearchedRoutes) -> dict[str, float]:
    """Per cent of all photos with one of the first K tiles within 25 m."""
    matches = routes.found.matches
    apart_m = geodesy.distance_m(matches.lat, matches.lon, routes.lat[:, None], routes.lon[:, None])
    near = np.where(np.isfinite(apart_m), apart_m, np.inf) <= NEAR_M
    return {f"R@{k}": round(100 * float(near[:, :k].any(axis=1).mean()), 1) for k in (1, 5, 10, 200)}


def main() -> None:
    """Measure the routes and write the figures as JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--routes", required=True, help="folder routes of a district of geoloc city")
    parser.add_argument("--index", required=True, help="index of the imagery of the district")
    parser.add_argument("--matches", type=int, default=200, help="tiles that the search gives of each photo")
    given = parser.parse_args()
    routes = searched_routes(given.routes, given.index, given.matches)
    halves = [routes.only(routes.route % 2 == half) for half in range(2)]
    report: dict[str, object] = {**vars(given), "photos": len(routes.route)}
    report["single photos"] = single_photos(routes)
    snapshot = routes.localizer.locator.snapshot
    for places in ("tiles", "streets"):
        route_map = (
            RouteMap.of_tiles(snapshot) if places == "tiles" else RouteMap.of_graph(snapshot, routes.streets)
        )
        models = [fitted(half, route_map) for half in reversed(halves)]
        report[f"{places}: emissions"] = [model.model_dump() for model in models]
        report[f"{places}: places"] = len(route_map.ids)
        for name, emissions in (("fitted", models), ("usual", [USUAL_EMISSION] * 2)):
            for odometer in (True, False):
                answers: Answers = {length: [] for length in LENGTHS}
                for half, emission in zip(halves, emissions, strict=True):
                    measure(half, route_map, emission, odometer, answers)
                way = "odometer" if odometer else "no odometer"
                report[f"{places}, {way}, {name} emission"] = shares(answers)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
