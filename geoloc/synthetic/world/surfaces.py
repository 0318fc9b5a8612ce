"""Compiled colours of the ground in one view: season, road marks and their wear."""

from __future__ import annotations

import numpy as np
from numba import njit

from geoloc.core.arrays import Float32Array
from geoloc.synthetic.world.noise import Scalar
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.scene import Lens, Light, Texels
from geoloc.synthetic.world.style import CHUNK_PX, PIXEL_M

_SHADE = np.float32(0.72)
_HALF = np.float32(0.5)
_SCALE = np.float32(1 / PIXEL_M)


@borrowing()
def ground_colour(texels: Texels, light: Light, row: int, column: int, out: Float32Array) -> None:
    """The unlit colour of a texel's ground or roof, road marks rubbed off by the view's wear, to out float32[3].

    Convention: row and column of the window.
    """
    material = texels.material[row, column]
    roof = texels.building[row, column] >= 0
    for k in range(3):
        gain = np.float32(1) if roof else light.ground[material, k]
        out[k] = texels.albedo[row, column, k] * gain
    group = texels.marking[row, column]
    if group > 0:
        worn = light.worn[(row - texels.north_px) % CHUNK_PX, (column + texels.west_px) % CHUNK_PX]
        left = min(max(worn * np.float32(3) + light.wear_left, np.float32(0)), np.float32(1))
        share = light.strength[group] * left
        for k in range(3):
            out[k] += (light.paint[group, k] - out[k]) * share


@borrowing()
def far_ground_colour(texels: Texels, light: Light, row: int, column: int, out: Float32Array) -> None:
    """As `ground_colour`, to out float32[3], for texels smaller than a picture's pixel: marks faded as a whole.

    Convention: row and column of the window.
    """
    material = texels.material[row, column]
    for k in range(3):
        out[k] = texels.albedo[row, column, k] * light.ground[material, k]
    group = texels.marking[row, column]
    if group > 0:
        share = light.strength[group] * np.float32(0.8)
        for k in range(3):
            out[k] += (light.paint[group, k] - out[k]) * share


@njit(cache=True, nogil=True)
def near_patch(texels: Texels, lens: Lens, light: Light, reach_px: int) -> Float32Array:
    """Ground colours of the square around a lens, under trees darker: float32[2 reach_px, 2 reach_px, 3].

    Convention: the lens lies in the texel at row reach_px - 1, column reach_px; row 0 is north.
    """
    left, top = lens.column - reach_px - texels.west_px, texels.north_px - lens.row - reach_px
    rows, columns = texels.material.shape
    patch = np.empty((2 * reach_px, 2 * reach_px, 3), np.float32)
    for r in range(2 * reach_px):
        for c in range(2 * reach_px):
            row, column = min(max(top + r, 0), rows - 1), min(max(left + c, 0), columns - 1)
            ground_colour(texels, light, row, column, patch[r, c])
            if texels.canopy_dm[row, column] > 0:
                for k in range(3):
                    patch[r, c, k] *= _SHADE
    return patch


@borrowing()
def sample_patch(patch: Float32Array, lens: Lens, east: Scalar, north: Scalar, out: Float32Array) -> None:
    """Interpolate a `near_patch` at `east` and `north` metres (float32) of its lens, to out float32[3].

    Convention: texel centres carry the colours.
    """
    reach = np.float32(patch.shape[0] // 2)
    limit = np.float32(patch.shape[0] - 1.001)
    c = min(max(east * _SCALE + (lens.x_part + reach - _HALF), np.float32(0)), limit)
    r = min(max((reach - lens.y_part - _HALF) - north * _SCALE, np.float32(0)), limit)
    ci, ri = int(c), int(r)
    fc, fr = c - np.float32(ci), r - np.float32(ri)
    for k in range(3):
        upper = patch[ri, ci, k] + (patch[ri, ci + 1, k] - patch[ri, ci, k]) * fc
        lower = patch[ri + 1, ci, k] + (patch[ri + 1, ci + 1, k] - patch[ri + 1, ci, k]) * fc
        out[k] = upper + (lower - upper) * fr
