"""Compiled painters of a chunk's layers: colours of the ground, roofs, tree crowns."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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


class GroundNoise(NamedTuple):
    """Noises of a chunk's ground, float32[H, W] each.

    wide, narrow: coarse patches in [0, 1]; fine, finer: smooth texture in [-0.5, 0.5]; grain: pixel noise in
    [-0.5, 0.5).
    """

    wide: Float32Array
    narrow: Float32Array
    fine: Float32Array
    finer: Float32Array
    grain: Float32Array


class Materials(NamedTuple):
    """Textures of materials, by their number.

    colour: float32[14, 3] in 0..255; mottle: float32[14], share of the noises; green: float32[14], 1 for what grows;
    green_shift: float32[3], how coarse patches shift the colour of what grows.
    """

    colour: Float32Array
    mottle: Float32Array
    green: Float32Array
    green_shift: Float32Array


class Roofs(NamedTuple):
    """The roofs of a chunk.

    table: `BUILDING`[B]; solar: bool[B], which carry solar panels; seed: what their equipment is drawn from; grain,
    mottle: float32[H, W], pixel noise and smooth noise.
    """

    table: Any
    solar: BoolArray
    seed: int
    grain: Float32Array
    mottle: Float32Array


@njit(cache=True, nogil=True)
def colour_ground(
    material: NDArray[np.uint8], tone: NDArray[np.uint8], noise: GroundNoise, materials: Materials
) -> NDArray[np.uint8]:
    """Colour of the ground for material uint8[H, W] and tone uint8[H, W]: uint8[H, W, 3].

    Every material has a colour and a share of the noises; the coarse ones also shift the hue of what grows.
    `tone` 0..255 is the lot's own brightness, 128 neutral.
    """
    wide, narrow, fine, finer, grain = noise
    colour, mottled, green, green_shift = materials
    rows, columns = material.shape
    out = np.empty((rows, columns, 3), np.uint8)
    for r in range(rows):
        for c in range(columns):
            kind = material[r, c]
            coarse = wide[r, c] + narrow[r, c] - np.float32(1)
            factor = np.float32(1) + (coarse + fine[r, c] + finer[r, c]) * mottled[kind]
            factor += (np.float32(tone[r, c]) - np.float32(128)) * np.float32(0.42 / 128)
            factor += grain[r, c] * np.float32(0.12)
            shift = coarse * green[kind]
            for k in range(3):
                out[r, c, k] = to_byte(colour[kind, k] * factor + shift * green_shift[k])
    return out


@njit(cache=True, nogil=True)
def raise_roofs(
    roofs: Roofs, corner: tuple[float, float], building: Int32Array, height_cm: NDArray[np.uint16],
    albedo: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Write the heights and colours of roofs to height_cm uint16[H, W] and albedo uint8[H, W, 3].

    building: int32[H, W], row of the table, -1 none.

    Convention: `corner` is the north-west corner of the rasters in city metres (x east, y north); row 0 is their
    northern edge.
    """
    west_m, north_m = corner
    table, solar, seed, grain, mottled = roofs
    for r in range(building.shape[0]):
        for c in range(building.shape[1]):
            index = building[r, c]
            if index < 0:
                continue
            row = table[index]
            east = np.float32(west_m + (c + 0.5) * PIXEL_M - row.x)
            north = np.float32(north_m - (r + 0.5) * PIXEL_M - row.y)
            u, v = east * row.cos + north * row.sin, north * row.cos - east * row.sin
            noise = grain[r, c] * np.float32(0.1) + mottled[r, c] * np.float32(0.14)
            high = _roof(row, solar[index], seed, u, v, noise, albedo[r, c])
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
