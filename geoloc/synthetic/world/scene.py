"""Inputs of the compiled painters: the texels of a window, the rays of a camera, the light of a look."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, Int32Array, IntArray
from geoloc.synthetic.world.camera import Camera, Rays, rays
from geoloc.synthetic.world.noise import Scalar
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.style import PIXEL_M
from geoloc.synthetic.world.view_conditions import Look


class Texels(NamedTuple):
    """The layers of a window as `raster.Layers` describes them, and its north-west corner in pixels."""

    albedo: NDArray[np.uint8]
    material: NDArray[np.uint8]
    marking: NDArray[np.uint8]
    building: Int32Array
    height_cm: NDArray[np.uint16]
    canopy_dm: NDArray[np.uint8]
    under_dm: NDArray[np.uint8]
    hue: NDArray[np.uint8]
    west_px: int
    north_px: int


class Lens(NamedTuple):
    """Rays from one place.

    x, y: city metres; column, row: the pixel of the city's grid they lie in, and x_part, y_part where in it;
    sin, cos: float32[C] of each column's grid azimuth; tangent: float32[R] of each row's
    elevation, lowest row first; distance_m: float32[S] of the march's steps; base_row: int64[S], the first row
    above the ground there; eye_m: height of the camera.

    Convention: row grows to the north here, as y does.
    """

    x: float
    y: float
    column: int
    row: int
    x_part: np.float32
    y_part: np.float32
    sin: Float32Array
    cos: Float32Array
    tangent: Float32Array
    distance_m: Float32Array
    base_row: IntArray
    eye_m: np.float32


class Light(NamedTuple):
    """A look as tables.

    ground: float32[14, 3] gains by material; crown: float32[256, 3] by hue; paint, strength: float32[256, 3] and
    float32[256] by marking group; worn: float32[640, 640] pattern of wear, repeating every chunk, and wear_left
    what it is added to; sun_east, sun_north: unit vector towards the sun.
    """

    ground: Float32Array
    crown: Float32Array
    paint: Float32Array
    strength: Float32Array
    worn: Float32Array
    wear_left: np.float32
    sun_east: np.float32
    sun_north: np.float32


def texels_of(window: Window, rows: slice = slice(None), columns: slice = slice(None)) -> Texels:
    """The arrays of a window, or of some of its rows and columns, as views."""
    names = ("albedo", "material", "marking", "building", "height_cm", "canopy_dm", "under_dm", "hue")
    layers = {name: getattr(window.layers, name)[rows, columns] for name in names}
    west_px, north_px = window.west_px + (columns.start or 0), window.north_px - (rows.start or 0)
    return Texels(**layers, west_px=west_px, north_px=north_px)


def lens_of(camera: Camera, x: float, y: float, heading_deg: float) -> Lens:
    """The rays of a camera at a place.

    Convention: heading clockwise from grid north; x east, y north.
    """
    ray: Rays = rays(camera)
    azimuth = ray.azimuth + np.radians(heading_deg)
    sin, cos = np.sin(azimuth).astype(np.float32), np.cos(azimuth).astype(np.float32)
    column, row = math.floor(x / PIXEL_M), math.floor(y / PIXEL_M)
    return Lens(
        float(x),
        float(y),
        column,
        row,
        np.float32(x / PIXEL_M - column),
        np.float32(y / PIXEL_M - row),
        sin,
        cos,
        ray.tangent,
        ray.distance_m,
        ray.base_row,
        np.float32(camera.camera_m),
    )


def light_of(look: Look) -> Light:
    """The tables of a look."""
    paint, strength = look.marking_colours
    sun = math.radians(look.sun_azimuth_deg)
    return Light(
        look.ground_gain, look.crown_colours, paint, strength, look.worn, np.float32(2.36 - 3 * look.wear),
        np.float32(math.sin(sun)), np.float32(math.cos(sun)),
    )  # fmt: skip


_SCALE = np.float32(1 / PIXEL_M)


@borrowing()
def texel_at(texels: Texels, lens: Lens, east: Scalar, north: Scalar) -> tuple[int, int]:
    """Row and column of the texel `east` and `north` metres (float32) of the lens, clipped to the window.

    Single precision is applied to the place within a pixel only, so every window gives the same texel.

    Convention: east to grid east, north to grid north; row 0 is the window's northern edge.
    """
    rows, columns = texels.material.shape
    c = math.floor(east * _SCALE + lens.x_part) + lens.column - texels.west_px
    r = texels.north_px - 1 - lens.row - math.floor(north * _SCALE + lens.y_part)
    return min(max(r, 0), rows - 1), min(max(c, 0), columns - 1)
