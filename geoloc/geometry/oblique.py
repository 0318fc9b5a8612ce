"""Photos that look down at a slant: their footprint on flat ground, and the same ground seen straight down.

Convention of the whole module: the camera is level (no roll) at a height of 1 above flat ground; lengths on the ground
are in heights. `pitch_deg` is how far the axis points below the horizon: 90 is straight down. The ground has its origin
where the axis meets it, `right` to the photo's right and `forward` along the camera's heading, so that looking straight
down the top of the picture is the heading. Pixels (x, y) are squares: x runs from 0 at the photo's left edge to its
width, y from 0 at its top edge to its height. `fov_deg` is the horizontal field of view of a lens without distortion.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from geoloc.core.arrays import FloatArray, Pixels
from geoloc.core.errors import InputError

LEAST_PITCH_DEG = 15.0
_WIDEST_DEG = 170.0
_MOST_PX = 4096


def focal_px(fov_deg: float, width_px: int) -> float:
    """Focal length in pixels. Raises `InputError` for a field of view that no flat picture has."""
    if not 1.0 <= fov_deg <= _WIDEST_DEG:
        raise InputError(
            f"fov_deg is {fov_deg:g}; a drone photo's lens sees 1 to {_WIDEST_DEG:g} degrees.",
            reason="bad_fov",
        )
    return width_px / 2 / math.tan(math.radians(fov_deg) / 2)


def ground_homography(pitch_deg: float, fov_deg: float, width_px: int, height_px: int) -> FloatArray:
    """float64[3, 3] from the ground (right, forward, 1) to the photo (x w, y w, w); w > 0 lies before the camera.

    Convention: that of the module. Raises `InputError` for a pitch below 15 or above 90 degrees.
    """
    if not LEAST_PITCH_DEG <= pitch_deg <= 90.0:
        raise InputError(
            f"pitch_deg is {pitch_deg:g}; give degrees below the horizon, {LEAST_PITCH_DEG:g} to 90 (straight down).",
            reason="bad_pitch",
        )
    focal, pitch = focal_px(fov_deg, width_px), math.radians(pitch_deg)
    sine, cosine = (1.0, 0.0) if pitch_deg == 90.0 else (math.sin(pitch), math.cos(pitch))
    # The axis (0, cosine, -sine) meets the ground at 1 / sine from the camera. From there a point `forward` is
    # farther along the axis by forward * cosine, and higher in the picture by forward * sine.
    camera = np.array([[1.0, 0.0, 0.0], [0.0, -sine, 0.0], [0.0, cosine, 1 / sine]])
    lens = np.array([[focal, 0.0, width_px / 2], [0.0, focal, height_px / 2], [0.0, 0.0, 1.0]])
    return np.asarray(lens @ camera)


def to_photo(homography: FloatArray, ground: FloatArray) -> FloatArray:
    """Pixels float64[N, 2] of ground points float64[N, 2]; NaN behind the camera. Convention: that of the module."""
    x, y, w = homography @ np.column_stack([ground, np.ones(len(ground))]).T
    safe = np.where(w > 0, w, np.nan)
    return np.column_stack([x / safe, y / safe])


def footprint(pitch_deg: float, fov_deg: float, width_px: int, height_px: int) -> FloatArray:
    """Ground under the photo's corners (top left, top right, bottom right, bottom left), float64[4, 2] in heights.

    Corners at or above the horizon are NaN. Convention: that of the module.
    """
    inverse = np.linalg.inv(ground_homography(pitch_deg, fov_deg, width_px, height_px))
    corners = np.array([[0, 0, 1], [width_px, 0, 1], [width_px, height_px, 1], [0, height_px, 1]], np.float64)
    x, y, w = inverse @ corners.T
    safe = np.where(w > 1e-9, w, np.nan)
    return np.column_stack([x / safe, y / safe])


def square_side(pitch_deg: float, fov_deg: float, width_px: int, height_px: int) -> float:
    """Side in heights of the largest square about the axis that the photo shows. Convention: that of the module."""
    homography = ground_homography(pitch_deg, fov_deg, width_px, height_px)
    unit = np.array([[-0.5, 0.5], [0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]])
    size, slack = np.array([width_px, height_px]), 1e-9 * max(width_px, height_px)
    low, high = 0.0, 2 / math.tan(math.radians(LEAST_PITCH_DEG)) + 2 * math.tan(math.radians(_WIDEST_DEG / 2))
    for _ in range(60):  # what the photo shows is convex and holds the origin: squares fit up to one size
        middle = (low + high) / 2
        seen = to_photo(homography, middle * unit)
        fits = bool(np.all((seen >= -slack) & (seen <= size + slack)))
        low, high = (middle, high) if fits else (low, middle)
    return low


def straight_down(image: Pixels, pitch_deg: float, fov_deg: float) -> tuple[Pixels, float]:
    """A photo uint8[H, W, 3] as if seen straight down: the square of `square_side`, uint8[S, S, 3], and its side.

    The homography is that of flat ground: walls and roofs stay where the photo shows them, above the ground that they
    hide. S keeps the photo's pixels across the axis. Convention: that of the module; row 0 is the heading, and a pitch
    of 90 degrees gives the middle square of the photo, pixel by pixel. Raises what `ground_homography` raises.
    """
    height, width = image.shape[:2]
    homography = ground_homography(pitch_deg, fov_deg, width, height)
    if pitch_deg == 90.0:
        short = min(width, height)
        top, left = (height - short) // 2, (width - short) // 2
        return image[top : top + short, left : left + short], short / focal_px(fov_deg, width)
    side = square_side(pitch_deg, fov_deg, width, height)
    across = focal_px(fov_deg, width) * math.sin(
        math.radians(pitch_deg)
    )  # pixels of a height, beside the axis
    pixels = min(_MOST_PX, max(1, round(side * across)))
    step = side / pixels
    square = np.array([[step, 0.0, -side / 2], [0.0, -step, side / 2], [0.0, 0.0, 1.0]])  # of (column, row)
    whole = homography @ square
    whole = (whole / whole[2, 2]).ravel()[:8]
    turned = Image.fromarray(image).transform(
        (pixels, pixels), Image.Transform.PERSPECTIVE, tuple(whole), Image.Resampling.BILINEAR
    )
    return np.asarray(turned), side
