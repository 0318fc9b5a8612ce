"""Regions that restrict a search: a circle, a box or a polygon in WGS84 degrees.

A search uses a region three times: which shards it can touch (by their bounding boxes), which cells of the
space-filling curve (cell_cover.py), and which tiles of these have their centre inside.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import shapely
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import QueryError
from geoloc.index.format.manifest import Bounds

Shape = TypeVar("Shape", bound=BaseModel)

# Bounds of the ellipsoid: a degree of latitude is nowhere shorter, a circle never wider than on this sphere.
_SHORTEST_DEGREE_M = 110_574.0
_SMALLEST_RADIUS_M = 6_335_439.0
_GREATEST_RADIUS_M = 6_399_594.0
_MOST_CORNERS = 10_000

Degrees = FloatArray | float
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


class _Shape(BaseModel, ABC):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def meets(self, south: Degrees, west: Degrees, north: Degrees, east: Degrees) -> BoolArray:
        """Which boxes (float64[N] each, west <= east) can share a point with the region: bool[N]."""

    def touches(self, bounds: Bounds) -> bool:
        """Whether a tile within `bounds` can lie in the region."""
        return bool(self.meets(bounds.south, bounds.west, bounds.north, bounds.east))


class Box(_Shape):
    """A box between two parallels and two meridians, borders included.

    Convention: it reaches from `west` eastward to `east`; `west` greater than `east` crosses the antimeridian.
    """

    south: Latitude
    west: Longitude
    north: Latitude
    east: Longitude

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.south > self.north:
            raise ValueError(f"south ({self.south}) must not be greater than north ({self.north})")
        return self

    def contains(self, lat: FloatArray, lon: FloatArray) -> BoolArray:
        """Which points [N] lie in the box; false for NaN."""
        inside = (lat >= self.south) & (lat <= self.north)
        if self.west <= self.east:
            across = (lon >= self.west) & (lon <= self.east)
        else:
            across = (lon >= self.west) | (lon <= self.east)
        # The meridian has two names: 180 east is 180 west.
        if self.east == 180:
            across |= lon == -180
        if self.west == -180:
            across |= lon == 180
        return np.asarray(inside & across)

    def box(self) -> Box:
        """The box itself."""
        return self

    def meets(self, south: Degrees, west: Degrees, north: Degrees, east: Degrees) -> BoolArray:
        """Which boxes (float64[N] each, west <= east) share a point with this one: bool[N]."""
        across = (south <= self.north) & (north >= self.south)
        left, right = west <= self.east, east >= self.west
        met = left & right if self.west <= self.east else left | right
        if self.east == 180:
            met = met | (np.asarray(west) == -180)
        if self.west == -180:
            met = met | (np.asarray(east) == 180)
        return np.asarray(across & met)


class Circle(_Shape):
    """All points within `radius_m` of (lat, lon) along the WGS84 ellipsoid, border included."""

    lat: Latitude
    lon: Longitude
    radius_m: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def box(self) -> Box:
        """A box that holds the circle; all longitudes where the circle reaches around a pole."""
        reach_deg = self.radius_m / _SHORTEST_DEGREE_M * (1 + 1e-9)
        south, north = self.lat - reach_deg, self.lat + reach_deg
        angle = self.radius_m / _SMALLEST_RADIUS_M
        ratio = math.sin(min(angle, math.pi / 2)) / max(math.cos(math.radians(self.lat)), 1e-12)
        if south <= -90 or north >= 90 or ratio >= 1:
            return Box(south=max(south, -90), west=-180, north=min(north, 90), east=180)
        # The sphere of smallest radius stands in for the ellipsoid; half a percent covers what it leaves out.
        half_deg = math.degrees(math.asin(ratio)) * 1.005
        if half_deg >= 180:
            return Box(south=south, west=-180, north=north, east=180)
        return Box(south=south, west=_wrap(self.lon - half_deg), north=north, east=_wrap(self.lon + half_deg))

    def contains(self, lat: FloatArray, lon: FloatArray) -> BoolArray:
        """Which points [N] lie in the circle; false for NaN."""
        inside = self.box().contains(lat, lon)
        near = np.flatnonzero(inside)
        # Geodesics are slow. The angle between two points times the ellipsoid's smallest and greatest radius of
        # curvature bounds their distance, so only a thin ring has to be measured.
        angle = _angle(math.radians(self.lat), math.radians(self.lon), lat[near], lon[near])
        unsure = (angle * _GREATEST_RADIUS_M > self.radius_m) & (angle * _SMALLEST_RADIUS_M <= self.radius_m)
        inside[near] = angle * _GREATEST_RADIUS_M <= self.radius_m
        ring = near[unsure]
        inside[ring] = geodesy.distance_m(self.lat, self.lon, lat[ring], lon[ring]) <= self.radius_m
        return inside

    def meets(self, south: Degrees, west: Degrees, north: Degrees, east: Degrees) -> BoolArray:
        """Which boxes (float64[N] each, west <= east) can share a point with the circle: bool[N]."""
        return self.box().meets(south, west, north, east)


class Polygon(_Shape):
    """The points within a ring of corners and outside of its holes, borders included.

    Convention: corners are (lat, lon); the last is joined to the first. Edges are straight in degrees, as in
    GeoJSON; an edge goes the shorter way around, so a ring may cross the antimeridian. No ring goes round a pole.
    """

    corners: Annotated[tuple[tuple[Latitude, Longitude], ...], Field(min_length=3, max_length=_MOST_CORNERS)]
    holes: tuple[
        Annotated[tuple[tuple[Latitude, Longitude], ...], Field(min_length=3, max_length=_MOST_CORNERS)], ...
    ] = ()

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        for ring in (self.corners, *self.holes):
            lon = _unrolled([corner[1] for corner in (*ring, ring[0])])
            if lon[0] != lon[-1]:
                raise ValueError("a ring of corners must not go round a pole")
        if not self._shape.is_valid or self._shape.area == 0:
            raise ValueError(f"the corners draw no area ({shapely.is_valid_reason(self._shape)})")
        return self

    @cached_property
    def _shape(self) -> Any:
        """The area in (lon, lat), its longitudes continuous: they may leave -180 to 180."""
        outer = _unrolled([lon for _, lon in self.corners])
        holes = []
        for hole in self.holes:
            lon = _unrolled([lon for _, lon in hole])
            turn = 360.0 * round((outer.mean() - lon.mean()) / 360.0)
            holes.append(np.stack([lon + turn, [lat for lat, _ in hole]], axis=1))
        shape = shapely.Polygon(np.stack([outer, [lat for lat, _ in self.corners]], axis=1), holes)
        shapely.prepare(shape)
        return shape

    def box(self) -> Box:
        """The smallest box that holds the polygon."""
        west, south, east, north = self._shape.bounds
        if east - west >= 360:
            return Box(south=south, west=-180, north=north, east=180)
        if west >= -180 and east <= 180:
            return Box(south=south, west=west, north=north, east=east)
        return Box(south=south, west=_wrap(west), north=north, east=_wrap(east))

    def contains(self, lat: FloatArray, lon: FloatArray) -> BoolArray:
        """Which points [N] lie in the polygon; false for NaN."""
        inside = self.box().contains(lat, lon)
        near = np.flatnonzero(inside)
        found = np.zeros(len(near), np.bool_)
        for turn in self._turns():
            found |= shapely.intersects_xy(self._shape, lon[near] + turn, lat[near])
        inside[near] = found
        return inside

    def meets(self, south: Degrees, west: Degrees, north: Degrees, east: Degrees) -> BoolArray:
        """Which boxes (float64[N] each, west <= east) share a point with the polygon: bool[N]."""
        found = np.zeros(np.shape(south), np.bool_)
        for turn in self._turns():
            boxes = shapely.box(np.add(west, turn), south, np.add(east, turn), north)
            found = found | shapely.intersects(self._shape, boxes)
        return np.asarray(found)

    def _turns(self) -> list[float]:
        """Offsets in degrees that bring longitudes from -180 to 180 to those of the shape."""
        west, _, east, _ = self._shape.bounds
        return [turn for turn in (-360.0, 0.0, 360.0) if turn - 180 <= east and turn + 180 >= west]


class Outside(_Shape):
    """Everything but the points of a circle: a search that must not find what lies about a place."""

    hidden: Circle

    def box(self) -> Box:
        """The whole earth."""
        return Box(south=-90, west=-180, north=90, east=180)

    def contains(self, lat: FloatArray, lon: FloatArray) -> BoolArray:
        """Which points [N] lie outside of the circle; false for NaN."""
        known = np.isfinite(lat) & np.isfinite(lon)
        return np.asarray(known & ~self.hidden.contains(lat, lon))

    def meets(self, south: Degrees, west: Degrees, north: Degrees, east: Degrees) -> BoolArray:
        """Which boxes (float64[N] each) may reach out of the circle: all of them."""
        return self.box().meets(south, west, north, east)


Region = Circle | Box | Polygon | Outside


def _unrolled(lon: Sequence[float]) -> FloatArray:
    """Longitudes of a line whose every step goes the shorter way, continuous."""
    steps = np.diff(np.asarray(lon, np.float64))
    turns = -360.0 * np.round(steps / 360.0)
    return np.asarray(lon, np.float64) + np.asarray(np.concatenate([[0.0], np.cumsum(turns)]), np.float64)


def _angle(lat: float, lon: float, lats_deg: FloatArray, lons_deg: FloatArray) -> FloatArray:
    """Angles in radians between a point and others, as if the latitudes were those of a sphere (haversine)."""
    lats, lons = np.radians(lats_deg), np.radians(lons_deg)
    chord = np.sin((lats - lat) / 2) ** 2 + math.cos(lat) * np.cos(lats) * np.sin((lons - lon) / 2) ** 2
    return np.asarray(2 * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0))))


def _wrap(lon: float) -> float:
    return (lon + 180.0) % 360.0 - 180.0


def circle(lat: float, lon: float, radius_m: float) -> Circle:
    """A circle from a user's numbers; `QueryError` when they are invalid."""
    return _explained(lambda: Circle(lat=lat, lon=lon, radius_m=radius_m))


def box(south: float, west: float, north: float, east: float) -> Box:
    """A box from a user's numbers; `QueryError` when they are invalid."""
    return _explained(lambda: Box(south=south, west=west, north=north, east=east))


def polygon(
    corners: Sequence[tuple[float, float]], holes: Sequence[Sequence[tuple[float, float]]] = ()
) -> Polygon:
    """A polygon from a user's corners (lat, lon); `QueryError` when they are invalid."""
    return _explained(lambda: Polygon(corners=tuple(corners), holes=tuple(tuple(hole) for hole in holes)))


def _explained(make: Callable[[], Shape]) -> Shape:
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "box"
        raise QueryError(
            f"The region is unusable: {where}: {first['msg']}; give WGS84 degrees and metres.",
            reason="bad_region",
        ) from error
