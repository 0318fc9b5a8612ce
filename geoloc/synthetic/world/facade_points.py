"""Facades for the ray caster, one point at a time: the same windows, doors and shops as in `facades`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray
from geoloc.synthetic.world.buildings import HOUSE, TERRACE, TOWER, WORKS, Buildings
from geoloc.synthetic.world.caster import leaf
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.shapes import Ray, Vector

_HASH_SEED = 91
_HASH_START = (_HASH_SEED * 0x9E3779B1 + 0x6A09E667) & 0xFFFFFFFF


class Facades(NamedTuple):
    """Facades of buildings, one a row as in the window's table.

    colour: float32[B, 9] of facade, trim and roof, 0..255; size: float32[B, 6] of storey_m, bay_m, window (share of a
    bay), phase (of the bays), wall_m, kind; id: uint32[B].
    """

    colour: Float32Array
    size: Float32Array
    id: NDArray[np.uint32]


def facades_of(table: Buildings) -> Facades:
    """The facades of the buildings of a table `BUILDING`[B]."""
    size = ("storey_m", "bay_m", "window", "phase", "wall_m", "kind")
    return Facades(
        np.concatenate([table["facade"], table["trim"], table["roof"]], 1).astype(np.float32),
        np.stack([table[name].astype(np.float32) for name in size], -1), table["id"].copy(),
    )  # fmt: skip


@borrowing()
def _draw(building: int, bay: int, storey: int) -> int:
    """The hash in 0..255 of one window: the high byte of `noise.hash_array(91, building, bay, storey)`."""
    state = np.uint32(_HASH_START)
    for k in range(3):
        key = building if k == 0 else bay if k == 1 else storey
        state ^= np.uint32(np.uint32(key & 0xFFFFFFFF) * np.uint32(0x9E3779B1))
        state = np.uint32((state ^ (state >> np.uint32(16))) * np.uint32(0x7FEB352D))
        state = np.uint32((state ^ (state >> np.uint32(15))) * np.uint32(0x846CA68B))
        state = np.uint32(state ^ (state >> np.uint32(16)))
    return int(state >> np.uint32(24))


@borrowing()
def facade_colour(
    prisms: FloatArray, facades: Facades, k: int, ray: Ray, t: float, p: Vector, face: Vector
) -> Vector:
    """Red, green and blue of a wall in white light, where a ray meets building `k` of prisms float64[B, 8].

    The point `p` lies at the distance `t` on the ray; `face` is the wall's normal.

    Convention: as `ray_field.Field`. `along` the wall counts from the middle of the building, as in the panorama.
    """
    colours, sizes, building, d = facades.colour, facades.size, facades.id[k], ray.direction
    east, north = p[0] - prisms[k, 0], p[1] - prisms[k, 1]
    through_u = abs(face[0] * prisms[k, 2] + face[1] * prisms[k, 3]) > 0.5
    along = (
        north * prisms[k, 2] - east * prisms[k, 3]
        if through_u
        else east * prisms[k, 2] + north * prisms[k, 3]
    )
    z, wall, kind = p[2], sizes[k, 4], int(sizes[k, 5])
    speck = 1 + 0.06 * (leaf(math.floor(along * 4), math.floor(z * 6), building & 0xFFFF) / 255 - 0.5)
    if z > wall + 0.05:
        return colours[k, 0] * 0.97 * speck, colours[k, 1] * 0.97 * speck, colours[k, 2] * 0.97 * speck
    bay, storey = along / sizes[k, 1] + sizes[k, 3], z / sizes[k, 0]
    across, up = bay - math.floor(bay), storey - math.floor(storey)
    draw = _draw(building, math.floor(bay), math.floor(storey)) / 255
    part = _part(across, up, z, storey < 1, draw, kind, sizes, k)
    if part == 2:  # glass: dark by its own draw, lit by the sky the more it is seen from the side
        tilt = 1 - abs(d[0] * face[0] + d[1] * face[1])
        shine = 60 * tilt * tilt + 26 * up
        return 46 + 66 * draw + shine, 58 + 70 * draw + shine, 74 + 76 * draw + shine
    first, factor = (3, speck) if part == 1 else (0, speck)
    if part == 3:
        first, factor = 3, 0.6
    elif part == 4 and t < 90:
        factor = 1.0 + 0.22 * (1 - t / 90)
    return colours[k, first] * factor, colours[k, first + 1] * factor, colours[k, first + 2] * factor


@borrowing()
def _part(
    across: float, up: float, z: float, ground: bool, draw: float, kind: int, sizes: Float32Array, k: int
) -> int:
    """The part of a facade: 0 wall, 1 trim, 2 glass, 3 door, 4 frame of a window."""
    glass, wall, phase = sizes[k, 2], sizes[k, 4], sizes[k, 3]
    off = abs(across - 0.5)
    if kind == HOUSE and ground and draw < 0.25 and off < 0.2 and up < 0.72:
        return 3
    window = off < glass / 2 and 0.28 < up < 0.38 + 0.55 * glass and z < wall - 0.35
    if kind == WORKS and z <= 3:
        window = False
    if kind == TOWER and phase > 0.6 and up > 0.3 and not ground and z < wall - 0.5:
        window = True
    shop = ground and kind in (TERRACE, TOWER) and off < 0.42 and 0.12 < up < 0.8
    if window or shop:
        return 2
    if up < 0.06 or (ground and phase < 0.45 and kind != WORKS) or (kind == WORKS and z > wall - 1.2):
        return 1
    if kind != WORKS and off < glass / 2 + 0.03 and 0.24 < up < 0.41 + 0.55 * glass and z < wall - 0.3:
        return 4
    return 0
