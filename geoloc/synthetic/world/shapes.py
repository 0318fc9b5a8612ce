"""Entries of rays into the simple solids of the city: prisms with gables, cars, blocks and cylinders of one pixel.

An entry is the distance from the ray's origin in units of its direction. It is infinite when the ray misses the solid
or starts inside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world.pixels import borrowing

Vector = tuple[float, float, float]
"""East, north and up."""


class Ray(NamedTuple):
    """A half-line: its origin in metres from the anchor of a `ray_field.Field`, and its direction."""

    origin: Vector
    direction: Vector


@borrowing(forceinline=True, error_model="numpy")
def prism_entry(prisms: FloatArray, k: int, ray: Ray) -> tuple[float, int]:
    """Distance at which a ray enters building `k` of prisms float64[B, 8], and the side that it enters by.

    The sides are 1 and 2 (walls at -u and +u), 3 and 4 (walls at -v and +v), 5 and 6 (roof), and 0 for a miss. The
    solid is a rectangle under one flat plane or two sloping planes.

    Convention: as `ray_field.Field`, which also lists the columns of prisms. The u axis is the building's own, turned
    from east by the angle of its cos and sin; v is to the left of u.
    """
    o, d = ray.origin, ray.direction
    cos, sin, half_u, half_v = prisms[k, 2], prisms[k, 3], prisms[k, 4], prisms[k, 5]
    wall, gable = prisms[k, 6], prisms[k, 7]
    east, north = o[0] - prisms[k, 0], o[1] - prisms[k, 1]
    u, v = east * cos + north * sin, north * cos - east * sin
    du, dv = d[0] * cos + d[1] * sin, d[1] * cos - d[0] * sin
    enter, leave, side = -math.inf, math.inf, 0
    for axis in range(2):
        place, speed, half = (u, du, half_u) if axis == 0 else (v, dv, half_v)
        if abs(speed) < 1e-12:
            if abs(place) > half:
                return math.inf, 0
            continue
        low, high = (-half - place) / speed, (half - place) / speed
        near, far = min(low, high), max(low, high)
        if near > enter:
            enter, side = near, 2 * axis + (1 if speed > 0 else 2)
        leave = min(leave, far)
    across, turn = (v / half_v, dv / half_v) if half_u >= half_v else (u / half_u, du / half_u)
    for side_of_ridge in range(2 if gable > 0 else 1):
        slope = gable if side_of_ridge else -gable
        above, climb = o[2] - wall - gable + slope * across, d[2] + slope * turn
        if climb == 0 and above > 0:
            return math.inf, 0
        if climb < 0 and above / -climb > enter:
            enter, side = above / -climb, 5 + side_of_ridge
        if climb > 0:
            leave = min(leave, above / -climb)
    if enter <= 1e-4 or enter >= leave:
        return math.inf, 0
    return enter, side


@borrowing(forceinline=True, error_model="numpy")
def prism_normal(prisms: FloatArray, k: int, side: int) -> Vector:
    """The outward unit normal of a side of building `k` of prisms float64[B, 8].

    Convention: sides are numbered as by `prism_entry`; the normal is east, north, up.
    """
    cos, sin, half_u, half_v, gable = prisms[k, 2], prisms[k, 3], prisms[k, 4], prisms[k, 5], prisms[k, 7]
    if side <= 2:
        sign = -1.0 if side == 1 else 1.0
        return sign * cos, sign * sin, 0.0
    if side <= 4:
        sign = -1.0 if side == 3 else 1.0
        return -sign * sin, sign * cos, 0.0
    if gable <= 0:
        return 0.0, 0.0, 1.0
    slope = (-1.0 if side == 5 else 1.0) * gable / min(half_u, half_v)
    long = math.sqrt(1 + slope * slope)
    if half_u >= half_v:
        return -sin * slope / long, cos * slope / long, 1 / long
    return cos * slope / long, sin * slope / long, 1 / long


@borrowing(forceinline=True, error_model="numpy")
def car_entry(boxes: FloatArray, k: int, ray: Ray) -> tuple[float, Vector]:
    """Distance at which a ray enters car `k` of boxes float64[C, 7], and the normal of the side that it enters by.

    A car is a body and, behind its middle, a narrower cabin.

    Convention: as `ray_field.Field`, which also lists the columns of boxes; the normal is east, north, up.
    """
    o, d = ray.origin, ray.direction
    cos, sin, tall = boxes[k, 2], boxes[k, 3], boxes[k, 6]
    east, north = o[0] - boxes[k, 0], o[1] - boxes[k, 1]
    u, v = east * cos + north * sin, north * cos - east * sin
    du, dv = d[0] * cos + d[1] * sin, d[1] * cos - d[0] * sin
    waist = 0.6 * tall if tall < 2 else 0.5 * tall
    front = 0.45 if tall < 2 else 0.8
    low = (-boxes[k, 4], -boxes[k, 5], 0.0)
    high = (boxes[k, 4], boxes[k, 5], waist)
    met, axis, sign = _slab((u, v, o[2]), (du, dv, d[2]), low, high)
    low = (-0.9 * boxes[k, 4], -0.88 * boxes[k, 5], waist)
    high = (front * boxes[k, 4], 0.88 * boxes[k, 5], tall)
    cabin, cabin_axis, cabin_sign = _slab((u, v, o[2]), (du, dv, d[2]), low, high)
    if cabin < met:
        met, axis, sign = cabin, cabin_axis, cabin_sign
    if axis == 0:
        return met, (sign * cos, sign * sin, 0.0)
    if axis == 1:
        return met, (-sign * sin, sign * cos, 0.0)
    return met, (0.0, 0.0, sign)


@borrowing(forceinline=True, error_model="numpy")
def _slab(o: Vector, d: Vector, low: Vector, high: Vector) -> tuple[float, int, float]:
    """Entry of a ray into a box along the axes: distance, axis of the entered side, sign of its normal."""
    enter, leave, axis, sign = -math.inf, math.inf, 0, 0.0
    for k in range(3):
        if abs(d[k]) < 1e-12:
            if o[k] < low[k] or o[k] > high[k]:
                return math.inf, 0, 0.0
            continue
        a, b = (low[k] - o[k]) / d[k], (high[k] - o[k]) / d[k]
        if min(a, b) > enter:
            enter, axis, sign = min(a, b), k, (-1.0 if d[k] > 0 else 1.0)
        leave = min(leave, max(a, b))
    if enter <= 1e-4 or enter >= leave:
        return math.inf, 0, 0.0
    return enter, axis, sign


@borrowing(forceinline=True, error_model="numpy")
def block_entry(
    i: int, j: int, ray: Ray, start: float, end: float, low: float, high: float
) -> tuple[float, Vector]:
    """Entry of a ray into the column of one pixel between two heights: distance, normal of the entered side.

    The ray crosses the pixel between the distances `start` and `end`.

    Convention: the pixel lies i pixels east and j pixels north of the anchor; the normal is east, north, up.
    """
    o, d = ray.origin, ray.direction
    at_start, at_end = o[2] + d[2] * start, o[2] + d[2] * end
    if low <= at_start <= high:
        if start <= 1e-4:
            return math.inf, (0.0, 0.0, 0.0)
        east, north = o[0] + d[0] * start - (i + 0.5) * 0.4, o[1] + d[1] * start - (j + 0.5) * 0.4
        if abs(east) > abs(north):
            return start, (1.0 if east > 0 else -1.0, 0.0, 0.0)
        return start, (0.0, 1.0 if north > 0 else -1.0, 0.0)
    if at_start > high and at_end < high:
        return (high - o[2]) / d[2], (0.0, 0.0, 1.0)
    if at_start < low and at_end > low:
        return (low - o[2]) / d[2], (0.0, 0.0, -1.0)
    return math.inf, (0.0, 0.0, 0.0)


@borrowing(forceinline=True, error_model="numpy")
def cylinder_entry(i: int, j: int, ray: Ray, radius: float, low: float, high: float) -> tuple[float, Vector]:
    """Entry of a ray into an upright cylinder in the middle of a pixel: distance, normal. The ends are open.

    Convention: as `block_entry`; radius and heights in metres.
    """
    o, d = ray.origin, ray.direction
    east, north = o[0] - (i + 0.5) * 0.4, o[1] - (j + 0.5) * 0.4
    a = d[0] * d[0] + d[1] * d[1]
    b = east * d[0] + north * d[1]
    inside = b * b - a * (east * east + north * north - radius * radius)
    if a < 1e-12 or inside <= 0:
        return math.inf, (0.0, 0.0, 0.0)
    t = (-b - math.sqrt(inside)) / a
    z = o[2] + d[2] * t
    if t <= 1e-4 or z < low or z > high:
        return math.inf, (0.0, 0.0, 0.0)
    return t, ((east + d[0] * t) / radius, (north + d[1] * t) / radius, 0.0)
