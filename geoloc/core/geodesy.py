"""Where things are: coordinates, local metric frames, distances, headings, web-mercator tiles, cells.

Angles are degrees, WGS84 outside; lengths are metres on the WGS84 ellipsoid, from pyproj. Headings are clockwise
from true north in [0, 360). Order is lat, lon everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pyproj import Geod, Transformer

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.core.schemas import coordinate_problem

MERCATOR_LAT_LIMIT_DEG = 85.05112877980659
CELL_LEVEL = 20  # about 38 m at the equator: finer than a tile, coarse enough for 40-bit cells
_WGS84 = Geod(ellps="WGS84")
_SPHERE_M = 6378137.0
EQUATOR_M = 2.0 * math.pi * _SPHERE_M


class LatLon(NamedTuple):
    """A point in WGS84 degrees."""

    lat: float
    lon: float


def checked(lat: float, lon: float) -> LatLon:
    """The point, or `InputError` when it is not on Earth."""
    if problem := coordinate_problem(lat, lon):
        raise InputError(f"The position ({lat}, {lon}) is unusable: {problem[1]}.", reason=problem[0])
    return LatLon(float(lat), float(lon))


def distance_m(
    lat: npt.ArrayLike, lon: npt.ArrayLike, to_lat: npt.ArrayLike, to_lon: npt.ArrayLike
) -> FloatArray:
    """Geodesic distance in metres, elementwise with broadcasting."""
    a, b, c, d = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (lat, lon, to_lat, to_lon)))
    _, _, distance = _WGS84.inv(b.ravel(), a.ravel(), d.ravel(), c.ravel())
    return np.asarray(distance, dtype=np.float64).reshape(a.shape)


def heading_deg(
    lat: npt.ArrayLike, lon: npt.ArrayLike, to_lat: npt.ArrayLike, to_lon: npt.ArrayLike
) -> FloatArray:
    """Heading at the first point towards the second, elementwise, from 0 to below 360.

    Convention: degrees clockwise from true north, 90 is east.
    """
    a, b, c, d = np.broadcast_arrays(*(np.asarray(v, dtype=np.float64) for v in (lat, lon, to_lat, to_lon)))
    azimuth, _, _ = _WGS84.inv(b.ravel(), a.ravel(), d.ravel(), c.ravel())
    return np.asarray(azimuth, dtype=np.float64).reshape(a.shape) % 360.0


def destination(lat: float, lon: float, heading: float, metres: float) -> LatLon:
    """The point reached from (lat, lon) along a geodesic.

    Convention: `heading` is degrees clockwise from true north, `metres` along the ellipsoid.
    """
    to_lon, to_lat, _ = _WGS84.fwd(lon, lat, heading, metres)
    return LatLon(float(to_lat), float(to_lon))


def offset_degrees(
    lat: npt.ArrayLike, lon: npt.ArrayLike, east_m: npt.ArrayLike, north_m: npt.ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """(lat, lon) of points of the local frames (`LocalFrame`) of many origins, elementwise with broadcasting.

    Convention: east_m grows to the east, north_m to the north, as seen from the origin lat, lon (WGS84 degrees).
    """
    a, b, east, north = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (lat, lon, east_m, north_m))
    )
    heading = np.degrees(np.arctan2(east, north))
    to_lon, to_lat, _ = _WGS84.fwd(b.ravel(), a.ravel(), heading.ravel(), np.hypot(east, north).ravel())
    return np.asarray(to_lat).reshape(a.shape), np.asarray(to_lon).reshape(a.shape)


@dataclass(frozen=True)
class LocalFrame:
    """Plane metric frame around an origin (azimuthal equidistant).

    Convention: east_m grows to the east, north_m to the north, the origin is (0, 0). Distances from the origin
    are exact; between two points within 50 km of it they are right to about 1 in 100,000.
    """

    origin: LatLon

    def to_metres(self, lat: npt.ArrayLike, lon: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """(east_m, north_m) of WGS84 points, elementwise."""
        east, north = _aeqd(*self.origin)[0].transform(np.asarray(lon, float), np.asarray(lat, float))
        return np.asarray(east, dtype=np.float64), np.asarray(north, dtype=np.float64)

    def to_degrees(self, east_m: npt.ArrayLike, north_m: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """(lat, lon) of points in the frame, elementwise."""
        lon, lat = _aeqd(*self.origin)[1].transform(np.asarray(east_m, float), np.asarray(north_m, float))
        return np.asarray(lat, dtype=np.float64), np.asarray(lon, dtype=np.float64)


@lru_cache(maxsize=256)
def _aeqd(lat: float, lon: float) -> tuple[Transformer, Transformer]:
    plane = f"+proj=aeqd +lat_0={lat!r} +lon_0={lon!r} +datum=WGS84 +units=m"
    forward = Transformer.from_crs("EPSG:4326", plane, always_xy=True)
    return forward, Transformer.from_crs(plane, "EPSG:4326", always_xy=True)


def mercator_xy(lat: npt.ArrayLike, lon: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Position in the unit square of web mercator, elementwise.

    Convention: x grows to the east from 0 at 180 W, y grows to the south from 0 at 85.05 N; latitudes beyond
    the projection's limit are clipped to it.
    """
    clipped = np.clip(np.asarray(lat, float), -MERCATOR_LAT_LIMIT_DEG, MERCATOR_LAT_LIMIT_DEG)
    x = (np.asarray(lon, float) + 180.0) / 360.0 % 1.0
    y = 0.5 - np.arcsinh(np.tan(np.radians(clipped))) / (2.0 * np.pi)
    return np.asarray(x), np.asarray(np.clip(y, 0.0, 1.0))


def map_tile(lat: npt.ArrayLike, lon: npt.ArrayLike, zoom: int) -> tuple[IntArray, IntArray]:
    """Column and row of the web-mercator (XYZ) tile that contains a point, elementwise.

    Convention: x counts to the east from 180 W, y to the south from the north edge, both below 2**zoom.
    """
    size = 2**zoom
    x, y = mercator_xy(lat, lon)
    last = size - 1
    return np.minimum(np.floor(x * size), last).astype(np.int64), np.minimum(np.floor(y * size), last).astype(
        np.int64
    )


def map_tile_bounds(x: int, y: int, zoom: int) -> tuple[float, float, float, float]:
    """(south, west, north, east) of a web-mercator tile in degrees."""
    size = 2**zoom

    def latitude(row: float) -> float:
        return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * row / size))))

    return latitude(y + 1), x / size * 360.0 - 180.0, latitude(y), (x + 1) / size * 360.0 - 180.0


def map_metres_per_pixel(lat: float, zoom: int, tile_px: int = 256) -> float:
    """Ground size of a web-mercator pixel at a latitude, on the projection's sphere."""
    return EQUATOR_M * math.cos(math.radians(lat)) / (tile_px * 2.0**zoom)


def cells(lat: npt.ArrayLike, lon: npt.ArrayLike, level: int = CELL_LEVEL) -> IntArray:
    """Spatial cells, elementwise: int64 Morton codes of web-mercator tiles.

    Sorting by cell walks a space-filling (Z) curve; `cell >> 2 * n` is the cell n levels up. Points beyond the
    mercator limit fall into the outermost rows.
    """
    return morton(*map_tile(lat, lon, level))


def morton(x: IntArray, y: IntArray) -> IntArray:
    """Morton codes of columns and rows below 2**31, elementwise: bits of x and y in turn, x lowest."""
    return _spread_bits(x) | (_spread_bits(y) << 1)


def _spread_bits(values: IntArray) -> IntArray:
    """Insert a zero before each of the low 32 bits."""
    spread = values.astype(np.uint64)
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
    return spread.astype(np.int64)


@dataclass(frozen=True)
class SphericalTransverseMercator:
    """Transverse mercator on a sphere of 6,378,137 m, scale 1 on the origin's meridian (Snyder 1987, eq. 8-1 to 8-7).

    Map editors place models with it (the 2.5D map data set among them). Degrees are taken as they come, as if
    they were of the sphere: distances differ from the ellipsoid's by up to 0.7 %.
    Convention: east_m and north_m from the origin, which is (0, 0).
    """

    origin: LatLon

    def to_metres(self, lat: npt.ArrayLike, lon: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """(east_m, north_m) of points in degrees, elementwise."""
        phi = np.radians(np.asarray(lat, dtype=np.float64))
        away = np.radians(np.asarray(lon, dtype=np.float64) - self.origin.lon)
        east = _SPHERE_M * np.arctanh(np.cos(phi) * np.sin(away))
        north = _SPHERE_M * (np.arctan2(np.tan(phi), np.cos(away)) - math.radians(self.origin.lat))
        return east, north

    def to_degrees(self, east_m: npt.ArrayLike, north_m: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """(lat, lon) in degrees of points in metres, elementwise."""
        x = np.asarray(east_m, dtype=np.float64) / _SPHERE_M
        d = np.asarray(north_m, dtype=np.float64) / _SPHERE_M + math.radians(self.origin.lat)
        lat = np.degrees(np.arcsin(np.sin(d) / np.cosh(x)))
        return lat, self.origin.lon + np.degrees(np.arctan2(np.sinh(x), np.cos(d)))

    @classmethod
    def fitted(
        cls, lat: npt.ArrayLike, lon: npt.ArrayLike, east_m: npt.ArrayLike, north_m: npt.ArrayLike
    ) -> SphericalTransverseMercator:
        """The projection that gives these metres for these degrees: the median of the origins of single points."""
        phi = np.radians(np.asarray(lat, dtype=np.float64))
        sine = np.tanh(np.asarray(east_m, dtype=np.float64) / _SPHERE_M) / np.cos(phi)
        away = np.arcsin(np.clip(sine, -1.0, 1.0))
        lon_0 = np.asarray(lon, dtype=np.float64) - np.degrees(away)
        lat_0 = np.degrees(
            np.arctan2(np.tan(phi), np.cos(away)) - np.asarray(north_m, dtype=np.float64) / _SPHERE_M
        )
        return cls(LatLon(float(np.median(lat_0)), float(np.median(lon_0))))
