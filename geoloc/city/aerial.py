"""Aerial imagery: the city from straight above, lit by one sun per flight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.city.cars import cars_on
from geoloc.city.looks import Look, flight_look, repaint
from geoloc.city.network import Bounds
from geoloc.city.noise import Float, grain
from geoloc.city.raster import City, Layers, Window
from geoloc.city.style import CHUNK_PX, PIXEL_M, VIEW_RANGE_M

SHADOW_RANGE_M = VIEW_RANGE_M
"""Longer than any shadow: 60 m of height under a sun at 36 degrees or more reaches 83 m."""


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
    shade = shadows(window, look)
    traffic = _traffic(window, look, left, top, columns, rows)
    out = np.empty((rows, columns, 3), np.uint8)
    for first in range(0, rows, 64):  # strips stay in the processor's cache
        strip = slice(top + first, top + min(first + 64, rows))
        cars = traffic[first : first + 64]
        out[first : first + 64] = _strip(window, look, strip, slice(left, left + columns), shade, cars)
    if metres_per_pixel != PIXEL_M:
        size = (round(columns * PIXEL_M / metres_per_pixel), round(rows * PIXEL_M / metres_per_pixel))
        kind = Image.Resampling.BOX if metres_per_pixel > PIXEL_M else Image.Resampling.BICUBIC
        out = np.asarray(Image.fromarray(out).resize(size, kind))
    return out


def shadows(window: Window, look: Look) -> NDArray[np.bool_]:
    """Which pixels of a window lie in shadow: bool[H, W].

    One sweep from south to north carries the height that still casts a shadow, in whole centimetres, so the
    answer does not depend on where the sweep began (beyond a shadow's length).

    Convention: the sun stands within 45 degrees of south; shadows fall to the north, and to the west when the
    sun is in the east.
    """
    layers = window.layers
    top = np.maximum(layers.height_cm, layers.canopy_dm.astype(np.uint16) * 10).astype(np.int32)
    azimuth, elevation = np.radians([look.sun_azimuth_deg, look.sun_elevation_deg])
    drop = round(float(100 * PIXEL_M * np.tan(elevation) / abs(np.cos(azimuth))))
    rows, columns = top.shape
    drift = np.round((window.north_px - np.arange(rows)) * np.tan(azimuth)).astype(int)
    dark = np.zeros((rows, columns), bool)
    carried = np.zeros(columns, np.int32)
    for row in range(rows - 2, -1, -1):
        np.maximum(carried, top[row + 1], out=carried)
        shift = int(drift[row] - drift[row + 1])
        if shift > 0:
            carried[shift:] = carried[:-shift].copy()
        elif shift < 0:
            carried[:shift] = carried[-shift:].copy()
        carried -= drop
        np.greater(carried, top[row] + 25, out=dark[row])
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


def _strip(
    window: Window,
    look: Look,
    rows: slice,
    columns: slice,
    shade: NDArray[np.bool_],
    traffic: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """The lit colours of some rows of a window."""
    layers = Layers(
        **{name: getattr(window.layers, name)[rows, columns] for name in Layers.__dataclass_fields__}
    )
    gain = look.ground_gain.take(layers.material, 0)
    gain[layers.building >= 0] = 1
    colour = layers.albedo * gain
    repaint(look, colour, layers.marking, window.west_px + columns.start, window.north_px - rows.start)
    r, c = np.nonzero(traffic.any(-1) & (layers.height_cm == 0))
    colour[r, c] = traffic[r, c]
    _crowns(colour, window, look, rows, columns)
    dark = shade[rows, columns]
    colour *= np.where(dark, np.float32(0.52), np.float32(1))[..., None]
    colour[dark] += 6
    colour *= np.float32(look.exposure) * np.asarray(look.tint, np.float32)
    return np.clip(colour, 0, 255, out=colour).astype(np.uint8)


def _crowns(colour: Float, window: Window, look: Look, rows: slice, columns: slice) -> None:
    """Tree crowns that rise above what is below them, lit from the sun's side; written in place."""
    canopy, height = window.layers.canopy_dm, window.layers.height_cm[rows, columns]
    r, c = np.nonzero(canopy[rows, columns].astype(np.int32) * 10 > height)
    if not len(r):
        return
    row, column = r + rows.start, c + columns.start
    here = canopy[row, column].astype(np.float32)
    azimuth = np.radians(look.sun_azimuth_deg)
    slope = (here - canopy[row, column + 1]) * np.sin(azimuth) - (here - canopy[row + 1, column]) * np.cos(
        azimuth
    )
    speck = grain(CHUNK_PX, 77)[(row - window.north_px) % CHUNK_PX, (column + window.west_px) % CHUNK_PX]
    light = np.clip(0.9 + 0.016 * slope, 0.55, 1.3) * (1 + 0.4 * speck)
    crown = look.crown_colours[window.layers.hue[row, column]]
    colour[r, c] = crown * light.astype(np.float32)[:, None]
