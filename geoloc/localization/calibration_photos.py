"""Photos that a calibration learns from: as they are, with their surroundings hidden from the search, and strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoloc.core import geodesy
from geoloc.core.arrays import FloatArray
from geoloc.index.search.region import Outside, circle
from geoloc.localization.calibration import KindCalibration
from geoloc.localization.calibration_fit import FALSE_ACCEPTS, JudgedPlaces, choose_settings, fit_kind
from geoloc.localization.cluster import Cluster, ClusterSettings
from geoloc.localization.encoded_queries import EncodedQueries
from geoloc.localization.hypotheses import MOST_PLACES
from geoloc.localization.locator import MAX_K, Locator, SearchResult, in_order

HIDDEN = "hidden"
# Among equals the first is preferred: the best match alone (nothing is within 2 cm of it), then wider clusters, then
# those with a finer position.
CANDIDATES = tuple(
    ClusterSettings(sigma_m=sigma, temperature=temperature)
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
) + tuple(
    ClusterSettings(sigma_m=sigma, temperature=temperature, fine_m=fine_m, fine_temperature=fine)
    for sigma, fine_m in ((15.0, 15.0), (30.0, 30.0))  # tiles every 10 and 20 metres
    for temperature in (0.015, 0.03)
    for fine in (0.03, 0.06, 0.12)
)


@dataclass(frozen=True)
class KnownPhotos:
    """Encoded photos of one kind of query and where they were taken: lat, lon float64[Q] degrees."""

    queries: EncodedQueries
    lat: FloatArray
    lon: FloatArray


@dataclass(frozen=True)
class Strangers:
    """Encoded photos of other places, or pictures of no place, of one kind of query."""

    kind: str
    queries: EncodedQueries


def calibrate_kind(
    locator: Locator,
    photos: KnownPhotos,
    strangers: Sequence[Strangers],
    *,
    rerank: int,
    hidden_m: float,
    false_accepts: float = FALSE_ACCEPTS,
) -> KindCalibration:
    """Fit a kind of query on photos of known position; each takes part twice, once with its surroundings hidden.

    `hidden_m` is how far around its position a photo's tiles are hidden: nothing of what it shows should be left.
    Raises `NotEnoughQueries`.
    """
    k = min(MAX_K, max(rerank, CANDIDATES[0].members))
    found = locator.search(photos.queries, k=k, rerank=rerank)
    errors = [errors_of(locator.cluster(found, one), photos.lat, photos.lon) for one in CANDIDATES]
    settings = choose_settings(CANDIDATES, errors)
    here = judged_places(locator, photos.queries, found, settings, rerank, lat=photos.lat, lon=photos.lon)
    hidden = judged_places(
        locator,
        photos.queries,
        search_hidden(locator, photos, k=k, rerank=rerank, hidden_m=hidden_m),
        settings,
        rerank,
        kind=HIDDEN,
    )
    parts, number = [here, hidden], len(photos.queries)
    for group in strangers:
        found = locator.search(group.queries, k=k, rerank=rerank)
        parts.append(
            judged_places(
                locator, group.queries, found, settings, rerank, kind=group.kind, first_photo=number
            )
        )
        number += len(group.queries)
    return fit_kind(JudgedPlaces.joined(parts), settings, false_accepts=false_accepts)


def search_hidden(
    locator: Locator, photos: KnownPhotos, *, k: int, rerank: int, hidden_m: float
) -> SearchResult:
    """Matches of photos in the index without the tiles within `hidden_m` metres of each photo's own position."""
    found = [
        locator.search(
            photos.queries.rows(slice(one, one + 1)),
            k=k,
            rerank=rerank,
            region=Outside(hidden=circle(float(photos.lat[one]), float(photos.lon[one]), hidden_m)),
        )
        for one in range(len(photos.queries))
    ]
    return in_order(found, np.arange(len(found)))


def judged_places(
    locator: Locator,
    queries: EncodedQueries,
    found: SearchResult,
    settings: ClusterSettings,
    rerank: int,
    *,
    lat: FloatArray | None = None,
    lon: FloatArray | None = None,
    kind: str = "",
    first_photo: int = 0,
) -> JudgedPlaces:
    """The places of queries as rows to fit; lat, lon float64[Q] are the truth (None: photos of another place).

    The photos are numbered from `first_photo`.
    """
    located = locator.places(found, queries, settings, rerank)
    places, evidence, count = located.places, located.evidence, len(queries)
    error = np.full((count, MOST_PLACES), np.inf)
    if lat is not None and lon is not None:
        for one in range(places.width):
            error[:, one] = _distance(places.lat[:, one], places.lon[:, one], lat, lon)

    def wide(values: FloatArray) -> FloatArray:
        missing = MOST_PLACES - values.shape[1]
        return np.pad(
            values, ((0, 0), (0, missing), *(((0, 0),) * (values.ndim - 2))), constant_values=np.nan
        )

    return JudgedPlaces(
        features=evidence.features[:, 0],
        error_m=error[:, 0],
        spacing_m=evidence.spacing_m[:, 0],
        photo=first_photo + np.arange(count),
        kind=np.full(count, kind, dtype=object),
        other_features=wide(evidence.other)[:, 1:],
        other_error_m=error[:, 1:],
        other_evidence=wide(evidence.features)[:, 1:],
        other_spacing_m=wide(evidence.spacing_m)[:, 1:],
    )


def errors_of(cluster: Cluster, lat: FloatArray, lon: FloatArray) -> FloatArray:
    """Metres float64[Q] from the positions of a cluster to the truth; infinite where there is none."""
    return _distance(cluster.lat, cluster.lon, lat, lon)


def _distance(lat: FloatArray, lon: FloatArray, true_lat: FloatArray, true_lon: FloatArray) -> FloatArray:
    return np.nan_to_num(geodesy.distance_m(lat, lon, true_lat, true_lon), nan=np.inf)
