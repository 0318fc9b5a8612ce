"""Photos without one kind of object, to see on which cues a network depends.

Place, look, cars and camera noise stay the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.raster import Window

BASE, MARKINGS, TREES, BUILDINGS = "nothing", "road markings", "trees", "buildings"
GROUND, SKY = "below the horizon", "above the horizon"
LEFT_OUT = (BASE, MARKINGS, TREES, BUILDINGS, GROUND, SKY)
_PAVED = (166, 161, 152)


def without(window: Window, what: str) -> Window:
    """The window without its road markings, trees or buildings; as it is for anything else of `LEFT_OUT`.

    Where buildings stood the ground is paved.
    """
    layers = window.layers
    none = np.zeros_like(layers.material)
    if what == MARKINGS:
        return replace(window, layers=replace(layers, marking=none))
    if what == TREES:
        return replace(window, layers=replace(layers, canopy_dm=none, under_dm=none))
    if what != BUILDINGS:
        return window
    stood = layers.building >= 0
    albedo = np.where(stood[..., None], np.array(_PAVED, np.uint8), layers.albedo)
    height = np.where(stood, np.uint16(0), layers.height_cm)
    nobody = np.full_like(layers.building, -1)
    return replace(window, layers=replace(layers, albedo=albedo, height_cm=height, building=nobody))


def blank(picture: NDArray[np.uint8], camera: Camera, what: str) -> NDArray[np.uint8]:
    """A panorama uint8[H, W, 3] with what is above or below its horizon painted in the picture's mean colour.

    Convention: row 0 looks up at `camera.top_deg`, the last row down at `camera.bottom_deg`.
    """
    if what not in (GROUND, SKY):
        return picture
    horizon = round(camera.top_deg / (camera.top_deg - camera.bottom_deg) * len(picture))
    out = picture.copy()
    out[slice(horizon, None) if what == GROUND else slice(0, horizon)] = picture.mean((0, 1)).astype(np.uint8)
    return out
