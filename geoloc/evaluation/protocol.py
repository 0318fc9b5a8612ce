"""Which tiles are right for which query: from the pairs of a data set, or from coordinates."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc import geodesy
from geoloc.evaluation.ranks import IntArray, Truth

FloatArray = npt.NDArray[np.float64]
_EARTH_RADIUS_M = 6_335_000.0  # the smallest of curvature: a search with it misses nothing


def truth_from_pairs(
    query_ids: pa.Array, pairs: pa.Table, tile_ids: pa.Array, *, relations: tuple[str, ...] = ("positive",)
) -> Truth:
    """Positives by the pairs table; pairs of other queries or of tiles outside the gallery are left out.

    Positions refer to `query_ids` and `tile_ids` (pa.string arrays).
    """
    wanted = pairs.filter(pc.is_in(pairs["relation"], pa.array(relations)))
    query = pc.index_in(wanted["query_id"].cast(pa.large_string()), query_ids.cast(pa.large_string()))
    tile = pc.index_in(wanted["tile_id"].cast(pa.large_string()), tile_ids.cast(pa.large_string()))
    both = pc.and_(pc.is_valid(query), pc.is_valid(tile))
    return _truth(_numbers(query.filter(both)), _numbers(tile.filter(both)))


def truth_within(
    lat: FloatArray, lon: FloatArray, tile_lat: FloatArray, tile_lon: FloatArray, radius_m: float
) -> Truth:
    """Positives by position: all tiles whose centre lies within `radius_m` of the query (geodesic).

    lat, lon: float64[Q] and tile_lat, tile_lon: float64[N] WGS84 degrees; NaN has no positives.
    """
    from sklearn.neighbors import BallTree

    queries = np.flatnonzero(np.isfinite(lat) & np.isfinite(lon))
    tiles = np.flatnonzero(np.isfinite(tile_lat) & np.isfinite(tile_lon))
    if not len(queries) or not len(tiles):
        return _truth(np.empty(0, np.int64), np.empty(0, np.int64))
    tree = BallTree(np.radians(np.stack([tile_lat[tiles], tile_lon[tiles]], axis=1)), metric="haversine")
    # The sphere only preselects; what counts is the distance on the ellipsoid.
    near = tree.query_radius(
        np.radians(np.stack([lat[queries], lon[queries]], axis=1)), 1.01 * radius_m / _EARTH_RADIUS_M
    )
    query = np.repeat(queries, [len(found) for found in near])
    tile = tiles[np.concatenate(near).astype(np.int64)]
    inside = geodesy.distance_m(lat[query], lon[query], tile_lat[tile], tile_lon[tile]) <= radius_m
    return _truth(query[inside], tile[inside])


def _numbers(column: pa.ChunkedArray | pa.Array) -> IntArray:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _truth(query: IntArray, tile: IntArray) -> Truth:
    unique = np.unique(np.stack([query, tile], axis=1), axis=0) if len(query) else np.empty((0, 2), np.int64)
    return Truth(unique[:, 0].astype(np.int64), unique[:, 1].astype(np.int64))
