"""Street panoramas: rays march over the chunk layers of one window.

Per column of the picture: heights along the ray tell which rows each obstacle is the first to fill. Facades are
cut exactly with the building's rectangle, tree crowns are intervals of elevation, cars are boxes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray
from geoloc.synthetic.world.camera import Camera, develop
from geoloc.synthetic.world.cars import Cars, cars_on
from geoloc.synthetic.world.columns import NEAR_M, Scene, Sky, finish, paint_cars, paint_columns
from geoloc.synthetic.world.noise import generator
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.scene import Lens, lens_of, light_of, texels_of
from geoloc.synthetic.world.style import PIXEL_M, VIEW_RANGE_M
from geoloc.synthetic.world.surfaces import near_patch
from geoloc.synthetic.world.view_conditions import Look

_CAR_RANGE_M = 45.0
_HAZE = np.array([190, 200, 212], np.float32)
_PATCH_PX = int(NEAR_M / PIXEL_M) + 3


def render_panorama(
    city: City,
    position: tuple[float, float],
    look: Look,
    camera: Camera | None = None,
    *,
    heading_deg: float = 0.0,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """The panorama seen from a position (x, y in city metres): uint8[height_px, width_px, 3].

    `window`, if given, must reach `VIEW_RANGE_M` around the position.

    Convention: the centre column looks along `heading_deg`, clockwise from GRID north; azimuth grows to the right;
    row 0 is the top.
    """
    x, y = position
    reach = VIEW_RANGE_M
    window = window or city.window((x - reach, y - reach, x + reach, y + reach))
    picture, _ = trace(window, position, look, camera or Camera(), heading_deg)
    return develop(picture, look.seed, look.exposure, look.tint)


def trace(
    window: Window, position: tuple[float, float], look: Look, camera: Camera, heading_deg: float
) -> tuple[NDArray[np.uint8], Float32Array]:
    """Light at the lens, before the camera's own look, and the distance of everything.

    uint8[height_px, width_px, 3], and float32[R, C] in metres at the full resolution of the rays, infinite for the sky.

    Convention: as `render_panorama`; row 0 is the top in both.
    """
    texels, lens, light = texels_of(window), lens_of(camera, *position, heading_deg), light_of(look)
    shape = len(lens.sin), len(lens.tangent)
    colour, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
    patch = near_patch(texels, lens, light, _PATCH_PX)
    paint_columns(Scene(texels, window.table, lens, light, patch, _sky(look, lens)), colour, depth)
    boxes = _boxes(_cars_near(window, look, lens))
    if len(boxes):
        paint_cars(lens, boxes, colour, depth)
    return finish(colour, depth, _HAZE, look.haze, camera.supersampling), depth.T[::-1]


def _sky(look: Look, lens: Lens) -> Sky:
    """A clear gradient with clouds that stay where they are in the world."""
    rng = generator(look.seed, 3)
    lift = np.clip(lens.tangent.astype(np.float64), 0, 0.7)[:, None]
    deep = np.array([150, 182, 216]) + rng.normal(0, 8, 3)
    base = deep + lift * np.array([-95, -72, -20]) * rng.uniform(0.3, 1.2)
    cover = rng.uniform(-0.6, 0.5)
    wave = np.arange(1, 7)
    turn, bend, tilt = rng.uniform([0, -6, 4], [2 * np.pi, 6, 16], (6, 3)).T
    strength = np.cos(tilt * lift + turn) / (wave + 1)
    azimuth = np.arctan2(lens.sin, lens.cos).astype(np.float64)[:, None] * wave + turn
    phase = bend * lift
    return Sky(
        base.astype(np.float32),
        (strength * np.sin(phase)).astype(np.float32),
        (strength * np.cos(phase)).astype(np.float32),
        np.sin(azimuth).astype(np.float32),
        np.cos(azimuth).astype(np.float32),
        np.float32(cover),
    )


def _cars_near(window: Window, look: Look, lens: Lens) -> Cars:
    """The cars that can be seen, none so near that the camera would stand in it."""
    low, high = window.edges.curve.min(1), window.edges.curve.max(1)
    here = np.array([lens.x, lens.y])
    near = ((low < here + _CAR_RANGE_M) & (high > here - _CAR_RANGE_M)).all(1)
    return cars_on(window.edges.only(near), look).near(lens.x, lens.y, 3.5, _CAR_RANGE_M)


def _boxes(cars: Cars) -> FloatArray:
    """Cars as `paint_cars` takes them: float64[N, 10]."""
    return np.column_stack(
        [cars.centre, cars.ahead, cars.half_length_m, cars.half_width_m, cars.height_m, cars.colour]
    )
