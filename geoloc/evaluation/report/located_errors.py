"""Errors of located photos in metres: of the best match and of the position; calibration and its coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import geodesy, storage
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.index.search.matches import Matches
from geoloc.localization.calibration import (
    Calibration,
    KindCalibration,
    NotEnoughQueries,
    choose_settings,
    fit_calibration,
    query_kind,
)
from geoloc.localization.cluster import Cluster, ClusterSettings
from geoloc.localization.locator import MAX_K, EncodedQueries, Locator, SearchResult

# Among equals the first is preferred: the best match alone (nothing is within 2 cm of it), then wider clusters.
CANDIDATES = tuple(
    ClusterSettings(sigma_m=sigma, temperature=temperature, members=20)
    for sigma, temperature in (
        (0.01, 0.03),
        (15.0, 0.015),
        (15.0, 0.03),
        (30.0, 0.015),
        (30.0, 0.03),
        (30.0, 0.06),
        (60.0, 0.03),
        (60.0, 0.06),
    )
)


class Coverage(BaseModel):
    """How well calibrated answers hold; `held_out`: on queries that the calibration never saw."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    queries: int
    inside_percent: float = Field(description="Queries whose true position lies inside the stated radius.")
    mean_confidence: float = Field(
        description="Mean confidence of the answers; it should equal the share inside."
    )
    calibration_error: float = Field(
        description="Mean gap between confidence and share inside, over ten bins."
    )
    median_radius_m: float
    held_out: bool


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


def fit_half(query_ids: Sequence[str]) -> BoolArray:
    """Which queries calibrate (bool[Q]); the others check. By a hash of the id: stable when queries are added."""
    return np.array(
        [int(storage.sha256_bytes(name.encode())[:8], 16) % 2 == 0 for name in query_ids], dtype=bool
    )


def calibrate_group(
    locator: Locator,
    located: LocatedGroup,
    true: tuple[FloatArray, FloatArray],
    learn: BoolArray,
    *,
    radius_limit_m: float,
) -> KindCalibration:
    """Choose the cluster settings with the lowest median error, then fit radius and confidence.

    `true` is (lat, lon) float64[Q] of the group's queries, of which only those in `learn` (bool[Q]) are used.
    Raises `NotEnoughQueries`.
    """
    clusters = [locator.cluster(located.found, settings) for settings in CANDIDATES]
    errors = [errors_of(cluster.lat, cluster.lon, *true)[learn] for cluster in clusters]
    number = CANDIDATES.index(choose_settings(CANDIDATES, errors)) if learn.any() else 0
    return fit_calibration(
        clusters[number].features[learn],
        errors[number],
        settings=CANDIDATES[number],
        radius_limit_m=radius_limit_m,
    )


def coverage_of(
    fit: KindCalibration, features: FloatArray, error_m: FloatArray, kind: str, *, held_out: bool
) -> Coverage:
    """How often the stated radius held: features float64[Q, F], error_m float64[Q] without NaN."""
    radius, confidence = fit.apply(features)
    inside = error_m <= radius
    return Coverage(
        protocol=kind,
        queries=len(error_m),
        inside_percent=100.0 * float(inside.mean()),
        mean_confidence=float(confidence.mean()),
        calibration_error=_calibration_error(confidence, inside),
        median_radius_m=float(np.median(radius)),
        held_out=held_out,
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


def locate_again(locator: Locator, photos: LocatedPhotos) -> LocatedPhotos:
    """The same matches, located with the settings that the locator's calibration chose."""
    groups = []
    for rows, group in photos.groups:
        settings = locator.settings_for(group.query_kind)
        cluster = locator.cluster(group.found, settings)
        groups.append((rows, LocatedGroup(group.found, cluster, settings, group.query_kind)))
    return _with_errors(photos.encoded, groups)


def calibrate(
    locator: Locator, photos: LocatedPhotos, *, rerank: int, radius_limit_m: float
) -> tuple[Calibration, list[Coverage], list[str]]:
    """Fit each kind of query on half of its queries and check it on the other half.

    Returns the calibration, its coverage and findings about kinds with too few queries.
    """
    fits, checked, findings = {}, [], []
    half = fit_half(photos.encoded.query_ids.to_pylist())
    for rows, group in photos.groups:
        known = np.isfinite(photos.error_m[rows])
        learn, check = known & half[rows], known & ~half[rows]
        true = photos.true_lat[rows], photos.true_lon[rows]
        try:
            fit = calibrate_group(locator, group, true, learn, radius_limit_m=radius_limit_m)
        except NotEnoughQueries as error:
            findings.append(f"{group.query_kind} is not calibrated: {error}")
            continue
        fits[group.query_kind] = fit
        cluster = locator.cluster(group.found, fit.settings())
        errors = errors_of(cluster.lat, cluster.lon, *true)
        if check.any():
            features = cluster.features[check]
            checked.append(coverage_of(fit, features, errors[check], group.query_kind, held_out=True))
    snapshot_id = locator.snapshot.snapshot_id
    return Calibration(snapshot_id=snapshot_id, rerank=rerank, query_kinds=fits), checked, findings


def coverage(calibration: Calibration, photos: LocatedPhotos) -> list[Coverage]:
    """Coverage of an earlier calibration; some of these queries may have been fitted."""
    rows_of_kind = []
    for rows, group in photos.groups:
        fit = calibration.query_kinds.get(group.query_kind)
        errors = photos.error_m[rows]
        known = np.isfinite(errors)
        if fit is not None and known.any():
            features = group.cluster.features[known]
            rows_of_kind.append(coverage_of(fit, features, errors[known], group.query_kind, held_out=False))
    return rows_of_kind
