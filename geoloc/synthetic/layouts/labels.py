"""The class of every pixel of a panorama, as a picture of class numbers: the annotation of CVUSA.

Numbers: 0 sky, 1 road and other hard ground, 2 buildings and objects (walls, roofs, barriers, cars), 3 plants and soil,
4 water. They follow the four classes of Zhai et al. (CVPR 2017), with water apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.layouts.view_images import Picture
from geoloc.synthetic.world.blocks import BED, HEDGE, LAWN, POOL, SOIL
from geoloc.synthetic.world.blocks import WATER as WATER_MATERIAL
from geoloc.synthetic.world.caster import BARRIER, CAR, CROWN, GROUND, ROOF, WALL, cast
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.style import PIXEL_M, VIEW_RANGE_M
from geoloc.synthetic.world.view_conditions import Look

SKY, HARD, BUILT, PLANTS, WATER = range(5)
_CLASS_OF = np.full(256, HARD, np.uint8)
_CLASS_OF[[LAWN, BED, HEDGE, SOIL]] = PLANTS
_CLASS_OF[[WATER_MATERIAL, POOL]] = WATER


def ground_labels(window: Window, picture: Picture, look: Look) -> NDArray[np.uint8]:
    """The class of every pixel of a panorama: uint8[height_px, width_px].

    Convention: as the panorama itself; row 0 is the top, the centre column looks along the heading.
    """
    azimuth = np.radians(
        (np.arange(picture.width_px) + 0.5) / picture.width_px * 360 - 180 + picture.heading_deg
    )
    share = (np.arange(picture.height_px) + 0.5) / picture.height_px
    elevation = np.radians(picture.top_deg + share * (picture.bottom_deg - picture.top_deg))[:, None]
    flat = np.cos(elevation)
    directions = np.stack(
        [
            flat * np.sin(azimuth),
            flat * np.cos(azimuth),
            np.broadcast_to(np.sin(elevation), (len(flat), len(azimuth))),
        ],
        -1,
    )
    rays = directions.reshape(-1, 3)
    eye = np.array([picture.x, picture.y, picture.altitude_m])
    reach = VIEW_RANGE_M
    area = (picture.x - reach, picture.y - reach, picture.x + reach, picture.y + reach)
    hits = cast(window, eye, rays, look, bounds=area, reach_m=reach)
    classes = np.full(len(hits.kind), SKY, np.uint8)
    classes[np.isin(hits.kind, (WALL, ROOF, BARRIER, CAR))] = BUILT
    classes[hits.kind == CROWN] = PLANTS
    ground = hits.kind == GROUND
    classes[ground] = _ground_classes(window, eye, rays[ground])
    return classes.reshape(picture.height_px, picture.width_px)


def _ground_classes(window: Window, eye: FloatArray, rays: FloatArray) -> NDArray[np.uint8]:
    """Classes of the places where rays meet the plane z = 0: uint8[N]."""
    x, y = (eye[:2] + rays[:, :2] * (eye[2] / -rays[:, 2:])).T
    rows, columns = window.layers.material.shape
    column = np.clip(np.floor(x / PIXEL_M).astype(np.int64) - window.west_px, 0, columns - 1)
    row = np.clip(window.north_px - 1 - np.floor(y / PIXEL_M).astype(np.int64), 0, rows - 1)
    return np.asarray(_CLASS_OF[window.layers.material[row, column]])
