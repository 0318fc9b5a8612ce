"""A ray caster over the city: which surface a ray meets first, at which distance and with which normal.

Rays walk the 0.4 m pixels of a `Field`. A pyramid of greatest heights lets them jump over everything that is lower.
Buildings are exact prisms with gables, cars are boxes of body and cabin, tree crowns are intervals of height. Lamp
posts and trunks are cylinders, hedges and walls are blocks, the ground is a plane. The arithmetic is plain double
precision without fast maths: a ray has the same answer on every machine and in every window.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray, Int32Array
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.ray_field import CEILING_M, Field, build_field
from geoloc.synthetic.world.shapes import (
    Ray,
    Vector,
    block_entry,
    car_entry,
    cylinder_entry,
    prism_entry,
    prism_normal,
)
from geoloc.synthetic.world.view_conditions import Look

SKY, GROUND, WALL, ROOF, BARRIER, CROWN, CAR = range(7)
"""Kinds of surface that a ray can meet."""

_LAMP_LOW_M = 5.0  # barriers as tall as this are lamp posts
_LAMP_M = 0.1
_TRUNK_M = 0.2
_TRUNK_TOP_M = 2.0
_LEAF_RANGE_M = 40.0
_NUDGE_M = 1e-6
_CEILING_M = CEILING_M


class Hits(NamedTuple):
    """The first surface on each of N rays.

    depth: float32[N] in metres along the ray, infinite for the sky; kind: uint8[N], `SKY` to `CAR`; item: int32[N],
    row of the window's buildings or number of the car, -1 otherwise; cell: int32[N], flat pixel of the field, -1 for
    the sky; normal: float32[N, 3] of the surface, east, north, up.
    """

    depth: Float32Array
    kind: NDArray[np.uint8]
    item: Int32Array
    cell: Int32Array
    normal: Float32Array


class Pixel(NamedTuple):
    """A pixel of a field.

    Convention: row 0 is the field's northern edge, column 0 its western one. The pixel lies i pixels east and
    j pixels north of the field's anchor.
    """

    row: int
    column: int
    i: int
    j: int


def cast(
    window: Window,
    origins: FloatArray,
    directions: FloatArray,
    look: Look,
    *,
    bounds: Bounds | None = None,
    reach_m: float = math.inf,
    clear_m: float = 0.0,
) -> Hits:
    """Send rays from city points into a window.

    origins: float64[3] or [N, 3], directions: float64[N, 3] of any length. `bounds` limits the area, `reach_m` the
    horizontal distance. Cars with their centre within `clear_m` of the first origin are left out.

    Convention: x east, y north, z up in city metres; the ground is z = 0.
    """
    origins = np.atleast_2d(np.asarray(origins, np.float64))
    eye = float(origins[0, 0]), float(origins[0, 1])
    field = build_field(window, bounds or window.bounds, look, eye, clear_m=clear_m)
    return cast_field(field, origins, np.asarray(directions, np.float64), reach_m)


def cast_field(field: Field, origins: FloatArray, directions: FloatArray, reach_m: float) -> Hits:
    """As `cast`, in a field that exists already; all rays may share one origin float64[1, 3]."""
    count = len(directions)
    hits = Hits(
        np.empty(count, np.float32), np.empty(count, np.uint8), np.empty(count, np.int32),
        np.empty(count, np.int32), np.empty((count, 3), np.float32),
    )  # fmt: skip
    _cast(field, np.atleast_2d(origins) - field.anchor_m, directions, reach_m, hits)
    return hits


@borrowing(error_model="numpy")
def _cast(field: Field, origins: FloatArray, directions: FloatArray, reach_m: float, hits: Hits) -> None:
    """Follow all rays and write what they meet to `hits`; origins are relative to the field's anchor."""
    shared = len(origins) == 1
    for n in range(len(directions)):
        m = 0 if shared else n
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        long = math.sqrt(dx * dx + dy * dy + dz * dz)
        ray = Ray((origins[m, 0], origins[m, 1], origins[m, 2]), (dx / long, dy / long, dz / long))
        depth, kind, item, cell, normal = _trace(field, ray, reach_m)
        hits.depth[n], hits.kind[n], hits.item[n], hits.cell[n] = depth, kind, item, cell
        hits.normal[n, 0], hits.normal[n, 1], hits.normal[n, 2] = normal


@borrowing(forceinline=True, error_model="numpy")
def _span(height: float, climb: float, last: float) -> tuple[float, float]:
    """First and last distance at which a ray is below the ceiling of everything that stands."""
    if height > _CEILING_M:
        return ((height - _CEILING_M) / -climb if climb < 0 else math.inf), last
    return 0.0, (min(last, (_CEILING_M - height) / climb) if climb > 0 else last)


@borrowing(forceinline=True, error_model="numpy")
def _trace(field: Field, ray: Ray, reach_m: float) -> tuple[float, int, int, int, Vector]:
    """First hit of one ray with a direction of length 1: depth, kind, item, cell, normal."""
    o, d = ray.origin, ray.direction
    rows, columns = field.height_cm.shape
    west, north, anchor_i, anchor_j = field.frame[0], field.frame[1], field.frame[2], field.frame[3]
    floor = -o[2] / d[2] if d[2] < 0 else math.inf
    flat = max(math.sqrt(d[0] * d[0] + d[1] * d[1]), 1e-12)
    t, last = _span(o[2], d[2], min(floor, reach_m / flat))
    over_x = 1 / d[0] if abs(d[0]) > 1e-15 else 1e15
    over_y = 1 / d[1] if abs(d[1]) > 1e-15 else 1e15
    # Along an axis the far border of a square is never reached; the near one would stop the ray for good.
    ahead_x, ahead_y = (1 if d[0] >= -1e-15 else 0), (1 if d[1] >= -1e-15 else 0)
    level, nudge = 3, _NUDGE_M / max(flat, 1e-3)
    old_i = old_j = 1 << 40
    while t < last:
        i, j = math.floor((o[0] + d[0] * t) * 2.5), math.floor((o[1] + d[1] * t) * 2.5)
        gi, gj = i + anchor_i, j + anchor_j
        c, r = gi - west, north - 1 - gj
        if c < 0 or r < 0 or c >= columns or r >= rows:
            return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
        moved = (gi ^ old_i) | (gj ^ old_j)
        old_i, old_j = gi, gj
        while level < 3 and moved >> (2 * level + 2) != 0:  # in another larger square: try to skip all of it
            level += 1
        while True:
            shift = 2 * level
            bi, bj = gi >> shift, gj >> shift
            away_x = ((((bi + ahead_x) << shift) - anchor_i) * 0.4 - o[0]) * over_x
            away_y = ((((bj + ahead_y) << shift) - anchor_j) * 0.4 - o[1]) * over_y
            away = max(min(min(away_x, away_y), last), t)
            start, width, first_i, first_j = _level(field, level)
            top = field.tops[start + (first_j - bj) * width + bi - first_i]
            if o[2] + min(d[2] * t, d[2] * away) >= top * 0.01:
                break
            if level > 0:
                level -= 1
                continue
            depth, kind, item, normal = _in_pixel(field, Pixel(r, c, i, j), ray, t, away)
            if depth <= last:
                return depth, kind, item, r * columns + c, normal
            break
        t = away + nudge
    if floor > last:
        return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
    c = math.floor((o[0] + d[0] * floor) * 2.5) + anchor_i - west
    r = north - 1 - math.floor((o[1] + d[1] * floor) * 2.5) - anchor_j
    if c < 0 or r < 0 or c >= columns or r >= rows:
        return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
    return floor, GROUND, -1, r * columns + c, (0.0, 0.0, 1.0)


@borrowing(forceinline=True, error_model="numpy")
def _level(field: Field, level: int) -> tuple[int, int, int, int]:
    """A level of the pyramid: where it starts, its columns, the city's squares at its west and north edge."""
    return field.levels[level, 0], field.levels[level, 1], field.levels[level, 2], field.levels[level, 3]


@borrowing(forceinline=True, error_model="numpy")
def _in_pixel(
    field: Field, pixel: Pixel, ray: Ray, start: float, end: float
) -> tuple[float, int, int, Vector]:
    """The first surface on a ray between two distances in one pixel: depth (infinite for none), kind, item, normal."""
    r, c = pixel.row, pixel.column
    depth, kind, item, normal = math.inf, SKY, -1, (0.0, 0.0, 0.0)
    building, car, height_cm = field.near[r, c], field.car[r, c], field.height_cm[r, c]
    if building >= 0:
        entry, side = prism_entry(field.prisms, building, ray)
        if entry <= end and entry < depth and _belongs(entry, pixel, ray):
            depth, item, normal = entry, building, prism_normal(field.prisms, building, side)
            kind = ROOF if side > 4 else WALL
    if car >= 0:
        entry, face = car_entry(field.boxes, car, ray)
        if entry <= end and entry < depth and _belongs(entry, pixel, ray):
            depth, kind, item, normal = entry, CAR, car, face
    if height_cm > 0:
        below = field.building[r, c]
        entry, face = _enter_standing(field.prisms, below, height_cm * 0.01, pixel, ray, start, end)
        if entry < depth:
            depth, item, normal = entry, below, face
            kind = ROOF if below >= 0 else BARRIER
    if field.canopy_dm[r, c] > 0:
        entry, face = _enter_crown(field, pixel, ray, start, end)
        if entry < depth:
            depth, kind, item, normal = entry, CROWN, -1, face
    return depth, kind, item, normal


@borrowing(forceinline=True, error_model="numpy")
def _enter_standing(
    prisms: FloatArray, building: int, tall_m: float, pixel: Pixel, ray: Ray, start: float, end: float
) -> tuple[float, Vector]:
    """Entry of a ray into what stands in one pixel: a lamp post, a barrier, or equipment on a building's flat roof."""
    if building < 0:
        if tall_m >= _LAMP_LOW_M:
            return cylinder_entry(pixel.i, pixel.j, ray, _LAMP_M, 0.0, tall_m)
        return block_entry(pixel.i, pixel.j, ray, start, end, 0.0, tall_m)
    wall = prisms[building, 6]
    if prisms[building, 7] <= 0 and tall_m > wall + 0.6:
        return block_entry(pixel.i, pixel.j, ray, start, end, wall, tall_m)
    return math.inf, (0.0, 0.0, 0.0)


@borrowing(forceinline=True, error_model="numpy")
def _belongs(t: float, pixel: Pixel, ray: Ray) -> bool:
    """Whether a point of a ray lies in a pixel or right beside it, where outlines reach out of their pixels."""
    o, d = ray.origin, ray.direction
    east, north = o[0] + d[0] * t - (pixel.i + 0.5) * 0.4, o[1] + d[1] * t - (pixel.j + 0.5) * 0.4
    return abs(east) < 0.6 and abs(north) < 0.6


@borrowing(forceinline=True, error_model="numpy")
def _enter_crown(field: Field, pixel: Pixel, ray: Ray, start: float, end: float) -> tuple[float, Vector]:
    """Entry of a ray into a tree's leaves or trunk; near the eye there are finer holes between the leaves."""
    o, d, i, j = ray.origin, ray.direction, pixel.i, pixel.j
    high, low = field.canopy_dm[pixel.row, pixel.column] * 0.1, field.under_dm[pixel.row, pixel.column] * 0.1
    if low <= 0:
        depth, normal = cylinder_entry(i, j, ray, _TRUNK_M, 0.0, _TRUNK_TOP_M)
        if depth < math.inf:
            return depth, normal
        low = _TRUNK_TOP_M
    depth, normal = block_entry(i, j, ray, start, end, low, high)
    if depth == math.inf:
        return depth, normal
    z = o[2] + d[2] * depth
    gi, gj = i + field.frame[2], j + field.frame[3]
    if leaf(gi, gj, math.floor(z * 2.5)) < 36:
        return math.inf, normal
    if depth < _LEAF_RANGE_M:
        x, y = o[0] + d[0] * depth - i * 0.4, o[1] + d[1] * depth - j * 0.4
        fine = leaf(gi * 3 + math.floor(x * 7.5), gj * 3 + math.floor(y * 7.5), math.floor(z * 7.5) + 7919)
        if fine < 70:
            return math.inf, normal
    return depth, _crown_normal(field.canopy_dm, pixel, z, low, high)


@borrowing(error_model="numpy")
def leaf(a: int, b: int, k: int) -> int:
    """A hash in 0..255 of three integers."""
    state = np.uint32(a * 374761393 + b * 668265263 + k * 1274126177 + 97)
    state = np.uint32((state ^ (state >> np.uint32(15))) * np.uint32(0x7FEB352D))
    state = np.uint32((state ^ (state >> np.uint32(13))) * np.uint32(0x846CA68B))
    return int(state >> np.uint32(24))


@borrowing(forceinline=True, error_model="numpy")
def _crown_normal(canopy: NDArray[np.uint8], pixel: Pixel, z: float, low: float, high: float) -> Vector:
    """The normal of a crown's surface at a height, from the slope of its top."""
    rows, columns = canopy.shape
    r, c = pixel.row, pixel.column
    west, east = canopy[r, max(c - 1, 0)], canopy[r, min(c + 1, columns - 1)]
    south, north = canopy[min(r + 1, rows - 1), c], canopy[max(r - 1, 0), c]
    x, y = (float(west) - float(east)) * 0.125, (float(south) - float(north)) * 0.125
    up = 2 * (z - (low + high) / 2) / max(high - low, 0.4) + 0.25
    long = math.sqrt(x * x + y * y + up * up) + 1e-9
    return x / long, y / long, up / long
