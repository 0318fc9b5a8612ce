"""Truth tables: which tiles are right for which query, by pairs, places or coordinates."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.evaluation.ranking.ranks import TruthTable

JUNK_PLACE = "-1"
Ids: TypeAlias = "pa.Array | pa.ChunkedArray"
_IDS_AT_ONCE = 1_000_000  # bounds what is held of a gallery
_EARTH_RADIUS_M = 6_335_000.0  # the smallest of curvature: a search with it misses nothing


def truth_from_pairs(
    query_ids: Ids,
    pairs: pa.Table,
    tile_ids: Ids,
    *,
    relations: tuple[str, ...] = ("positive",),
    removed: BoolArray | None = None,
) -> TruthTable:
    """Positives by the pairs table; pairs of other queries or of tiles outside the gallery are left out.

    Positions refer to `query_ids` (pa.string[Q]) and `tile_ids` (pa.string[N]), of which `removed` (bool[N]) do not
    count. Memory: 40 bytes a pair, and one chunk of the ids.
    """
    wanted = pairs.filter(pc.is_in(pairs["relation"], pa.array(relations)))
    query, tile = (
        _positions(wanted["query_id"], query_ids, None),
        _positions(wanted["tile_id"], tile_ids, removed),
    )
    both = (query >= 0) & (tile >= 0)
    return _truth(query[both], tile[both])


def _positions(names: pa.ChunkedArray, ids: Ids, removed: BoolArray | None) -> IntArray:
    """The first position of each name among ids that are not removed, int64[P]; -1 for a name that is not there.

    The names are put into a hash table, not the ids: of a gallery there may be a thousand times as many.
    """
    distinct = pc.unique(names.cast(pa.large_string()))
    place = np.full(len(distinct), -1, dtype=np.int64)
    start = 0
    for chunk in ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]:
        for first in range(0, len(chunk), _IDS_AT_ONCE):
            piece = chunk.slice(first, _IDS_AT_ONCE)
            found = pc.index_in(piece.cast(pa.large_string()), distinct).fill_null(-1).to_numpy()
            rows = np.flatnonzero(found >= 0)
            if removed is not None:
                rows = rows[~removed[start + rows]]
            rows = rows[place[found[rows]] < 0][::-1]  # of several the first stays
            place[found[rows]] = start + rows
            start += len(piece)
    return np.asarray(place[pc.index_in(names.cast(pa.large_string()), distinct).to_numpy()], dtype=np.int64)


def truth_from_places(
    query_place: pa.Array, tile_place: pa.Array, *, junk: tuple[str, ...] = (JUNK_PLACE,)
) -> TruthTable:
    """Positives by identity: all tiles of the query's place (pa.string[Q] and pa.string[N]).

    A tile of null place is a distractor. A query of a junk place has no positives.
    """
    keep = pc.and_(pc.is_valid(query_place), pc.invert(pc.is_in(query_place, pa.array(junk, pa.string()))))
    queries = pa.table({"place": query_place, "query": np.arange(len(query_place))}).filter(keep)
    tiles = pa.table({"place": tile_place, "tile": np.arange(len(tile_place))})
    tiles = tiles.filter(pc.is_valid(tiles["place"]))
    both = queries.join(tiles, "place", join_type="inner")
    return _truth(_numbers(both["query"]), _numbers(both["tile"]))


def is_junk(tile_place: pa.Array) -> BoolArray:
    """Which tiles are taken out of every ranking, bool[N]: those of the place "-1" (pa.string [N])."""
    found = pc.fill_null(pc.equal(tile_place, JUNK_PLACE), False)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.bool_)


def truth_within_projected(
    lat: FloatArray, lon: FloatArray, tile_lat: FloatArray, tile_lon: FloatArray, radius_m: float, crs: str
) -> TruthTable:
    """Positives by straight distance on a map: all tiles within `radius_m` in the metres of `crs`.

    lat, lon: float64[Q] and tile_lat, tile_lon: float64[N] WGS84 degrees; NaN has no positives.
    """
    from pyproj import Transformer
    from scipy.spatial import cKDTree

    to_map = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    points = []
    for one_lat, one_lon in ((lat, lon), (tile_lat, tile_lon)):
        known = np.flatnonzero(np.isfinite(one_lat) & np.isfinite(one_lon))
        points.append((known, np.stack(to_map.transform(one_lon[known], one_lat[known]), axis=1)))
    (queries, from_here), (tiles, to_there) = points
    if not len(queries) or not len(tiles):
        return _truth(np.empty(0, np.int64), np.empty(0, np.int64))
    found = cKDTree(to_there).query_ball_point(from_here, radius_m + 1e-6)
    query = np.repeat(np.arange(len(queries)), [len(near) for near in found])
    tile = np.array([place for near in found for place in near], dtype=np.int64)
    # A round trip through degrees moves a point by nanometres: what lies on the circle is inside.
    inside = np.linalg.norm(from_here[query] - to_there[tile], axis=1) <= radius_m + 1e-6
    return _truth(queries[query[inside]], tiles[tile[inside]])


def truth_within(
    lat: FloatArray, lon: FloatArray, tile_lat: FloatArray, tile_lon: FloatArray, radius_m: float
) -> TruthTable:
    """Positives by position: all tiles whose centre lies within `radius_m` of the query (geodesic).

    lat, lon: float64[Q] and tile_lat, tile_lon: float64[N] WGS84 degrees; NaN has no positives.
    """
    from sklearn.neighbors import BallTree

    queries = np.flatnonzero(np.isfinite(lat) & np.isfinite(lon))
    asked = np.radians(np.stack([lat[queries], lon[queries]], axis=1))
    pairs = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    for first in range(0, len(tile_lat), _IDS_AT_ONCE):
        piece = slice(first, first + _IDS_AT_ONCE)
        some = first + np.flatnonzero(np.isfinite(tile_lat[piece]) & np.isfinite(tile_lon[piece]))
        if not len(queries) or not len(some):
            continue
        tree = BallTree(np.radians(np.stack([tile_lat[some], tile_lon[some]], axis=1)), metric="haversine")
        # The sphere only preselects; what counts is the distance on the ellipsoid.
        near = tree.query_radius(asked, 1.01 * radius_m / _EARTH_RADIUS_M)
        query = np.repeat(queries, [len(found) for found in near])
        tile = some[np.concatenate(near).astype(np.int64)]
        inside = geodesy.distance_m(lat[query], lon[query], tile_lat[tile], tile_lon[tile]) <= radius_m
        pairs.append((query[inside], tile[inside]))
    return _truth(*(np.concatenate(side) for side in zip(*pairs, strict=True)))


def _numbers(column: pa.ChunkedArray | pa.Array) -> IntArray:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _truth(query: IntArray, tile: IntArray) -> TruthTable:
    unique = np.unique(np.stack([query, tile], axis=1), axis=0) if len(query) else np.empty((0, 2), np.int64)
    return TruthTable(unique[:, 0].astype(np.int64), unique[:, 1].astype(np.int64))
