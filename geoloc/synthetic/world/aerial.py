"""Aerial imagery: the city from straight above, lit by one sun per flight."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.core.arrays import BoolArray, Float32Array, IntArray
from geoloc.synthetic.world.cars import cars_on
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.noise import grain
from geoloc.synthetic.world.pixels import borrowing, to_byte
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.scene import Light, Texels, light_of, texels_of
from geoloc.synthetic.world.style import CHUNK_PX, PIXEL_M, VIEW_RANGE_M
from geoloc.synthetic.world.surfaces import ground_colour
from geoloc.synthetic.world.view_conditions import Look, flight_look

SHADOW_RANGE_M = VIEW_RANGE_M
"""Longer than any shadow: 60 m of height under a sun at 36 degrees or more reaches 83 m."""


class Flight(NamedTuple):
    """A window as one flight sees it.

    shadow: bool[H, W] of the window's pixels; grain: float32[640, 640] pixel noise of crowns, repeating every chunk;
    gain: float32[3] of red, green and blue.
    """

    texels: Texels
    light: Light
    shadow: BoolArray
    grain: Float32Array
    gain: Float32Array


def render_aerial(
    city: City,
    bounds: Bounds,
    metres_per_pixel: float = PIXEL_M,
    look: Look | None = None,
    *,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """The orthophoto of an area: uint8[H, W, 3].

    bounds: west, south, east, north in city metres, on whole pixels of 0.4 m. `window`, if given, must reach
    `SHADOW_RANGE_M` beyond the bounds. Other resolutions are area averages of the 0.4 m picture.

    Convention: north up, east right; pixel (0, 0) has its corner at (west, north).
    """
    look = look or flight_look(city.seed, 0)
    margin = SHADOW_RANGE_M
    if window is None:
        window = city.window((bounds[0] - margin, bounds[1] - margin, bounds[2] + margin, bounds[3] + margin))
    columns, rows = round((bounds[2] - bounds[0]) / PIXEL_M), round((bounds[3] - bounds[1]) / PIXEL_M)
    left, top = round(bounds[0] / PIXEL_M) - window.west_px, window.north_px - round(bounds[3] / PIXEL_M)
    out = np.empty((rows, columns, 3), np.uint8)
    gain = np.float32(look.exposure) * np.asarray(look.tint, np.float32)
    flight = Flight(texels_of(window), light_of(look), shadows(window, look), grain(CHUNK_PX, 77), gain)
    light_texels(flight, _traffic(window, look, left, top, columns, rows), left, top, out)
    if metres_per_pixel != PIXEL_M:
        size = (round(columns * PIXEL_M / metres_per_pixel), round(rows * PIXEL_M / metres_per_pixel))
        kind = Image.Resampling.BOX if metres_per_pixel > PIXEL_M else Image.Resampling.BICUBIC
        out = np.asarray(Image.fromarray(out).resize(size, kind))
    return out


def shadows(window: Window, look: Look) -> BoolArray:
    """Mask of the pixels of a window that lie in shadow: bool[H, W].

    One sweep from south to north carries the height that still casts a shadow, in whole centimetres, so the
    answer does not depend on where the sweep began (beyond a shadow's length).

    Convention: the sun stands within 45 degrees of south; shadows fall to the north, and to the west when the
    sun is in the east.
    """
    azimuth, elevation = np.radians([look.sun_azimuth_deg, look.sun_elevation_deg])
    drop = round(float(100 * PIXEL_M * np.tan(elevation) / abs(np.cos(azimuth))))
    rows = window.layers.material.shape[0]
    drift = np.round((window.north_px - np.arange(rows)) * np.tan(azimuth)).astype(np.int64)
    return np.asarray(_sweep(window.layers.height_cm, window.layers.canopy_dm, drift, drop))


@njit(cache=True, nogil=True)
def _sweep(
    height_cm: NDArray[np.uint16], canopy_dm: NDArray[np.uint8], drift: IntArray, drop: int
) -> BoolArray:
    """Carry heights from the last row to the first, moved by `drift` and lowered by `drop` a row: what is below."""
    rows, columns = height_cm.shape
    dark = np.zeros((rows, columns), np.bool_)
    carried, moved = np.zeros(columns, np.int32), np.zeros(columns, np.int32)
    for r in range(rows - 2, -1, -1):
        for c in range(columns):
            carried[c] = max(carried[c], np.int32(height_cm[r + 1, c]), np.int32(canopy_dm[r + 1, c]) * 10)
        shift = drift[r] - drift[r + 1]
        for c in range(columns):
            source = min(max(c - shift, 0), columns - 1)
            moved[c] = carried[source] - drop
            top = max(np.int32(height_cm[r, c]), np.int32(canopy_dm[r, c]) * 10)
            dark[r, c] = moved[c] > top + 25
        carried, moved = moved, carried
    return dark


def _traffic(window: Window, look: Look, left: int, top: int, columns: int, rows: int) -> NDArray[np.uint8]:
    """Cars on black, 0 where there is none: uint8[rows, columns, 3]."""
    image = Image.new("RGB", (columns, rows))
    draw = ImageDraw.Draw(image)
    cars = cars_on(window.edges, look)
    side = np.stack([-cars.ahead[:, 1], cars.ahead[:, 0]], -1) * cars.half_width_m[:, None]
    nose = cars.ahead * cars.half_length_m[:, None]
    origin = np.array([window.west_px + left, -(window.north_px - top)])

    def outline(front: float, back: float, wide: float) -> list[list[int]]:
        corner = [
            cars.centre + nose * f + side * w
            for f, w in ((front, wide), (front, -wide), (back, -wide), (back, wide))
        ]
        grid = np.floor(np.stack(corner, 1) * (1 / PIXEL_M, -1 / PIXEL_M)).astype(np.int64) - origin
        return [list(map(int, flat)) for flat in grid.reshape(-1, 8)]

    shell, glass = outline(1, -1, 1), outline(0.4, 0.1, 0.7)
    for body, screen, colour in zip(shell, glass, cars.colour.astype(int).tolist(), strict=True):
        draw.polygon(body, fill=(colour[0], colour[1], colour[2]))
        draw.polygon(screen, fill=(40, 44, 50))
    return np.asarray(image)


@njit(cache=True, nogil=True)
def light_texels(
    flight: Flight, traffic: NDArray[np.uint8], left: int, top: int, out: NDArray[np.uint8]
) -> None:
    """Write the lit colours of a part of a window with cars and crowns to out uint8[H, W, 3].

    traffic: uint8[H, W, 3], black where no car is.

    Convention: out's (0, 0) is the window's row `top` and column `left`.
    """
    texels, light, shadow, noise, gain = flight
    colour = np.empty(3, np.float32)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            row, column = top + r, left + c
            canopy_cm, height_cm = np.int32(texels.canopy_dm[row, column]) * 10, texels.height_cm[row, column]
            if canopy_cm > height_cm:
                _light_crown(texels, light, noise, row, column, colour)
            elif height_cm == 0 and (traffic[r, c, 0] or traffic[r, c, 1] or traffic[r, c, 2]):
                for k in range(3):
                    colour[k] = traffic[r, c, k]
            else:
                ground_colour(texels, light, row, column, colour)
            dark = shadow[row, column]
            for k in range(3):
                lit = colour[k] * np.float32(0.52) + np.float32(6) if dark else colour[k]
                out[r, c, k] = to_byte(lit * gain[k])


@borrowing()
def _light_crown(
    texels: Texels, light: Light, noise: Float32Array, row: int, column: int, out: Float32Array
) -> None:
    """The colour of a crown from above, lit from the sun's side, to out float32[3]."""
    rows, columns = texels.canopy_dm.shape
    here = np.float32(texels.canopy_dm[row, column])
    east = here - np.float32(texels.canopy_dm[row, min(column + 1, columns - 1)])
    south = here - np.float32(texels.canopy_dm[min(row + 1, rows - 1), column])
    slope = east * light.sun_east - south * light.sun_north
    grained = noise[(row - texels.north_px) % CHUNK_PX, (column + texels.west_px) % CHUNK_PX]
    bright = min(max(np.float32(0.9) + np.float32(0.016) * slope, np.float32(0.55)), np.float32(1.3))
    bright *= np.float32(1) + np.float32(0.4) * grained
    hue = texels.hue[row, column]
    for k in range(3):
        out[k] = light.crown[hue, k] * bright
