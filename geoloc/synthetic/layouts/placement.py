"""Places on Earth for the city of a data set whose readers assume a certain place or map projection."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyproj
from numpy.typing import ArrayLike

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world.georeference import CRS, ORIGIN_EASTING_M, ORIGIN_NORTHING_M

SPHERE_M = 6378137.0
WEB_MERCATOR_M_PX = 2 * math.pi * SPHERE_M / 256
"""Metres of a pixel of zoom 0 at the equator."""
_SQUARED_ECCENTRICITY = 0.0066943799901413165


@dataclass(frozen=True)
class Placement:
    """A projection, the projected coordinates of the city's (0, 0), and how the city is turned in it.

    Convention: `turn_deg` is the direction of the city's grid north in the projection, clockwise from the
    projection's grid north. City metres are the projection's metres, so whoever reads positions in that
    projection gets exactly the city's distances.
    """

    projection: str = CRS
    easting_m: float = ORIGIN_EASTING_M
    northing_m: float = ORIGIN_NORTHING_M
    turn_deg: float = 0.0

    def to_latlon(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Latitude and longitude in degrees of city metres: float64[...] twice."""
        easting, northing = self.to_projected(x, y)
        lon, lat = _projection(self.projection)(easting, northing, inverse=True)
        return np.asarray(lat, np.float64), np.asarray(lon, np.float64)

    def from_latlon(self, lat: ArrayLike, lon: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """City metres x, y of degrees, the inverse of `to_latlon`: float64[...] twice.

        Convention: as the class; arguments in the order latitude, longitude.
        """
        easting, northing = _projection(self.projection)(np.asarray(lon, float), np.asarray(lat, float))
        east, north = np.asarray(easting) - self.easting_m, np.asarray(northing) - self.northing_m
        cos, sin = self._turn
        return np.asarray(east * cos - north * sin), np.asarray(east * sin + north * cos)

    def to_projected(self, x: ArrayLike, y: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Easting and northing in the projection: float64[...] twice."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        cos, sin = self._turn
        return self.easting_m + x * cos + y * sin, self.northing_m - x * sin + y * cos

    def convergence_deg(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """The true heading of the city's grid north: float64[...].

        Convention: true heading = city heading + convergence, both clockwise.
        """
        lat, lon = self.to_latlon(x, y)
        factors = _projection(self.projection).get_factors(lon, lat)
        return np.asarray(factors.meridian_convergence + self.turn_deg)

    @property
    def _turn(self) -> tuple[float, float]:
        angle = math.radians(self.turn_deg)
        return math.cos(angle), math.sin(angle)


@lru_cache(maxsize=16)
def _projection(name: str) -> pyproj.Proj:
    return pyproj.Proj(name)


def utm_at(lat: float, lon: float, *, zone: int, south: bool = False) -> Placement:
    """A placement in a UTM zone with the city's (0, 0) at a point, turned so that its north is true north there.

    Convention: easting and northing are rounded to whole kilometres; grid north of the city is true north to
    better than 0.1 degrees within 10 km.
    """
    crs = f"EPSG:{32700 + zone if south else 32600 + zone}"
    easting, northing = (round(float(v), -3) for v in _projection(crs)(lon, lat))
    level = Placement(crs, easting, northing)
    return replace(level, turn_deg=-float(level.convergence_deg(0.0, 0.0)))


def sphere_at(lat: float, lon: float) -> Placement:
    """A spherical transverse Mercator (R = 6378137 m, scale 1) about a point, which becomes the city's (0, 0)."""
    return Placement(f"+proj=tmerc +lat_0={lat!r} +lon_0={lon!r} +k=1 +R={SPHERE_M} +type=crs", 0.0, 0.0)


def mercator_metres_per_pixel(lat: float, zoom: int) -> float:
    """Metres of a pixel of a web map's imagery on the WGS84 ellipsoid, from west to east."""
    prime_vertical = 1 / math.sqrt(1 - _SQUARED_ECCENTRICITY * math.sin(math.radians(lat)) ** 2)
    return WEB_MERCATOR_M_PX / 2.0**zoom * math.cos(math.radians(lat)) * prime_vertical
