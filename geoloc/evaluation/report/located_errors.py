"""How far off: errors of the best match and of the located position, calibration and its coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import geodesy, storage
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.localization.calibration import (
    KindCalibration,
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
    """What calibrated answers are worth, on queries that the calibration never saw (or says that it did)."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    queries: int
    inside_percent: float = Field(description="Queries whose true position lies inside the stated radius.")
    mean_confidence: float = Field(
        description="What the answers said on average: should equal the share inside."
    )
    calibration_error: float = Field(
        description="Mean gap between confidence and share inside, over ten bins."
    )
    median_radius_m: float
    held_out: bool


@dataclass(frozen=True)
class Located:
    """Positions of a group of queries: what was found, the cluster of each, and the settings they came from."""

    found: SearchResult
    cluster: Cluster
    settings: ClusterSettings
    protocol: str


def locate_group(locator: Locator, queries: EncodedQueries, *, rerank: int) -> Located:
    """Search and cluster one group of queries as serving would; the whole re-ranked shortlist is kept."""
    protocol = query_kind(queries.view, queries.heading_known)
    settings = locator.settings_for(protocol)
    found = locator.search(queries, k=min(MAX_K, max(rerank, settings.members)), rerank=rerank)
    return Located(found, locator.cluster(found, settings), settings, protocol)


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
    located: Located,
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
    fit: KindCalibration, features: FloatArray, error_m: FloatArray, protocol: str, *, held_out: bool
) -> Coverage:
    """How often the stated radius held: features float64[Q, F], error_m float64[Q] without NaN."""
    radius, confidence = fit.apply(features)
    inside = error_m <= radius
    return Coverage(
        protocol=protocol,
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
