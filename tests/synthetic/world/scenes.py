"""Windows made by hand: flat grey ground with a single thing on it, for exact checks of both renderers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from geoloc.synthetic.world.buildings import BUILDING
from geoloc.synthetic.world.network import Edges
from geoloc.synthetic.world.raster import Layers, Window
from geoloc.synthetic.world.view_conditions import Look, photo_look

SIDE_PX = 700
HALF_M = SIDE_PX * 0.2
NO_EDGES = Edges(*(np.zeros(0, int),) * 3, np.zeros(0), np.zeros((0, 17, 2)))
RED = np.array([250, 0, 0], np.uint8)


def plain_look(**changes: float) -> Look:
    """Summer, no cars, no tint."""
    look = photo_look(0, 0)
    flat = {"season": 0.0, "dryness": 0.0, "exposure": 1.0, "traffic": 0.0, "variety": 0.0, "haze": 0.4}
    plain = replace(look, tint=(1.0, 1.0, 1.0), **flat)
    return replace(plain, **changes)


def empty_window() -> Window:
    """280 m of grey asphalt around (0, 0), row 0 in the north."""
    shape = (SIDE_PX, SIDE_PX)
    flat = {name: np.zeros(shape, np.uint8) for name in ("marking", "canopy_dm", "under_dm", "hue")}
    layers = Layers(
        albedo=np.full((*shape, 3), 90, np.uint8), material=np.full(shape, 2, np.uint8),
        building=np.full(shape, -1, np.int32), height_cm=np.zeros(shape, np.uint16), **flat,
    )  # fmt: skip
    return Window(layers, np.zeros(0, BUILDING), NO_EDGES, -SIDE_PX // 2, SIDE_PX // 2)


def grid(window: Window) -> tuple[np.ndarray, np.ndarray]:
    """City coordinates x[1, W] and y[H, 1] of the pixel centres."""
    x = (window.west_px + np.arange(SIDE_PX) + 0.5) * 0.4
    y = (window.north_px - np.arange(SIDE_PX) - 0.5) * 0.4
    return x[None, :], y[:, None]


def with_building(x: float, y: float, half_u: float, half_v: float, turn_deg: float, wall_m: float) -> Window:
    """A flat-roofed red building whose u axis is turned counter-clockwise from east."""
    window = empty_window()
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    table = np.zeros(1, BUILDING)
    table["id"], table["cos"], table["sin"] = 77, cos, sin
    table["x"], table["y"] = x, y
    table["half_u"], table["half_v"], table["wall_m"] = half_u, half_v, wall_m
    table["facade"] = table["roof"] = table["trim"] = (250, 0, 0)
    table["storey_m"], table["bay_m"], table["window"] = 3, 3, -1.0  # no window is ever as narrow as that
    east, north = grid(window)
    u = (east - x) * cos + (north - y) * sin
    v = (north - y) * cos - (east - x) * sin
    inside = (np.abs(u) <= half_u) & (np.abs(v) <= half_v)
    window.layers.building[inside] = 0
    window.layers.height_cm[inside] = round(wall_m * 100)
    window.layers.albedo[inside] = RED
    return replace(window, table=table)


def with_ground_spot(x: float, y: float, half_m: float) -> Window:
    """A red square on the ground."""
    window = empty_window()
    east, north = grid(window)
    window.layers.albedo[(np.abs(east - x) <= half_m) & (np.abs(north - y) <= half_m)] = RED
    return window


def is_red(picture: np.ndarray) -> np.ndarray:
    """Pixels that show the red thing, whatever the light: bool[H, W]."""
    red, green, blue = (picture[..., k].astype(int) for k in range(3))
    return np.asarray((red > 60) & (red > 1.6 * green) & (red > 1.6 * blue))


def corners_of(
    x: float, y: float, half_u: float, half_v: float, turn_deg: float
) -> list[tuple[float, float]]:
    """Ground-plan corners by plain trigonometry."""
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [
        (x + cos * a * half_u - sin * b * half_v, y + sin * a * half_u + cos * b * half_v) for a, b in signs
    ]
