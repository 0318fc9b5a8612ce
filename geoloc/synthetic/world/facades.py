"""Walls seen from the side: where a ray enters a building, and the windows, doors and shops it meets there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from geoloc.core.arrays import Float32Array
from geoloc.synthetic.world.buildings import HOUSE, TERRACE, TOWER, WORKS
from geoloc.synthetic.world.noise import Scalar, hash3
from geoloc.synthetic.world.scene import Light


@njit(cache=True, nogil=True)
def enter_wall(
    building: Any, x: Scalar, y: Scalar, sin: Scalar, cos: Scalar, march_m: Scalar, light: Light
) -> tuple[Scalar, Scalar, Scalar]:
    """The entry of a ray into a building's rectangle: metres from (x, y), metres along the wall, the wall's brightness.

    The march only finds the wall to within a step; where the cut disagrees by more, the march is kept.

    Convention: (sin, cos) of the grid azimuth, so the ray runs sin to the east and cos to the north.
    """
    east, north = np.float32(x - building.x), np.float32(y - building.y)
    turn_c, turn_s = building.cos, building.sin
    u, v = east * turn_c + north * turn_s, north * turn_c - east * turn_s
    du, dv = sin * turn_c + cos * turn_s, cos * turn_c - sin * turn_s
    du = np.float32(1e-5) if abs(du) < 1e-5 else du
    dv = np.float32(1e-5) if abs(dv) < 1e-5 else dv
    sign_u, sign_v = np.float32(math.copysign(1.0, du)), np.float32(math.copysign(1.0, dv))
    enter_u, enter_v = (-sign_u * building.half_u - u) / du, (-sign_v * building.half_v - v) / dv
    through_u = enter_u > enter_v
    enter = enter_u if through_u else enter_v
    exact = enter if abs(enter - march_m) < 0.8 + 0.012 * march_m else march_m
    if through_u:
        face_east, face_north = -sign_u * turn_c, -sign_u * turn_s
        along = v + exact * dv
    else:
        face_east, face_north = sign_v * turn_s, -sign_v * turn_c
        along = u + exact * du
    lit = max(np.float32(0), face_east * light.sun_east + face_north * light.sun_north)
    return np.float32(exact), np.float32(along), np.float32(0.7) + np.float32(0.34) * lit


@njit(cache=True, nogil=True)
def _is_glass(building: Any, aside: Scalar, up: Scalar, ground: bool, z_m: Scalar) -> bool:
    """Whether a wall has a window or a shop `aside` of the middle of a bay and `up` a storey, both shares of it."""
    kind, glass = building.kind, building.window
    high = z_m < building.wall_m - 0.35 and (kind != WORKS or z_m > 3)
    if high and aside < glass / 2 and 0.28 < up < 0.38 + 0.55 * glass:
        return True
    if kind == TOWER and building.phase > 0.6 and up > 0.3 and not ground and z_m < building.wall_m - 0.5:
        return True  # bands of glass instead of single windows
    return bool(ground and kind in (TERRACE, TOWER) and aside < 0.42 and 0.12 < up < 0.8)


@njit(cache=True, nogil=True)
def _is_trim(building: Any, up: Scalar, ground: bool, z_m: Scalar) -> bool:
    """Whether a wall shows its other colour: plinths, ground floors, the upper edge of works."""
    if building.kind == WORKS:
        return bool(up < 0.06 or z_m > building.wall_m - 1.2)
    return bool(up < 0.06 or (ground and building.phase < 0.45))


@njit(cache=True, nogil=True)
def paint_wall(building: Any, bay: Scalar, z_m: Scalar, brightness: Scalar, out: Float32Array) -> None:
    """The colour of a wall's point: windows, doors, shops, bands and plinths, written to out float32[3].

    bay: metres along the wall in bays, plus the building's phase.
    """
    storey = z_m / building.storey_m
    up, ground = storey - np.float32(math.floor(storey)), storey < 1
    aside = abs(bay - np.float32(math.floor(bay)) - np.float32(0.5))
    glass = _is_glass(building, aside, up, ground, z_m)
    may_be_door = ground and building.kind == HOUSE and aside < 0.2 and up < 0.72
    if glass or may_be_door:
        pick = hash3(91, building.id, math.floor(bay), math.floor(storey))
        draw = np.float32(pick >> 24) * np.float32(1 / 255)
        if may_be_door and draw < 0.25:
            for k in range(3):
                out[k] = building.trim[k] * np.float32(0.6)
            return
        if glass:
            out[0], out[1], out[2] = 46 + 66 * draw, 58 + 70 * draw, 74 + 76 * draw
            return
    colour = building.trim if _is_trim(building, up, ground, z_m) else building.facade
    for k in range(3):
        out[k] = colour[k] * brightness
