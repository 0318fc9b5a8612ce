"""The place of the city on Earth: its local metric frame and UTM zone 26 North.

The city floats in the open North Atlantic near 45 N 27 W, so that no picture of it is ever taken for a real place.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyproj
from numpy.typing import ArrayLike

from geoloc.core.arrays import FloatArray

CRS = "EPSG:32626"
ORIGIN_EASTING_M = 497_000.0
ORIGIN_NORTHING_M = 4_981_000.0


@lru_cache(maxsize=1)
def _to_degrees() -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)


@lru_cache(maxsize=1)
def _to_grid() -> pyproj.Transformer:
    return pyproj.Transformer.from_crs("EPSG:4326", CRS, always_xy=True)


@lru_cache(maxsize=1)
def _projection() -> pyproj.Proj:
    return pyproj.Proj(CRS)


def to_latlon(x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Latitude and longitude (WGS84 degrees) of city coordinates in metres: float64[...] twice.

    Convention: x grows to grid east, y to grid north of UTM zone 26 N; the city's (0, 0) is
    (`ORIGIN_EASTING_M`, `ORIGIN_NORTHING_M`).
    """
    lon, lat = _to_degrees().transform(
        np.asarray(x, np.float64) + ORIGIN_EASTING_M, np.asarray(y, np.float64) + ORIGIN_NORTHING_M
    )
    return np.asarray(lat), np.asarray(lon)


def from_latlon(lat: ArrayLike, lon: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """City coordinates x, y in metres of WGS84 degrees, the inverse of `to_latlon`: float64[...] twice.

    Convention: as `to_latlon`; arguments in the order latitude, longitude.
    """
    easting, northing = _to_grid().transform(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    return np.asarray(easting) - ORIGIN_EASTING_M, np.asarray(northing) - ORIGIN_NORTHING_M


def convergence_deg(x: ArrayLike, y: ArrayLike) -> FloatArray:
    """Grid convergence in degrees, the true heading of grid north: float64[...].

    Convention: x, y as `to_latlon`; true heading = grid heading + convergence, both clockwise; positive east of 27 W.
    """
    lat, lon = to_latlon(x, y)
    return np.asarray(_projection().get_factors(lon, lat).meridian_convergence)
