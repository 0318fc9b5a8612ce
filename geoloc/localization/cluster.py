"""The geographic cluster of the best matches: a dominant set, by replicator dynamics.

After the location step of "Hashing for Geo-localization" (TGRS 2023), with three changes: distances are metres
on the ellipsoid, the update is simultaneous, and tiles count by how similar they are. Where no cluster of
several tiles weighs more than the best match alone, the best match is the answer.

The cluster says which place it is. Where in this place is another question: a small temperature tells places apart,
and a larger one weighs the neighbouring tiles that all show the camera (`ClusterSettings.fine_m`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray

_REACH = 2.0  # in sigma: farther tiles do not speak of the same place, however few others there are


@dataclass(frozen=True)
class ClusterSettings:
    """How matches become a position.

    `sigma_m` is the distance at which two tiles support each other by 1/e. `temperature` turns differences of
    similarity into weights exp(difference / temperature): that of a contrastive loss makes them the model's own
    posterior over tiles; half of it moved right fixes least in trials. `members` best matches take part; a
    member weaker than `threshold` of the strongest is dropped. Matches within `place_m` of each other speak of the
    same place, however the position is computed.

    Where `fine_m` is set, the position is the mean of the matches within `fine_m` of the cluster's most similar tile,
    by their softmax weights at `fine_temperature`. About one and a half steps of the tiles' grid are a good reach.
    """

    sigma_m: float = 30.0
    temperature: float = 0.015
    members: int = 20
    iterations: int = 50
    threshold: float = 0.1
    place_m: float = 60.0
    fine_m: float | None = None
    fine_temperature: float = 0.06


@dataclass(frozen=True)
class Cluster:
    """Positions of Q queries and what they rest on.

    lat, lon: float64[Q] degrees, NaN where no match has coordinates. in_cluster: bool[Q, K].
    """

    lat: FloatArray
    lon: FloatArray
    in_cluster: BoolArray


def weights_of(similarity: npt.ArrayLike, temperature: float) -> FloatArray:
    """Softmax weights over the last axis [..., K]; NaN (no match) weighs nothing, a row of NaN is all zero."""
    values = np.asarray(similarity, dtype=np.float64)
    present = np.isfinite(values)
    best = np.max(np.where(present, values, -np.inf), axis=-1, keepdims=True, initial=-np.inf)
    scaled = np.where(present, values - np.where(np.isfinite(best), best, 0.0), -np.inf) / temperature
    weights = np.exp(scaled)
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0))


def dominant_set(
    east_m: FloatArray, north_m: FloatArray, weights: FloatArray, sigma_m: float, iterations: int = 50
) -> FloatArray:
    """Memberships float64[Q, K] of the dominant set of each row of points, summing to 1 (0 where no pair is).

    Replicator dynamics (Pavan and Pelillo): x_i <- x_i (A x)_i / (x' A x), all entries at once, from the weights on.
    The affinity is A_ij = sqrt(w_i w_j) exp(-|p_i - p_j| / sigma). It is zero on the diagonal and for points more than
    2 sigma apart. The objective x' A x never falls from one step to the next.

    Convention: east_m, north_m float64[Q, K] in any common metric frame; points of weight 0 take no part.
    """
    east, north, weight = (np.ascontiguousarray(each, np.float64) for each in (east_m, north_m, weights))
    memberships: FloatArray = _replicated(east, north, weight, sigma_m, iterations)
    return memberships


# Compiled: the steps of twenty points are so short that NumPy spends ten times as long on their calls.
@numba.njit(cache=True, nogil=True)
def _replicated(
    east_m: FloatArray, north_m: FloatArray, weights: FloatArray, sigma_m: float, iterations: int
) -> FloatArray:
    queries, points = weights.shape
    memberships = weights.copy()
    affinity, payoff = np.empty((points, points)), np.empty(points)
    for query in range(queries):
        x = memberships[query]
        for i in range(points):
            affinity[i, i] = 0.0
            for j in range(i):
                offset = np.hypot(east_m[query, i] - east_m[query, j], north_m[query, i] - north_m[query, j])
                mutual = np.sqrt(weights[query, i] * weights[query, j]) * np.exp(-offset / sigma_m)
                affinity[i, j] = affinity[j, i] = mutual if offset <= _REACH * sigma_m else 0.0
        for _ in range(iterations):
            mean = 0.0
            for i in range(points):
                total = 0.0
                for j in range(points):
                    total += affinity[i, j] * x[j]
                payoff[i] = total
                mean += x[i] * total
            for i in range(points):
                x[i] = x[i] * payoff[i] / mean if mean > 1e-300 else 0.0
    return memberships


def find_cluster(
    lat: FloatArray, lon: FloatArray, similarity: npt.ArrayLike, settings: ClusterSettings
) -> Cluster:
    """The position of each query from its matches, best first: arrays [Q, K], NaN where there is no match.

    Convention: WGS84 degrees; means are taken in the plane frame (azimuthal equidistant, east and north in
    metres) around each query's best match that has coordinates.
    """
    # Nothing beyond the members counts, so that an answer does not depend on how many matches are shown.
    count, width = min(settings.members, lat.shape[1]), lat.shape[1]
    lat, lon = lat[:, :count], lon[:, :count]
    placed = np.isfinite(lat) & np.isfinite(lon)
    known = np.where(placed, np.asarray(similarity, dtype=np.float64)[:, :count], np.nan)
    east, north = _around_best(lat, lon, placed)
    weights = weights_of(known, settings.temperature)
    chosen = _members(east, north, weights, settings)
    if settings.fine_m is not None:
        chosen = _about_best(east, north, chosen, known, settings.fine_m)
        weights = weights_of(np.where(chosen, known, np.nan), settings.fine_temperature)
    inside = np.where(chosen, weights, 0.0)
    mass = inside.sum(axis=1)
    share = np.divide(inside, mass[:, None], out=np.zeros_like(inside), where=mass[:, None] > 0)
    mean_east, mean_north = (share * east).sum(axis=1), (share * north).sum(axis=1)
    members = np.pad(chosen, ((0, 0), (0, width - count)))
    out_lat, out_lon = _back(lat, lon, placed, mean_east, mean_north)
    return Cluster(out_lat, out_lon, members)


def _members(
    east: FloatArray, north: FloatArray, weights: FloatArray, settings: ClusterSettings
) -> BoolArray:
    x = dominant_set(east, north, weights, settings.sigma_m, settings.iterations)
    chosen = (x > 0) & (x >= settings.threshold * x.max(axis=1, keepdims=True, initial=0.0))
    best = np.zeros_like(chosen)
    best[np.arange(len(best)), weights.argmax(axis=1)] = weights.max(axis=1, initial=0.0) > 0
    heavier = np.where(chosen, weights, 0.0).sum(axis=1) > weights.max(axis=1, initial=0.0)
    return np.asarray(np.where(heavier[:, None], chosen, best))


def _about_best(
    east: FloatArray, north: FloatArray, chosen: BoolArray, similarity: FloatArray, reach_m: float
) -> BoolArray:
    """Which points [Q, K] with a similarity lie within `reach_m` of the most similar chosen one."""
    best = np.where(chosen, np.nan_to_num(similarity, nan=-np.inf), -np.inf).argmax(axis=1)[:, None]
    from_east, from_north = (values - np.take_along_axis(values, best, axis=1) for values in (east, north))
    near = np.hypot(from_east, from_north) <= reach_m
    return np.asarray(near & np.isfinite(similarity) & chosen.any(axis=1, keepdims=True))


def _around_best(lat: FloatArray, lon: FloatArray, placed: BoolArray) -> tuple[FloatArray, FloatArray]:
    """East and north in metres of each row's points from its first one; 0 where there is no point."""
    first = placed.argmax(axis=1)
    rows = np.arange(len(lat))
    origin_lat = np.where(placed, lat[rows, first][:, None], 0.0)
    origin_lon = np.where(placed, lon[rows, first][:, None], 0.0)
    to_lat, to_lon = np.where(placed, lat, 0.0), np.where(placed, lon, 0.0)
    distance = geodesy.distance_m(origin_lat, origin_lon, to_lat, to_lon)
    azimuth = np.radians(geodesy.heading_deg(origin_lat, origin_lon, to_lat, to_lon))
    return distance * np.sin(azimuth), distance * np.cos(azimuth)


def _back(
    lat: FloatArray, lon: FloatArray, placed: BoolArray, east: FloatArray, north: FloatArray
) -> tuple[FloatArray, FloatArray]:
    first = placed.argmax(axis=1)
    out = np.full((2, len(lat)), np.nan)
    heading, metres = np.degrees(np.arctan2(east, north)), np.hypot(east, north)
    for row in np.flatnonzero(placed.any(axis=1)):
        column = first[row]
        out[:, row] = geodesy.destination(
            float(lat[row, column]), float(lon[row, column]), float(heading[row]), float(metres[row])
        )
    return out[0], out[1]
