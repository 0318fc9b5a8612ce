"""Photos of a lens on the sphere of a panorama: where each pixel of a level panorama lies in a tilted photo.

Convention: azimuth grows to the right and is 0 along the photo's axis, elevation grows upwards from the horizon.
pitch_deg is how far the axis points below the horizon; roll_deg is how far the camera is turned clockwise about it, as
seen from behind, so the horizon of the photo sinks to its left. The lens has no distortion, its axis goes through the
middle of the photo, its pixels are square.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from geoloc.core.arrays import BoolArray, FloatArray, Pixels

WIDEST_LENS_DEG = 150.0  # above, a photo is no view of a plain lens
_FINER = 4  # samples along a pixel of the panorama


def lens_pixels(
    azimuth_deg: FloatArray,
    elevation_deg: FloatArray,
    width: float,
    height: float,
    *,
    fov_deg: float,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Where directions [...] lie in a photo of width x height pixels: x, y float64[...], and bool[...]: it shows them.

    Convention: see the module. x runs right and y down from the photo's upper left corner; `fov_deg` is horizontal.
    """
    azimuth, elevation = np.radians(azimuth_deg), np.radians(elevation_deg)
    pitch, roll = np.radians(pitch_deg), np.radians(roll_deg)
    ahead, right, up = (
        np.cos(elevation) * np.cos(azimuth),
        np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation),
    )
    depth = ahead * np.cos(pitch) - up * np.sin(pitch)
    above = ahead * np.sin(pitch) + up * np.cos(pitch)
    across = right * np.cos(roll) - above * np.sin(roll)
    above = right * np.sin(roll) + above * np.cos(roll)
    focal_px = width / 2 / np.tan(np.radians(fov_deg) / 2)
    safe = np.where(depth > 1e-6, depth, 1.0)
    x, y = width / 2 + focal_px * across / safe, height / 2 - focal_px * above / safe
    inside = (depth > 1e-6) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return x, y, inside


def lift(
    image: Pixels,
    height: int,
    width: int,
    elevation_deg: tuple[float, float],
    *,
    fov_deg: float,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
) -> Pixels:
    """A photo uint8[H, W, 3] on the canvas uint8[height, width, 3] of a level panorama of the whole circle.

    The photo's axis lies in the middle column; what it does not show is black. `elevation_deg` (lowest, highest) is the
    span of the rows. Convention: see the module.
    """
    low, high = elevation_deg
    rows = high - (np.arange(height * _FINER) + 0.5) / (height * _FINER) * (high - low)
    columns = ((np.arange(width * _FINER) + 0.5) / (width * _FINER) - 0.5) * 360.0
    # About as many pixels as the finer canvas has for it: Pillow averages over what is left out.
    small_width = max(2, min(image.shape[1], round(fov_deg / 360.0 * width * _FINER)))
    small_height = max(2, round(image.shape[0] * small_width / image.shape[1]))
    small = np.asarray(
        Image.fromarray(image).resize((small_width, small_height), Image.Resampling.BILINEAR), np.float32
    )
    seen = np.abs(columns) < 90.0  # a lens sees nothing behind itself
    x, y, inside = lens_pixels(
        columns[None, seen],
        rows[:, None],
        small_width,
        small_height,
        fov_deg=fov_deg,
        pitch_deg=pitch_deg,
        roll_deg=roll_deg,
    )
    fine = np.zeros((height * _FINER, width * _FINER, 3), dtype=np.float32)
    covered = np.zeros(fine.shape[:2], dtype=np.float32)
    fine[:, seen] = _bilinear(small, x, y) * inside[..., None]
    covered[:, seen] = inside
    share = covered.reshape(height, _FINER, width, _FINER).mean((1, 3))
    total = fine.reshape(height, _FINER, width, _FINER, 3).mean((1, 3))
    canvas = total / np.maximum(share, 1e-6)[..., None] * (share >= 0.5)[..., None]
    return np.asarray(np.rint(canvas).clip(0, 255), dtype=np.uint8)


def level_view(
    panorama: Pixels,
    elevation_deg: tuple[float, float],
    *,
    azimuth_deg: float,
    fov_deg: float,
    width: int,
    height: int,
) -> Pixels:
    """What a level lens shows of a panorama uint8[H, W, 3] of the whole circle: uint8[height, width, 3].

    `elevation_deg` (lowest, highest) is the span of the panorama's rows; beyond it, its first or last row goes on.
    `lift` is the way back.
    Convention: the lens looks at `azimuth_deg`, 0 in the panorama's middle column, growing to the right; else as in
    the module.
    """
    focal_px = width / 2 / np.tan(np.radians(fov_deg) / 2)
    across = (np.arange(width) + 0.5 - width / 2)[None, :] / focal_px
    above = (height / 2 - np.arange(height) - 0.5)[:, None] / focal_px
    azimuth = azimuth_deg + np.degrees(np.arctan(across))
    elevation = np.degrees(np.arctan2(above, np.hypot(1.0, across)))
    low, high = elevation_deg
    rows, columns = panorama.shape[:2]
    x = np.mod((azimuth / 360.0 + 0.5) * columns, columns) + 1.0
    y = (high - elevation) / (high - low) * rows
    # The column beyond each edge is that of the other edge: the circle closes.
    closed = np.concatenate([panorama[:, -1:], panorama, panorama[:, :1]], axis=1).astype(np.float32)
    seen = _bilinear(closed, np.broadcast_to(x, y.shape), y)
    return np.asarray(np.rint(seen).clip(0, 255), dtype=np.uint8)


def _bilinear(image: npt.NDArray[np.float32], x: FloatArray, y: FloatArray) -> npt.NDArray[np.float32]:
    """Pixels float32[..., 3] of an image [H, W, 3] at (x, y) from its corner; outside, those of its edge."""
    height, width = image.shape[:2]
    column, row = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = (
        np.minimum(column.astype(np.int64), max(width - 2, 0)),
        np.minimum(row.astype(np.int64), max(height - 2, 0)),
    )
    right, down = (column - left)[..., None].astype(np.float32), (row - top)[..., None].astype(np.float32)
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    lower = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)
