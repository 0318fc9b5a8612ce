"""A ray caster over the city: what any ray meets first, how far away and at which angle.

Rays walk the 0.4 m pixels of a `Field` and jump over whatever lies below them by the pyramid of heights. Buildings
are met as exact prisms with gables, cars as boxes of body and cabin, tree crowns as intervals of height, lamp posts
and trunks as cylinders, hedges and walls as blocks, the ground as a plane. Plain double precision without fast
maths: the same ray gives the same answer on every machine and in every window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray, Int32Array, IntArray
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.ray_field import CEILING_M, Field, build_field
from geoloc.synthetic.world.shapes import (
    Vector,
    block_entry,
    car_entry,
    cylinder_entry,
    prism_entry,
    prism_normal,
)
from geoloc.synthetic.world.view_conditions import Look

SKY, GROUND, WALL, ROOF, BARRIER, CROWN, CAR = range(7)
"""What a ray met."""

_LAMP_LOW_M = 5.0  # barriers as tall as this are lamp posts
_LAMP_M = 0.1
_TRUNK_M = 0.2
_TRUNK_TOP_M = 2.0
_LEAF_RANGE_M = 40.0
_NUDGE_M = 1e-6
_CEILING_M = CEILING_M


@dataclass(frozen=True)
class Hits:
    """What rays met.

    depth: float32[N] in metres along the ray, infinite for the sky; kind: uint8[N], `SKY` to `CAR`; index: int32[N],
    row of the window's buildings or number of the car, -1 otherwise; cell: int32[N], flat pixel of the field, -1 for
    the sky; normal: float32[N, 3] of the surface met, east, north, up.
    """

    depth: Float32Array
    kind: NDArray[np.uint8]
    index: Int32Array
    cell: Int32Array
    normal: Float32Array


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

    origins: float64[3] or [N, 3], directions: float64[N, 3] of any length. `bounds` limits the area looked at,
    `reach_m` the horizontal distance; cars with their centre within `clear_m` of the first origin are left out.

    Convention: x east, y north, z up in city metres; the ground is z = 0.
    """
    origins = np.atleast_2d(np.asarray(origins, np.float64))
    eye = float(origins[0, 0]), float(origins[0, 1])
    field = build_field(window, bounds or window.bounds, look, eye, clear_m=clear_m)
    return cast_field(field, origins, np.asarray(directions, np.float64), reach_m)


def cast_field(field: Field, origins: FloatArray, directions: FloatArray, reach_m: float) -> Hits:
    """As `cast`, in a field that is already there; all rays may share one origin float64[1, 3]."""
    count = len(directions)
    hits = Hits(
        np.empty(count, np.float32), np.empty(count, np.uint8), np.empty(count, np.int32),
        np.empty(count, np.int32), np.empty((count, 3), np.float32),
    )  # fmt: skip
    _cast(
        field.tops, field.levels, field.frame, field.near, field.building, field.car, field.height_cm,
        field.canopy_dm, field.under_dm, field.prisms, field.boxes, np.atleast_2d(origins) - field.anchor_m,
        directions, reach_m, hits.depth, hits.kind, hits.index, hits.cell, hits.normal,
    )  # fmt: skip
    return hits


@njit(cache=True, nogil=True, error_model="numpy")
def _cast(
    tops: NDArray[np.uint16], levels: IntArray, frame: IntArray, near: Int32Array,
    building: Int32Array, car: NDArray[np.int16], height: NDArray[np.uint16], canopy: NDArray[np.uint8],
    under: NDArray[np.uint8], prisms: FloatArray, boxes: FloatArray, origins: FloatArray,
    directions: FloatArray, reach_m: float,
    depth: Float32Array, kind: NDArray[np.uint8], index: Int32Array, cell: Int32Array, normal: Float32Array,
) -> None:  # fmt: skip
    """Follow all rays; arrays go from function to function one by one, which costs no counting of references."""
    shared = len(origins) == 1
    for n in range(len(directions)):
        m = 0 if shared else n
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        long = math.sqrt(dx * dx + dy * dy + dz * dz)
        o = (origins[m, 0], origins[m, 1], origins[m, 2])
        d = (dx / long, dy / long, dz / long)
        t, met, which, where, face = _trace(
            tops, levels, frame, near, building, car, height, canopy, under, prisms, boxes, o, d, reach_m
        )
        depth[n], kind[n], index[n], cell[n] = t, met, which, where
        normal[n, 0], normal[n, 1], normal[n, 2] = face


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _span(height: float, climb: float, last: float) -> tuple[float, float]:
    """From where to where a ray flies low enough to meet anything."""
    if height > _CEILING_M:
        return ((height - _CEILING_M) / -climb if climb < 0 else math.inf), last
    return 0.0, (min(last, (_CEILING_M - height) / climb) if climb > 0 else last)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _trace(
    tops: NDArray[np.uint16], levels: IntArray, frame: IntArray, near: Int32Array,
    building: Int32Array, car: NDArray[np.int16], height: NDArray[np.uint16], canopy: NDArray[np.uint8],
    under: NDArray[np.uint8], prisms: FloatArray, boxes: FloatArray, o: Vector, d: Vector, reach_m: float,
) -> tuple[float, int, int, int, Vector]:  # fmt: skip
    """First hit of one ray: depth, kind, index, cell, normal."""
    rows, columns = height.shape
    west, north, anchor_i, anchor_j = frame[0], frame[1], frame[2], frame[3]
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
        while (
            level < 3 and moved >> (2 * level + 2) != 0
        ):  # a larger square was entered: try to skip all of it
            level += 1
        while True:
            shift = 2 * level
            bi, bj = gi >> shift, gj >> shift
            away_x = ((((bi + ahead_x) << shift) - anchor_i) * 0.4 - o[0]) * over_x
            away_y = ((((bj + ahead_y) << shift) - anchor_j) * 0.4 - o[1]) * over_y
            away = max(min(min(away_x, away_y), last), t)
            place = levels[level, 0] + (levels[level, 3] - bj) * levels[level, 1] + bi - levels[level, 2]
            if o[2] + min(d[2] * t, d[2] * away) >= tops[place] * 0.01:
                break
            if level > 0:
                level -= 1
                continue
            met, kind, index, face = _in_cell(
                near[r, c], building, car[r, c], height[r, c], canopy, under, prisms, boxes, frame, r, c, i, j, o, d,
                t, away,
            )  # fmt: skip
            if met <= last:
                return met, kind, index, r * columns + c, face
            break
        t = away + nudge
    if floor > last:
        return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
    c = math.floor((o[0] + d[0] * floor) * 2.5) + anchor_i - west
    r = north - 1 - math.floor((o[1] + d[1] * floor) * 2.5) - anchor_j
    if c < 0 or r < 0 or c >= columns or r >= rows:
        return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
    return floor, GROUND, -1, r * columns + c, (0.0, 0.0, 1.0)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _in_cell(
    close: int, building: Int32Array, vehicle: int, height_cm: int, canopy: NDArray[np.uint8],
    under: NDArray[np.uint8], prisms: FloatArray, boxes: FloatArray, frame: IntArray, r: int, c: int, i: int, j: int,
    o: Vector, d: Vector, start: float, end: float,
) -> tuple[float, int, int, Vector]:  # fmt: skip
    """The first thing a ray meets between `start` and `end` in one pixel.

    Depth (infinite for none), kind, index, normal.
    """
    best, kind, index, face = math.inf, SKY, -1, (0.0, 0.0, 0.0)
    if close >= 0:
        met, side = prism_entry(prisms, close, o, d)
        if met <= end and met < best and _belongs(met, i, j, o, d):
            best, index, face = met, close, prism_normal(prisms, close, side)
            kind = ROOF if side > 4 else WALL
    if vehicle >= 0:
        met, turned = car_entry(boxes, vehicle, o, d)
        if met <= end and met < best and _belongs(met, i, j, o, d):
            best, kind, index, face = met, CAR, vehicle, turned
    if height_cm > 0:
        own = building[r, c]
        met, turned = _standing(own, height_cm * 0.01, prisms, i, j, o, d, start, end)
        if met < best:
            best, index, face = met, own, turned
            kind = ROOF if own >= 0 else BARRIER
    if canopy[r, c] > 0:
        met, turned = _crown(canopy, under, frame, r, c, i, j, o, d, start, end)
        if met < best:
            best, kind, index, face = met, CROWN, -1, turned
    return best, kind, index, face


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _standing(
    own: int, tall: float, prisms: FloatArray, i: int, j: int, o: Vector, d: Vector, start: float, end: float
) -> tuple[float, Vector]:
    """Entry of a ray into what stands in one pixel: a lamp post, a barrier, or plant on a flat roof."""
    if own < 0:
        if tall >= _LAMP_LOW_M:
            return cylinder_entry(i, j, o, d, _LAMP_M, 0.0, tall)
        return block_entry(i, j, o, d, start, end, 0.0, tall)
    wall = prisms[own, 6]
    if prisms[own, 7] <= 0 and tall > wall + 0.6:
        return block_entry(i, j, o, d, start, end, wall, tall)
    return math.inf, (0.0, 0.0, 0.0)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _belongs(t: float, i: int, j: int, o: Vector, d: Vector) -> bool:
    """Whether a point of a ray lies in a pixel or right beside it, where outlines reach out of their pixels."""
    east, north = o[0] + d[0] * t - (i + 0.5) * 0.4, o[1] + d[1] * t - (j + 0.5) * 0.4
    return abs(east) < 0.6 and abs(north) < 0.6


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _crown(
    canopy: NDArray[np.uint8], under: NDArray[np.uint8], frame: IntArray, r: int, c: int, i: int, j: int,
    o: Vector, d: Vector, start: float, end: float,
) -> tuple[float, Vector]:  # fmt: skip
    """Entry of a ray into a tree's leaves or trunk; leaves have holes of their own size near the eye."""
    high, low = canopy[r, c] * 0.1, under[r, c] * 0.1
    if low <= 0:
        met, turned = cylinder_entry(i, j, o, d, _TRUNK_M, 0.0, _TRUNK_TOP_M)
        if met < math.inf:
            return met, turned
        low = _TRUNK_TOP_M
    met, turned = block_entry(i, j, o, d, start, end, low, high)
    if met == math.inf:
        return met, turned
    z = o[2] + d[2] * met
    gi, gj = i + frame[2], j + frame[3]
    if leaf(gi, gj, math.floor(z * 2.5)) < 36:
        return math.inf, turned
    if met < _LEAF_RANGE_M:
        x, y = o[0] + d[0] * met - i * 0.4, o[1] + d[1] * met - j * 0.4
        fine = leaf(gi * 3 + math.floor(x * 7.5), gj * 3 + math.floor(y * 7.5), math.floor(z * 7.5) + 7919)
        if fine < 70:
            return math.inf, turned
    return met, _crown_normal(canopy, r, c, z, low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def leaf(a: int, b: int, k: int) -> int:
    """A hash in 0..255 of three integers."""
    state = np.uint32(a * 374761393 + b * 668265263 + k * 1274126177 + 97)
    state = np.uint32((state ^ (state >> np.uint32(15))) * np.uint32(0x7FEB352D))
    state = np.uint32((state ^ (state >> np.uint32(13))) * np.uint32(0x846CA68B))
    return int(state >> np.uint32(24))


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _crown_normal(canopy: NDArray[np.uint8], r: int, c: int, z: float, low: float, high: float) -> Vector:
    """The direction in which a crown bulges at a height, from the slope of its top."""
    rows, columns = canopy.shape
    west, east = canopy[r, max(c - 1, 0)], canopy[r, min(c + 1, columns - 1)]
    south, north = canopy[min(r + 1, rows - 1), c], canopy[max(r - 1, 0), c]
    x, y = (float(west) - float(east)) * 0.125, (float(south) - float(north)) * 0.125
    up = 2 * (z - (low + high) / 2) / max(high - low, 0.4) + 0.25
    long = math.sqrt(x * x + y * y + up * up) + 1e-9
    return x / long, y / long, up / long
