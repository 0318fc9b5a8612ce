"""Which tile shows the ground under which photo: pairs from coordinates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyproj import Transformer
from sklearn.neighbors import KDTree

from geoloc.core import schemas
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.geodesy import distance_m, heading_deg

_METRES_PER_DEGREE = 110_000.0  # a little less than any degree of latitude has
_TO_ECEF = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)


class Pairer:
    """Finds the tiles of photos.

    The nearest tile centre within `positive_radius_m` of a photo is its `positive`; every other tile whose
    square of `tile_m` contains the photo is `semi_positive` (as VIGOR has it). Memory: 100 bytes a tile.
    """

    def __init__(
        self,
        tile_ids: list[str],
        lat: FloatArray,
        lon: FloatArray,
        *,
        tile_m: float,
        positive_radius_m: float,
    ) -> None:
        self._ids = np.array(tile_ids, dtype=object)
        self._lat, self._lon = lat, lon
        self._half_m = tile_m / 2
        self._radius_m = positive_radius_m
        self._reach_m = reach_m(tile_m, positive_radius_m)
        self._tree = KDTree(_ecef(lat, lon)) if tile_ids else None

    def pairs(self, query_ids: list[str], lat: FloatArray, lon: FloatArray) -> pa.Table:
        """Rows of the pairs table for photos at WGS84 degrees [N], NaN where a photo has no position.

        Convention: east_m, north_m are of the photo from the tile's centre, on the ellipsoid.
        """
        known = np.flatnonzero(np.isfinite(lat) & np.isfinite(lon))
        if self._tree is None or not len(known):
            return _table([], [], [], np.zeros(0), np.zeros(0))
        near = self._tree.query_radius(_ecef(lat[known], lon[known]), self._reach_m)
        query = np.repeat(known, [len(found) for found in near])
        tile = np.concatenate(near).astype(np.int64)
        metres = distance_m(self._lat[tile], self._lon[tile], lat[query], lon[query])
        bearing = np.radians(heading_deg(self._lat[tile], self._lon[tile], lat[query], lon[query]))
        east, north = metres * np.sin(bearing), metres * np.cos(bearing)
        # Nearest first within each photo; equal distances in the order of ids.
        order = np.lexsort((self._ids[tile].astype(str), np.round(metres, 6), query))
        query, tile = query[order], tile[order]
        metres, east, north = metres[order], east[order], north[order]
        first = np.append(True, query[1:] != query[:-1])[: len(query)]
        positive = first & (metres <= self._radius_m)
        contains = np.maximum(np.abs(east), np.abs(north)) <= self._half_m
        kept = positive | contains
        relation = np.where(positive, schemas.RELATIONS[0], schemas.RELATIONS[1])[kept]
        return _table(
            [query_ids[index] for index in query[kept]],
            self._ids[tile[kept]].tolist(),
            relation.tolist(),
            east[kept],
            north[kept],
        )


def reach_m(tile_m: float, positive_radius_m: float) -> float:
    """How far apart a photo and a tile's centre may lie that are a pair, in metres."""
    return float(max(positive_radius_m, tile_m / np.sqrt(2)) * 1.001)


def near_points(
    lat: FloatArray, lon: FloatArray, to_lat: FloatArray, to_lon: FloatArray, within_m: float
) -> BoolArray:
    """Which points [N] lie within `within_m` metres of any of the others [M], bool[N]; NaN lies nowhere.

    The distance is the straight line through the Earth, which is never longer than the way on it.
    """
    out = np.zeros(len(lat), np.bool_)
    known, others = (
        np.flatnonzero(np.isfinite(a) & np.isfinite(b)) for a, b in ((lat, lon), (to_lat, to_lon))
    )
    if len(known) and len(others):
        tree = KDTree(_ecef(to_lat[others], to_lon[others]))
        out[known] = tree.query(_ecef(lat[known], lon[known]), return_distance=True)[0][:, 0] <= within_m
    return out


def near_boxes(boxes: FloatArray, lat: FloatArray, lon: FloatArray, within_m: float) -> BoolArray:
    """Which boxes float64[B, 4] (south, north, west, east in degrees) come within reach of any point [N], bool[B].

    Boxes a little farther away may be among them; none within `within_m` metres is missing, also across 180 degrees
    and at the poles. NaN lies nowhere.
    """
    known = np.isfinite(lat) & np.isfinite(lon)
    margin_deg = within_m / _METRES_PER_DEGREE
    out = np.zeros(len(boxes), np.bool_)
    for a, b in zip(lat[known], lon[known], strict=True):
        left = ~out
        south, north, west, east = boxes[left].T
        widest = np.radians(min(90.0, abs(a) + margin_deg))
        # Beyond this the circle around the point may hold the pole, and with it every longitude.
        lon_margin_deg = margin_deg / np.cos(widest) if widest < np.radians(89.0) else 360.0
        turn = (b - (west + east) / 2 + 180.0) % 360.0 - 180.0
        beside = np.abs(turn) <= (east - west) / 2 + lon_margin_deg
        out[left] = beside & (south - margin_deg <= a) & (a <= north + margin_deg)
    return out


def _ecef(lat: FloatArray, lon: FloatArray) -> FloatArray:
    x, y, z = _TO_ECEF.transform(lon, lat, np.zeros_like(lat))
    return np.stack([x, y, z], axis=1)


def _table(
    queries: list[str],
    tile_ids: list[str],
    relation: list[str],
    east: FloatArray,
    north: FloatArray,
) -> pa.Table:
    columns = [queries, tile_ids, relation, east, north]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schemas.PAIRS, strict=True)]
    return pa.table(arrays, schema=schemas.PAIRS)
