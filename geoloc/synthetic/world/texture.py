"""Compiled painters of a chunk's layers: colour of the ground, roofs, tree crowns."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray, Int32Array
from geoloc.synthetic.world.buildings import WORKS
from geoloc.synthetic.world.noise import Scalar, hash3
from geoloc.synthetic.world.pixels import to_byte
from geoloc.synthetic.world.style import PIXEL_M

_CELL_M = np.float32(3.6)
_EDGE_M = np.float32(1.2)
_PANEL = (np.float32(38), np.float32(44), np.float32(66))


@njit(cache=True, nogil=True)
def colour_ground(
    material: NDArray[np.uint8], tone: NDArray[np.uint8], wide: Float32Array, narrow: Float32Array,
    fine: Float32Array, finer: Float32Array,
    grained: Float32Array, colours: Float32Array, mottled: Float32Array, green: Float32Array, green_shift: Float32Array,
) -> NDArray[np.uint8]:  # fmt: skip
    """Colour of the ground: uint8[H, W, 3].

    Every material has a colour and a share of the noises; the coarse ones also shift the hue of what grows.
    `tone` 0..255 is the lot's own brightness, 128 neutral.
    """
    rows, columns = material.shape
    out = np.empty((rows, columns, 3), np.uint8)
    for r in range(rows):
        for c in range(columns):
            kind = material[r, c]
            coarse = wide[r, c] + narrow[r, c] - np.float32(1)
            factor = np.float32(1) + (coarse + fine[r, c] + finer[r, c]) * mottled[kind]
            factor += (np.float32(tone[r, c]) - np.float32(128)) * np.float32(0.42 / 128)
            factor += grained[r, c] * np.float32(0.12)
            shift = coarse * green[kind]
            for k in range(3):
                out[r, c, k] = to_byte(colours[kind, k] * factor + shift * green_shift[k])
    return out


@njit(cache=True, nogil=True)
def raise_roofs(
    table: Any, solar: BoolArray, seed: int, west_m: float, north_m: float, building: Int32Array,
    grained: Float32Array, mottled: Float32Array, height_cm: NDArray[np.uint16], albedo: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Heights and colours of the roofs of all buildings' pixels; written to `height_cm` and `albedo`.

    Convention: (west_m, north_m) is the north-west corner of the rasters, row 0 their northern edge.
    """
    for r in range(building.shape[0]):
        for c in range(building.shape[1]):
            index = building[r, c]
            if index < 0:
                continue
            one = table[index]
            east = np.float32(west_m + (c + 0.5) * PIXEL_M - one.x)
            north = np.float32(north_m - (r + 0.5) * PIXEL_M - one.y)
            u, v = east * one.cos + north * one.sin, north * one.cos - east * one.sin
            noise = grained[r, c] * np.float32(0.1) + mottled[r, c] * np.float32(0.14)
            high = _roof(one, solar[index], seed, u, v, noise, albedo[r, c])
            height_cm[r, c] = np.uint16(round(high * np.float32(100)))


@njit(cache=True, nogil=True)
def _roof(
    building: Any, solar: bool, seed: int, u: Scalar, v: Scalar, noise: Scalar, out: NDArray[np.uint8]
) -> Scalar:
    """Height of a roof's point in metres, and its colour: gables, parapets, plant, solar panels and seams."""
    span = v / building.half_v if building.half_u >= building.half_v else u / building.half_u
    span = min(max(span, np.float32(-1)), np.float32(1))
    border = min(building.half_u - abs(u), building.half_v - abs(v))
    flat = building.gable_m <= 0
    shade = np.float32(1)
    if not flat:
        courses = abs(span) * np.float32(6)
        shade += math.copysign(np.float32(0.15), span)
        shade -= np.float32(0.05) if courses - math.floor(courses) < 0.3 else np.float32(0)
    elif border < 0.6:
        shade = np.float32(1.18)
    seam = u / _EDGE_M
    if building.kind == WORKS and seam - math.floor(seam) < 0.5:
        shade -= np.float32(0.06)
    draw = _equipment_draw(building, seed, u, v, border)
    if solar and draw > 0.45:
        for k in range(3):
            out[k] = _PANEL[k]
        return building.wall_m + building.gable_m * (np.float32(1) - abs(span))
    plant = flat and 0 <= draw < 0.12
    light = (shade * np.float32(0.7) if plant else shade) + noise
    for k in range(3):
        out[k] = to_byte(building.roof[k] * light)
    rise = building.gable_m * (np.float32(1) - abs(span))
    return building.wall_m + rise + (_EDGE_M if plant else np.float32(0))


@njit(cache=True, nogil=True)
def _equipment_draw(building: Any, seed: int, u: Scalar, v: Scalar, border: Scalar) -> Scalar:
    """The draw in [0, 1) of the roof's cell of 3.6 m, -1 between the cells and at the roof's edge."""
    across, along = u / _CELL_M, v / _CELL_M
    cell_u, cell_v = math.floor(across), math.floor(along)
    half = np.float32(0.5)
    inside = abs(across - np.float32(cell_u) - half) < 0.3 and abs(along - np.float32(cell_v) - half) < 0.3
    if border <= _EDGE_M or not inside:
        return -1.0
    return hash3(seed, building.id, cell_u, cell_v) / 4294967296.0


@njit(cache=True, nogil=True)
def grow_crowns(
    trees: FloatArray, mottled: Float32Array, grained: Float32Array, layers: NDArray[np.uint8]
) -> None:
    """Tree crowns as ellipsoids with ragged rims; where they meet the higher one shows.

    trees: float64[T, 5] of column and row in pixels, radius and height in metres, hue 0..1; layers: uint8[3, H, W]
    of tops and undersides in decimetres and hues 0..255, written in place.
    """
    rows, columns = mottled.shape
    best = np.zeros((rows, columns), np.float32)
    for n in range(len(trees)):
        column, row, radius, tall, hue = trees[n]
        reach = radius / PIXEL_M
        for r in range(max(0, math.floor(row - reach)), min(rows, math.floor(row + reach) + 1)):
            for c in range(max(0, math.floor(column - reach)), min(columns, math.floor(column + reach) + 1)):
                away = ((c + 0.5 - column) ** 2 + (r + 0.5 - row) ** 2) / reach**2
                away *= 1 + 0.7 * (mottled[r, c] + grained[r, c] * 0.6)
                if away >= 1:
                    continue
                middle, bulge = (tall + 2.0) / 2, (tall - 2.0) / 2 * math.sqrt(1 - away)
                if middle + bulge < best[r, c]:
                    continue
                best[r, c] = middle + bulge
                trunk = away * radius**2 < 0.12
                layers[0, r, c] = round((middle + bulge) * 10)
                layers[1, r, c] = 0 if trunk else round((middle - bulge) * 10)
                layers[2, r, c] = round(hue * 255)
