"""The city as a height raster, as a surface model from laser or stereo flights would be."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, IntArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.style import PIXEL_M


def height_raster(
    city: City,
    bounds: Bounds,
    metres_per_pixel: float,
    *,
    trees: bool = True,
    window: Window | None = None,
) -> Float32Array:
    """Heights above the ground in metres, averaged over each pixel: float32[H, W].

    `trees` says whether crowns count. H and W are the bounds' sides divided by `metres_per_pixel`, rounded.
    Raises `ConfigError` when no whole pixel fits.

    Convention: north up, east right; pixel (0, 0) has its corner at (west, north) of the bounds, which are west,
    south, east, north in city metres.
    """
    west, south, east, north = bounds
    if not (metres_per_pixel > 0 and min(east - west, north - south) >= metres_per_pixel):
        raise ConfigError(
            f"No pixel of {metres_per_pixel:g} m fits into {bounds}; "
            "give a size above 0 and bounds as west, south, east, north."
        )
    columns, rows = round((east - west) / metres_per_pixel), round((north - south) / metres_per_pixel)
    parts = math.ceil(metres_per_pixel / PIXEL_M)
    reach = (west, north - rows * metres_per_pixel, west + columns * metres_per_pixel, north)
    window = window or city.window(reach)
    step = metres_per_pixel / parts
    across = west + (np.arange(columns * parts) + 0.5) * step
    down = north - (np.arange(rows * parts) + 0.5) * step
    c, r = _index(across, window.west_px), window.north_px - 1 - _index(down, 0)
    r, c = np.clip(r, 0, None), np.clip(c, 0, None)
    layers = window.layers
    top = layers.height_cm[np.ix_(r, c)].astype(np.float32) * np.float32(0.01)
    if trees:
        top = np.maximum(top, layers.canopy_dm[np.ix_(r, c)] * np.float32(0.1))
    return np.asarray(top.reshape(rows, parts, columns, parts).mean((1, 3)), np.float32)


def _index(metres: NDArray[Any], first: int) -> IntArray:
    return np.asarray(np.floor(metres / PIXEL_M).astype(np.int64) - first)
