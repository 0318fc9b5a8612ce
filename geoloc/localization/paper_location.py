"""Paper-compatible location: what the released code of "Hashing for Geo-localization" (TGRS 2023) computes.

It differs from `geoloc.localization.cluster`, which is what geoloc answers with. Distances are Euclidean in degrees.
The diagonal of the affinity stays. Memberships are updated in place, entry by entry, and are not normalised. Members
count alike. CVACT's UTM coordinates are read in zone 49 north, though Canberra lies in 55 south: the "degrees" are no
true positions. A tolerance of 0.018 degrees is about 2 km. Use it to reproduce figures, for nothing else.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyproj

from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import InputError

TOLERANCE_DEG = 0.018
PAPER_CRS = "EPSG:32649"  # of the released code; the true zone of CVACT is EPSG:32755


@dataclass(frozen=True)
class PaperSettings:
    """Constants of the released code: N best matches, iterations, weakest membership, scale of the affinity."""

    members: int = 5
    iterations: int = 50
    threshold: float = 0.1
    alpha: float = 1.0


@dataclass(frozen=True)
class PaperLocation:
    """Positions lat, lon float64[Q] (NaN where no match is a member) and memberships float64[Q, K]."""

    lat: FloatArray
    lon: FloatArray
    membership: FloatArray


def paper_degrees(easting_m: FloatArray, northing_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """CVACT's UTM coordinates [N] to the code's (lat, lon) [N] in float64 degrees.

    Convention: easting and northing as in the data set's file; the answers are those of zone 49 north, not of Canberra.
    """
    lat, lon = _to_degrees().transform(easting_m, northing_m)
    return np.asarray(lat), np.asarray(lon)


def in_place_dominant_set(affinity: FloatArray, iterations: int) -> FloatArray:
    """Memberships float64[Q, K] after in-place replicator steps x_j <- x_j (A x)_j / (x' A x), started at 1 / K.

    `affinity` float64[Q, K, K]. Each entry is updated with the entries before it already changed (Gauss-Seidel), and
    the sum of a row need not stay 1.
    """
    count = affinity.shape[-1]
    x = np.full(affinity.shape[:2], 1.0 / count)
    for _ in range(iterations):
        for entry in range(count):
            payoff = np.einsum("qj,qj->q", affinity[:, entry], x)
            mean = np.einsum("qi,qij,qj->q", x, affinity, x)
            x[:, entry] *= payoff / mean
    return x


def locate_as_paper(lat: FloatArray, lon: FloatArray, settings: PaperSettings | None = None) -> PaperLocation:
    """Positions of Q queries from their matches, best first: lat, lon float64[Q, K] degrees.

    Raises `InputError` where a match among the first N has no coordinates, or where there are fewer than N.
    """
    settings = settings or PaperSettings()
    if lat.shape != lon.shape or lat.shape[1] < settings.members:
        raise InputError(
            f"The paper's location needs {settings.members} matches of each photo, there are {lat.shape[1]}; raise k.",
            reason="too_few_matches",
        )
    points = np.stack([lat, lon], axis=-1)[:, : settings.members].astype(np.float64)
    if not np.isfinite(points).all():
        raise InputError("The paper's location needs coordinates of every match.", reason="no_coordinates")
    distance = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
    membership = in_place_dominant_set(settings.alpha * np.exp(-distance), settings.iterations)
    kept = membership >= settings.threshold
    count = kept.sum(axis=1)[:, None]
    total = (points * kept[..., None]).sum(axis=1)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return PaperLocation(mean[:, 0], mean[:, 1], membership)


def within_tolerance(
    lat: FloatArray, lon: FloatArray, true_lat: FloatArray, true_lon: FloatArray
) -> BoolArray:
    """bool[Q]: Euclidean error in degrees of at most 0.018. The mean of it is the paper's recall; NaN is a miss."""
    return np.asarray(np.hypot(lat - true_lat, lon - true_lon) <= TOLERANCE_DEG)


@functools.cache
def _to_degrees() -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(PAPER_CRS, "EPSG:4326")
