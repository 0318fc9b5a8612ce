"""Which tile shows the ground under which photo: pairs from coordinates."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyproj import Transformer
from sklearn.neighbors import KDTree

from geoloc.core import schemas
from geoloc.core.arrays import FloatArray
from geoloc.core.geodesy import distance_m, heading_deg

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
        self._reach_m = max(positive_radius_m, tile_m / np.sqrt(2)) * 1.001
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
