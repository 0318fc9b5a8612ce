"""Regions that restrict a search: a circle or a box in WGS84 degrees.

A search asks a region twice: which shards can it touch (by their bounding boxes), and which of their tiles have
their centre inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoloc import geodesy
from geoloc.errors import QueryError
from geoloc.index.manifest import Bounds

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Made = TypeVar("Made", bound=BaseModel)

# Bounds of the ellipsoid: a degree of latitude is nowhere shorter, a circle never wider than on this sphere.
_SHORTEST_DEGREE_M = 110_574.0
_SMALLEST_RADIUS_M = 6_335_439.0

Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]


class Box(BaseModel):
    """A box between two parallels and two meridians, borders included.

    Convention: it reaches from `west` eastward to `east`; `west` greater than `east` crosses the antimeridian.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
            return np.asarray(inside & (lon >= self.west) & (lon <= self.east))
        return np.asarray(inside & ((lon >= self.west) | (lon <= self.east)))

    def touches(self, bounds: Bounds) -> bool:
        """Whether a tile within `bounds` can lie in the box."""
        if bounds.south > self.north or bounds.north < self.south:
            return False
        if self.west <= self.east:
            return bounds.west <= self.east and bounds.east >= self.west
        return bounds.east >= self.west or bounds.west <= self.east


class Circle(BaseModel):
    """All points within `radius_m` of (lat, lon) along the WGS84 ellipsoid, border included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        # Geodesics are slow: only what passed the box is measured.
        inside[near] = geodesy.distance_m(self.lat, self.lon, lat[near], lon[near]) <= self.radius_m
        return inside

    def touches(self, bounds: Bounds) -> bool:
        """Whether a tile within `bounds` can lie in the circle."""
        return self.box().touches(bounds)


Region = Circle | Box


def _wrap(lon: float) -> float:
    return (lon + 180.0) % 360.0 - 180.0


def circle(lat: float, lon: float, radius_m: float) -> Circle:
    """A circle from numbers a user gave; `QueryError` when they make none."""
    return _explained(lambda: Circle(lat=lat, lon=lon, radius_m=radius_m))


def box(south: float, west: float, north: float, east: float) -> Box:
    """A box from numbers a user gave; `QueryError` when they make none."""
    return _explained(lambda: Box(south=south, west=west, north=north, east=east))


def _explained(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "box"
        raise QueryError(
            f"The region is unusable: {where}: {first['msg']}; give WGS84 degrees and metres.",
            reason="bad_region",
        ) from error
