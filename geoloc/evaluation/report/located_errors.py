"""Errors of located photos in metres: of the best match and of the position; calibration and its coverage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import geodesy, storage
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.index.search.matches import Matches
from geoloc.localization.calibration import KindCalibration, query_kind
from geoloc.localization.calibration_photos import KnownPhotos, search_hidden
from geoloc.localization.cluster import Cluster, ClusterSettings
from geoloc.localization.judgement import JudgedAnswers, judge_places
from geoloc.localization.locator import MAX_K, EncodedQueries, Locator, SearchResult
from geoloc.models.card import RECIPE_NAME
from geoloc.recipe.recipe import Recipe

_HIDDEN_PHOTOS = 200  # of a kind of query: each is a search of its own


class Coverage(BaseModel):
    """How well the promise holds for one kind of query; percentages of located photos unless stated otherwise."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    queries: int
    located_percent: float = Field(description="Located photos, of all.")
    kept_percent: float | None = Field(
        description="Located photos, of those whose best tile is of the right place; None without such."
    )
    inside_percent: float | None = Field(
        description="Located photos whose true position lies inside radius_m; None where none is located."
    )
    mean_confidence: float | None = Field(
        description="Mean confidence of located photos; it should equal the share inside."
    )
    calibration_error: float | None = Field(
        description="Mean gap between confidence and share inside, over ten bins."
    )
    median_radius_m: float | None
    false_accept_percent: float | None = Field(
        default=None,
        description="Photos that were located while the tiles about them were hidden from the search, of those tried.",
    )


@dataclass(frozen=True)
class LocatedGroup:
    """Positions of a group of queries: matches, the cluster of each query, and the settings of the clustering."""

    found: SearchResult
    cluster: Cluster
    settings: ClusterSettings
    query_kind: str


# The k best matches of queries, of which `rerank` are ordered by embeddings: `Locator.search`, or that on a cluster.
Search = Callable[[EncodedQueries, int, int], SearchResult]


def locate_group(
    locator: Locator, queries: EncodedQueries, *, rerank: int, search: Search | None = None
) -> LocatedGroup:
    """Search and cluster one group of queries as serving would; the whole re-ranked shortlist is kept."""
    kind = query_kind(queries.view, queries.heading_known)
    settings = locator.settings_for(kind)
    k = min(MAX_K, max(rerank, settings.members))
    found = locator.search(queries, k=k, rerank=rerank) if search is None else search(queries, k, rerank)
    return LocatedGroup(found, locator.cluster(found, settings), settings, kind)


def errors_of(lat: FloatArray, lon: FloatArray, true_lat: FloatArray, true_lon: FloatArray) -> FloatArray:
    """Distances float64[Q] in metres; NaN where either position is unknown."""
    known = np.isfinite(lat) & np.isfinite(lon) & np.isfinite(true_lat) & np.isfinite(true_lon)
    out = np.full(len(lat), np.nan)
    out[known] = geodesy.distance_m(lat[known], lon[known], true_lat[known], true_lon[known])
    return out


def coverage_of(kind: str, error_m: FloatArray, answers: JudgedAnswers, right: BoolArray) -> Coverage:
    """How often the radius held: error_m float64[Q] without NaN; right bool[Q]: the best tile is of the right place."""
    located = answers.located
    radius, confidence = answers.radius_m[:, 0], answers.weight[:, 0]
    inside = error_m <= radius
    return Coverage(
        protocol=kind,
        queries=len(error_m),
        located_percent=100.0 * float(located.mean()),
        kept_percent=100.0 * float(located[right].mean()) if right.any() else None,
        inside_percent=100.0 * float(inside[located].mean()) if located.any() else None,
        mean_confidence=float(confidence[located].mean()) if located.any() else None,
        calibration_error=_calibration_error(confidence[located], inside[located]) if located.any() else None,
        median_radius_m=float(np.median(radius[located])) if located.any() else None,
    )


def _calibration_error(confidence: FloatArray, inside: BoolArray) -> float:
    bins = np.minimum((confidence * 10).astype(int), 9)
    total = 0.0
    for number in np.unique(bins):
        here = bins == number
        total += here.sum() * abs(float(confidence[here].mean()) - float(inside[here].mean()))
    return total / len(confidence)


@dataclass(frozen=True)
class LocatedPhotos:
    """Positions of Q photos in the order of the encoded table, by groups of one kind of query.

    lat, lon: float64[Q], the positions in degrees; true_lat, true_lon: the truth. top1_error_m, error_m: float64[Q],
    errors of the best match and of the position in metres, NaN where unknown.
    """

    encoded: EncodedTable
    groups: list[tuple[IntArray, LocatedGroup]]
    true_lat: FloatArray
    true_lon: FloatArray
    lat: FloatArray
    lon: FloatArray
    top1_error_m: FloatArray
    error_m: FloatArray

    @property
    def matches(self) -> list[Matches]:
        """Matches of each group, as the search served them."""
        return [group.found.matches for _, group in self.groups]


def locate_photos(
    locator: Locator, encoded: EncodedTable, *, rerank: int, search: Search | None = None
) -> LocatedPhotos:
    """Search and locate all encoded photos; `rerank` nearest codes are ordered by embeddings."""
    groups = [
        (rows, locate_group(locator, queries, rerank=rerank, search=search))
        for rows, queries in encoded.groups()
    ]
    return _with_errors(encoded, groups)


def _with_errors(encoded: EncodedTable, groups: list[tuple[IntArray, LocatedGroup]]) -> LocatedPhotos:
    true = encoded.degrees("lat"), encoded.degrees("lon")
    lat, lon, top_lat, top_lon = (np.full(len(encoded), np.nan) for _ in range(4))
    for rows, group in groups:
        lat[rows], lon[rows] = group.cluster.lat, group.cluster.lon
        top_lat[rows], top_lon[rows] = group.found.matches.lat[:, 0], group.found.matches.lon[:, 0]
    top1, error = errors_of(top_lat, top_lon, *true), errors_of(lat, lon, *true)
    return LocatedPhotos(encoded, groups, *true, lat, lon, top1, error)


def coverage(locator: Locator, photos: LocatedPhotos, *, rerank: int) -> list[Coverage]:
    """How well the promise of the locator's calibration holds for each kind of query of the photos."""
    found = []
    for (rows, group), (_, queries) in zip(photos.groups, photos.encoded.groups(), strict=True):
        fit = locator.fit_for(group.query_kind, rerank)
        known = np.isfinite(photos.error_m[rows])
        if fit is None or not known.any():
            continue
        located = locator.places(group.found, queries, group.settings, rerank)
        answers = judge_places(fit, located.places, located.evidence)
        chosen = JudgedAnswers(answers.located[known], answers.radius_m[known], answers.weight[known])
        errors, top = photos.error_m[rows][known], photos.top1_error_m[rows][known]
        row = coverage_of(group.query_kind, errors, chosen, top <= fit.place_m)
        some = np.flatnonzero(known)[:: max(1, int(known.sum()) // _HIDDEN_PHOTOS)]
        tried = KnownPhotos(queries.rows(some), photos.true_lat[rows][some], photos.true_lon[rows][some])
        accepts = _false_accepts(locator, fit, tried, group.settings, rerank)
        found.append(row.model_copy(update={"false_accept_percent": accepts}))
    return found


def _false_accepts(
    locator: Locator, fit: KindCalibration, photos: KnownPhotos, settings: ClusterSettings, rerank: int
) -> float:
    """Photos located with the tiles within two tile sides of them hidden, in percent."""
    recipe = Recipe.load(storage.join(locator.snapshot.model_uri, RECIPE_NAME)).model
    k = min(MAX_K, max(rerank, settings.members))
    hidden = search_hidden(locator, photos, k=k, rerank=rerank, hidden_m=2.0 * recipe.tile_m)
    located = locator.places(hidden, photos.queries, settings, rerank)
    return 100.0 * float(judge_places(fit, located.places, located.evidence).located.mean())
