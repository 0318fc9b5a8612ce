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

from geoloc.city.looks import Look
from geoloc.city.network import Bounds
from geoloc.city.noise import Double, Float
from geoloc.city.raster import Window
from geoloc.city.shapes import block_entry, car_entry, cylinder_entry, prism_entry, prism_normal
from geoloc.city.solids import CEILING_M, Field, build_field
from geoloc.city.style import PIXEL_M

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

    depth: Float
    kind: NDArray[np.uint8]
    index: NDArray[np.int32]
    cell: NDArray[np.int32]
    normal: Float


def cast(
    window: Window,
    origins: Double,
    directions: Double,
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


def cast_field(field: Field, origins: Double, directions: Double, reach_m: float) -> Hits:
    """As `cast`, in a field that is already there."""
    count = len(directions)
    local = np.broadcast_to(origins, (count, 3)) - (field.anchor_i * PIXEL_M, field.anchor_j * PIXEL_M, 0.0)
    ahead = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    hits = Hits(
        np.empty(count, np.float32), np.empty(count, np.uint8), np.empty(count, np.int32),
        np.empty(count, np.int32), np.empty((count, 3), np.float32),
    )  # fmt: skip
    _cast(field, local, ahead, reach_m, hits.depth, hits.kind, hits.index, hits.cell, hits.normal)
    return hits


@njit(cache=True, nogil=True)
def _cast(
    field: Field, origins: Double, directions: Double, reach_m: float, depth: Float, kind: NDArray[np.uint8],
    index: NDArray[np.int32], cell: NDArray[np.int32], normal: Float,
) -> None:  # fmt: skip
    for n in range(len(directions)):
        t, met, which, where, face = _trace(field, origins[n], directions[n], reach_m)
        depth[n], kind[n], index[n], cell[n] = t, met, which, where
        normal[n, 0], normal[n, 1], normal[n, 2] = face


@njit(cache=True, nogil=True)
def _top(field: Field, level: int, gi: int, gj: int) -> float:
    """The greatest height in metres of the pyramid's square that holds city pixel (gi, gj)."""
    shift = 2 * level
    column = (gi >> shift) - (field.west_px >> shift)
    row = ((field.north_px - 1) >> shift) - (gj >> shift)
    if level == 0:
        return float(field.top0[row, column]) * 0.01
    if level == 1:
        return float(field.top1[row, column]) * 0.01
    if level == 2:
        return float(field.top2[row, column]) * 0.01
    return float(field.top3[row, column]) * 0.01


@njit(cache=True, nogil=True)
def _exit(o: float, d: float, index: int, size: int) -> float:
    """Where a ray leaves the interval [index, index + size) of pixels on one axis."""
    if d > 0:
        return ((index + size) * 0.4 - o) / d
    if d < 0:
        return (index * 0.4 - o) / d
    return math.inf


@njit(cache=True, nogil=True)
def _span(height: float, climb: float, last: float) -> tuple[float, float]:
    """From where to where a ray flies low enough to meet anything."""
    if height > _CEILING_M:
        return ((height - _CEILING_M) / -climb if climb < 0 else math.inf), last
    return 0.0, (min(last, (_CEILING_M - height) / climb) if climb > 0 else last)


@njit(cache=True, nogil=True)
def _trace(
    field: Field, origin: Double, ahead: Double, reach_m: float
) -> tuple[float, int, int, int, tuple[float, float, float]]:
    """First hit of one ray: depth, kind, index, cell, normal."""
    ox, oy, oz = origin[0], origin[1], origin[2]
    dx, dy, dz = ahead[0], ahead[1], ahead[2]
    rows, columns = field.height_cm.shape
    floor = -oz / dz if dz < 0 else math.inf
    flat = max(math.sqrt(dx * dx + dy * dy), 1e-12)
    t, last = _span(oz, dz, min(floor, reach_m / flat))
    level = 3
    nudge = _NUDGE_M / max(flat, 1e-3)
    while t < last:
        i = math.floor((ox + dx * t) / 0.4)
        j = math.floor((oy + dy * t) / 0.4)
        gi, gj = i + field.anchor_i, j + field.anchor_j
        c, r = gi - field.west_px, field.north_px - 1 - gj
        if c < 0 or r < 0 or c >= columns or r >= rows:
            return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
        while True:
            size = 1 << (2 * level)
            bi, bj = (gi & -size) - field.anchor_i, (gj & -size) - field.anchor_j
            away = min(min(_exit(ox, dx, bi, size), _exit(oy, dy, bj, size)), last)
            if oz + min(dz * t, dz * away) >= _top(field, level, gi, gj):
                level = min(level + 1, 3)
                break
            if level > 0:
                level -= 1
                continue
            met, kind, index, face = _in_cell(field, r, c, i, j, (ox, oy, oz), (dx, dy, dz), t, away)
            if met <= last:
                return met, kind, index, r * columns + c, face
            level = 1
            break
        t = max(away, t) + nudge
    if floor > last:
        return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
    c = math.floor((ox + dx * floor) / 0.4) + field.anchor_i - field.west_px
    r = field.north_px - 1 - math.floor((oy + dy * floor) / 0.4) - field.anchor_j
    if c < 0 or r < 0 or c >= columns or r >= rows:
        return math.inf, SKY, -1, -1, (0.0, 0.0, 0.0)
    return floor, GROUND, -1, r * columns + c, (0.0, 0.0, 1.0)


@njit(cache=True, nogil=True)
def _in_cell(
    field: Field, r: int, c: int, i: int, j: int, o: tuple[float, float, float], d: tuple[float, float, float],
    start: float, end: float,
) -> tuple[float, int, int, tuple[float, float, float]]:  # fmt: skip
    """The first thing a ray meets between `start` and `end` in one pixel.

    Depth (infinite for none), kind, index, normal.
    """
    best, kind, index, face = math.inf, SKY, -1, (0.0, 0.0, 0.0)
    building = field.near[r, c]
    if building >= 0:
        met, side = prism_entry(field.prisms[building], o, d)
        if met < best and _belongs(met, i, j, o, d):
            best, index, face = met, building, prism_normal(field.prisms[building], side)
            kind = ROOF if side > 4 else WALL
    car = field.car[r, c]
    if car >= 0:
        met, turned = car_entry(field.boxes[car], o, d)
        if met < best and _belongs(met, i, j, o, d):
            best, kind, index, face = met, CAR, car, turned
    if field.height_cm[r, c] > 0:
        met, turned = _standing(field, r, c, i, j, o, d, start, end)
        if met < best:
            best, index, face = met, field.building[r, c], turned
            kind = ROOF if index >= 0 else BARRIER
    if field.canopy_dm[r, c] > 0:
        met, turned = _crown(field, r, c, i, j, o, d, start, end)
        if met < best:
            best, kind, index, face = met, CROWN, -1, turned
    return best, kind, index, face


@njit(cache=True, nogil=True)
def _standing(
    field: Field, r: int, c: int, i: int, j: int, o: tuple[float, float, float], d: tuple[float, float, float],
    start: float, end: float,
) -> tuple[float, tuple[float, float, float]]:  # fmt: skip
    """Entry of a ray into what stands in one pixel: a lamp post, a barrier, or plant on a flat roof."""
    tall, own = field.height_cm[r, c] * 0.01, field.building[r, c]
    if own < 0:
        if tall >= _LAMP_LOW_M:
            return cylinder_entry(i, j, o, d, _LAMP_M, 0.0, tall)
        return block_entry(i, j, o, d, start, end, 0.0, tall)
    wall = field.prisms[own, 6]
    if field.prisms[own, 7] <= 0 and tall > wall + 0.6:
        return block_entry(i, j, o, d, start, end, wall, tall)
    return math.inf, (0.0, 0.0, 0.0)


@njit(cache=True, nogil=True)
def _belongs(t: float, i: int, j: int, o: tuple[float, float, float], d: tuple[float, float, float]) -> bool:
    """Whether a point of a ray lies in a pixel or right beside it."""
    if not t < math.inf:
        return False
    east, north = o[0] + d[0] * t - (i + 0.5) * 0.4, o[1] + d[1] * t - (j + 0.5) * 0.4
    return abs(east) < 0.6 and abs(north) < 0.6


@njit(cache=True, nogil=True)
def _crown(
    field: Field, r: int, c: int, i: int, j: int, o: tuple[float, float, float], d: tuple[float, float, float],
    start: float, end: float,
) -> tuple[float, tuple[float, float, float]]:  # fmt: skip
    """Entry of a ray into a tree's leaves or trunk; leaves have holes of their own size near the eye."""
    high, low = field.canopy_dm[r, c] * 0.1, field.under_dm[r, c] * 0.1
    if low <= 0:
        met, turned = cylinder_entry(i, j, o, d, _TRUNK_M, 0.0, _TRUNK_TOP_M)
        if met < math.inf:
            return met, turned
        low = _TRUNK_TOP_M
    met, turned = block_entry(i, j, o, d, start, end, low, high)
    if met == math.inf:
        return met, turned
    z = o[2] + d[2] * met
    gi, gj = i + field.anchor_i, j + field.anchor_j
    if leaf(gi, gj, math.floor(z * 2.5)) < 36:
        return math.inf, turned
    if met < _LEAF_RANGE_M:
        x, y = o[0] + d[0] * met - i * 0.4, o[1] + d[1] * met - j * 0.4
        fine = leaf(gi * 3 + math.floor(x * 7.5), gj * 3 + math.floor(y * 7.5), math.floor(z * 7.5) + 7919)
        if fine < 70:
            return math.inf, turned
    return met, _crown_normal(field, r, c, z, low, high)


@njit(cache=True, nogil=True)
def leaf(a: int, b: int, k: int) -> int:
    """A hash in 0..255 of three integers."""
    state = np.uint32(a * 374761393 + b * 668265263 + k * 1274126177 + 97)
    state = np.uint32((state ^ (state >> np.uint32(15))) * np.uint32(0x7FEB352D))
    state = np.uint32((state ^ (state >> np.uint32(13))) * np.uint32(0x846CA68B))
    return int(state >> np.uint32(24))


@njit(cache=True, nogil=True)
def _crown_normal(
    field: Field, r: int, c: int, z: float, low: float, high: float
) -> tuple[float, float, float]:
    """The direction in which a crown bulges at a height, from the slope of its top."""
    rows, columns = field.canopy_dm.shape
    west, east = field.canopy_dm[r, max(c - 1, 0)], field.canopy_dm[r, min(c + 1, columns - 1)]
    south, north = field.canopy_dm[min(r + 1, rows - 1), c], field.canopy_dm[max(r - 1, 0), c]
    x, y = (float(west) - float(east)) * 0.125, (float(south) - float(north)) * 0.125
    up = 2 * (z - (low + high) / 2) / max(high - low, 0.4) + 0.25
    long = math.sqrt(x * x + y * y + up * up) + 1e-9
    return x / long, y / long, up / long
