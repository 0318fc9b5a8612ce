"""Exact truth between the views: where a point of the city lies in each of them, and whether it can be seen there.

Everywhere a pixel's centre is at a half: column 0.5 is the middle of the first column. Projections are closed
formulas of their own and share no code with the renderers of panoramas, imagery, maps and clouds; for visibility a
ray is sent from the eye to the point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.caster import cast
from geoloc.synthetic.world.drone import FOV_DEG, DronePose, drone_view
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.street import StreetCamera, street_view
from geoloc.synthetic.world.style import PIXEL_M
from geoloc.synthetic.world.view_conditions import Look

_SLACK_M = 0.3
_SLACK_SHARE = 0.012


@dataclass(frozen=True)
class Places:
    """Picture points: column and row float64[N], and which of them lie in the picture, bool[N]."""

    column: FloatArray
    row: FloatArray
    inside: BoolArray


def _places(column: FloatArray, row: FloatArray, width: float, height: float) -> Places:
    with np.errstate(invalid="ignore"):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return Places(column, row, np.asarray(inside))


def in_panorama(
    points: ArrayLike, position: tuple[float, float], camera: Camera, heading_deg: float = 0.0
) -> Places:
    """City points float64[N, 3] in a panorama taken at a position.

    Convention: x east, y north, z up in city metres; as `render_panorama`: the centre column looks along
    `heading_deg` from GRID north, azimuth grows to the right, row 0 is the top. Columns wrap around.
    """
    offset = np.asarray(points, np.float64) - (*position, camera.camera_m)
    azimuth = np.degrees(np.arctan2(offset[..., 0], offset[..., 1])) - heading_deg
    elevation = np.degrees(np.arctan2(offset[..., 2], np.hypot(offset[..., 0], offset[..., 1])))
    column = ((azimuth + 180) % 360) / 360 * camera.width_px
    row = (camera.top_deg - elevation) / (camera.top_deg - camera.bottom_deg) * camera.height_px
    return _places(column, row, camera.width_px, camera.height_px)


def in_street(
    points: ArrayLike, position: tuple[float, float], camera: StreetCamera, heading_deg: float = 0.0
) -> Places:
    """City points float64[N, 3] in a street photo taken at a position.

    Convention: as `render_street`; points behind the camera get NaN and are not inside.
    """
    return Places(*street_view(position, camera, heading_deg).project(points))


def in_drone(points: ArrayLike, pose: DronePose, *, size_px: int = 512, fov_deg: float = FOV_DEG) -> Places:
    """City points float64[N, 3] in a drone photo.

    Convention: as `render_drone`; points behind the camera get NaN and are not inside.
    """
    return Places(*drone_view(pose, size_px, fov_deg).project(points))


def in_aerial(points: ArrayLike, bounds: Bounds, metres_per_pixel: float = PIXEL_M) -> Places:
    """City points float64[N, 2 or 3] in the orthophoto or the height raster of an area; heights do not matter.

    Convention: as `render_aerial`: north up, east right, pixel (0, 0) has its corner at (west, north).
    """
    west, south, east, north = bounds
    xy = np.asarray(points, np.float64)
    column, row = (xy[..., 0] - west) / metres_per_pixel, (north - xy[..., 1]) / metres_per_pixel
    return _places(column, row, (east - west) / metres_per_pixel, (north - south) / metres_per_pixel)


def in_map(points: ArrayLike, centre_x: float, centre_y: float, *, side_m: float, size_px: int) -> Places:
    """City points float64[N, 2 or 3] in a map tile; heights do not matter.

    Convention: as `render_map`: north up, east right, the tile's middle at (centre_x, centre_y).
    """
    half = side_m / 2
    bounds = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    return in_aerial(points, bounds, side_m / size_px)


def in_cloud(points: ArrayLike, bounds: Bounds) -> tuple[FloatArray, BoolArray]:
    """City points float64[N, 3] as a point cloud's coordinates, and which lie in its area: float64[N, 3], bool[N].

    Convention: as `point_cloud`: east, north, height in metres from the bounds' south-west corner.
    """
    local = np.asarray(points, np.float64) - (bounds[0], bounds[1], 0.0)
    size = np.array([bounds[2] - bounds[0], bounds[3] - bounds[1]])
    return local, np.asarray(((local[..., :2] >= 0) & (local[..., :2] < size)).all(-1))


def seen_from(
    window: Window, eye: tuple[float, float, float], points: ArrayLike, look: Look, *, clear_m: float = 0.0
) -> BoolArray:
    """Mask of the points float64[N, 3] that can be seen from an eye: nothing stands 0.3 m or 1.2 % in front of them.

    `clear_m` leaves out cars near the eye, as street photos and panoramas do (3.5 m).

    Convention: x east, y north, z up in city metres, heights above the ground.
    """
    offset = np.asarray(points, np.float64) - eye
    away = np.linalg.norm(offset, axis=-1)
    hits = cast(window, np.asarray(eye), offset, look, clear_m=clear_m)
    return np.asarray(hits.depth >= away - np.maximum(_SLACK_M, _SLACK_SHARE * away))


def seen_from_above(window: Window, points: ArrayLike) -> BoolArray:
    """Mask of the city points float64[N, 3] that the orthophoto shows: no roof or crown lies 0.3 m above them.

    Convention: x east, y north, z up in city metres; points outside the window are not seen.
    """
    x, y, z = np.moveaxis(np.asarray(points, np.float64), -1, 0)
    layers = window.layers
    rows, columns = layers.material.shape
    c = np.floor(x / PIXEL_M).astype(np.int64) - window.west_px
    r = window.north_px - 1 - np.floor(y / PIXEL_M).astype(np.int64)
    inside = (c >= 0) & (r >= 0) & (c < columns) & (r < rows)
    c, r = np.clip(c, 0, columns - 1), np.clip(r, 0, rows - 1)
    top = np.maximum(layers.height_cm[r, c] * 0.01, layers.canopy_dm[r, c] * 0.1)
    return np.asarray(inside & (top <= z + _SLACK_M))
