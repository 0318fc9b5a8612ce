"""The places where a photo may have been taken: its matches, grouped by where they lie.

The first place is that of the answer. The next ones come from what is left after the tiles of the earlier places were
taken away, by the same clustering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.localization.cluster import Cluster, ClusterSettings, find_cluster, weights_of

MOST_PLACES = 5


@dataclass(frozen=True)
class Places:
    """Up to H places of Q queries, the answer's own first.

    lat, lon: float64[Q, H] degrees, NaN where there is no further place. best: int64[Q, H], the column of the most
    similar tile of each place, -1 without a place. tiles: int64[Q, H], how many matches lie in it.
    share: float64[Q, H], its part of the softmax weights of all matches. member: bool[Q, H, K], which matches lie in
    it.
    """

    lat: FloatArray
    lon: FloatArray
    best: IntArray
    tiles: IntArray
    share: FloatArray
    member: BoolArray

    @property
    def width(self) -> int:
        """Places per query H, empty ones included."""
        return int(self.lat.shape[1])

    def heaviest_first(self) -> Places:
        """The places after the first in the order of their share; ties as they were found."""
        order = np.argsort(-self.share[:, 1:], axis=1, kind="stable") + 1
        order = np.concatenate([np.zeros((len(order), 1), np.int64), order], axis=1)
        names = ("lat", "lon", "best", "tiles", "share")
        arrays = {name: np.take_along_axis(getattr(self, name), order, axis=1) for name in names}
        return Places(member=np.take_along_axis(self.member, order[:, :, None], axis=1), **arrays)


def find_places(
    lat: FloatArray,
    lon: FloatArray,
    similarity: FloatArray,
    settings: ClusterSettings,
    first: Cluster,
    most: int = MOST_PLACES,
) -> Places:
    """The places of each query from its matches [Q, K], best first, NaN where there is no match.

    `first` is the cluster of the answer. A match belongs to the earliest place that lies within `settings.place_m`
    of it.

    Convention: WGS84 degrees; distances are geodesic, in metres.
    """
    left = np.isfinite(lat) & np.isfinite(lon) & np.isfinite(similarity)
    weights = weights_of(np.where(left, similarity, np.nan), settings.temperature)
    found: list[tuple[FloatArray, FloatArray, BoolArray]] = []
    at_lat, at_lon = first.lat, first.lon
    for number in range(most):
        if number:
            at_lat, at_lon = _next(lat, lon, similarity, left, settings)
        member = left & _near(lat, lon, at_lat, at_lon, settings.place_m)
        if number and not member.any():
            break
        found.append((at_lat, at_lon, member))
        left = left & ~member
    member = np.stack([one[2] for one in found], axis=1)
    scored = np.where(member, np.where(np.isfinite(similarity), similarity, -np.inf)[:, None], -np.inf)
    there = member.any(axis=2)
    return Places(
        lat=np.where(there, np.stack([one[0] for one in found], axis=1), np.nan),
        lon=np.where(there, np.stack([one[1] for one in found], axis=1), np.nan),
        best=np.where(there, scored.argmax(axis=2), -1) if scored.shape[2] else np.full(there.shape, -1),
        tiles=member.sum(axis=2),
        share=(member * weights[:, None]).sum(axis=2),
        member=member,
    ).heaviest_first()


def _near(
    lat: FloatArray, lon: FloatArray, at_lat: FloatArray, at_lon: FloatArray, reach_m: float
) -> BoolArray:
    """Which matches [Q, K] lie within `reach_m` of each query's point [Q]."""
    known = np.isfinite(lat) & np.isfinite(lon) & np.isfinite(at_lat)[:, None]
    at_lat, at_lon = (np.where(known, values[:, None], 0.0) for values in (at_lat, at_lon))
    distance = geodesy.distance_m(at_lat, at_lon, np.where(known, lat, 0.0), np.where(known, lon, 0.0))
    return np.asarray(known & (distance <= reach_m))


def _next(
    lat: FloatArray, lon: FloatArray, similarity: FloatArray, left: BoolArray, settings: ClusterSettings
) -> tuple[FloatArray, FloatArray]:
    """Positions [Q] of the cluster of the matches that are left, which take the places of the earlier ones."""
    order = np.argsort(~left, axis=1, kind="stable")
    own_lat, own_lon, own = (
        np.take_along_axis(np.where(left, values, np.nan), order, axis=1) for values in (lat, lon, similarity)
    )
    again = find_cluster(own_lat, own_lon, own, settings)
    return again.lat, again.lon
