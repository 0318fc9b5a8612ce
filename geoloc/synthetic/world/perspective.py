"""Pinhole pictures of the city: the geometry of a view, its rays, and how they become an antialiased picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray
from geoloc.synthetic.world.caster import CROWN, cast_field
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.ray_field import Field, build_field
from geoloc.synthetic.world.shading import Paint, mix_paint, shade
from geoloc.synthetic.world.view_conditions import Look

_EDGE_LEVELS = 24.0
_SUBPIXELS = ((-0.34, 0.17), (0.34, -0.17))
"""Two around the centre: no two of the three share a row or a column."""


@dataclass(frozen=True)
class View:
    """A pinhole camera in the city.

    Convention: the eye is (x, y, z) in city metres, z above the ground. `heading_deg` is clockwise from GRID north,
    `pitch_deg` above the horizon, `roll_deg` turns the camera clockwise about its axis (its right side dips).
    `fov_deg` is across the width. Columns grow to the right, rows downward; pixel (c, r) covers [c, c + 1) x
    [r, r + 1) and its centre is at (c + 0.5, r + 0.5); the axis meets the middle of the picture.
    """

    x: float
    y: float
    z: float
    heading_deg: float
    pitch_deg: float
    roll_deg: float
    fov_deg: float
    width_px: int
    height_px: int

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return self.width_px / 2 / math.tan(math.radians(self.fov_deg) / 2)

    def axes(self) -> FloatArray:
        """Unit vectors to the right, up and ahead in city coordinates: float64[3, 3], one a row."""
        h, p, r = (math.radians(v) for v in (self.heading_deg, self.pitch_deg, self.roll_deg))
        ahead = np.array([math.sin(h) * math.cos(p), math.cos(h) * math.cos(p), math.sin(p)])
        right = np.array([math.cos(h), -math.sin(h), 0.0])
        up = np.cross(right, ahead)
        level = right * math.cos(r) - up * math.sin(r), up * math.cos(r) + right * math.sin(r)
        return np.stack([*level, ahead])

    def directions(self, column: ArrayLike, row: ArrayLike) -> FloatArray:
        """Directions (not of unit length) of picture points: float64[..., 3].

        Convention: as the class; column and row are picture coordinates, a pixel's centre lies at a half.
        """
        right, up, ahead = self.axes()
        east = np.asarray(column, np.float64)[..., None] - self.width_px / 2
        down = np.asarray(row, np.float64)[..., None] - self.height_px / 2
        return np.asarray(ahead * self.focal_px + right * east - up * down)

    def project(self, points: ArrayLike) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Column and row of city points float64[..., 3], and which lie ahead and inside the picture.

        Convention: as the class. Points behind the camera get NaN.
        """
        right, up, ahead = self.axes()
        offset = np.asarray(points, np.float64) - (self.x, self.y, self.z)
        depth = offset @ ahead
        scale = np.divide(self.focal_px, depth, out=np.full_like(depth, np.nan), where=depth > 1e-9)
        column, row = self.width_px / 2 + offset @ right * scale, self.height_px / 2 - offset @ up * scale
        with np.errstate(invalid="ignore"):
            inside = (column >= 0) & (column < self.width_px) & (row >= 0) & (row < self.height_px)
        return column, row, np.asarray(inside)


def render_view(
    window: Window, bounds: Bounds, view: View, look: Look, *, reach_m: float, clear_m: float = 0.0
) -> Float32Array:
    """Light at a pinhole camera, before its own look: float32[height_px, width_px, 3] in 0..255.

    One ray a pixel, and three where neighbours differ. `bounds` is the area that can be seen; the picture depends
    on it but not on the rest of the window. Nothing farther than `reach_m` over the ground is drawn.

    Convention: as `View`; row 0 is the top.
    """
    eye = view.x, view.y
    field = build_field(window, bounds, look, eye, clear_m=clear_m)
    paint = mix_paint(window, field, bounds, look, eye, clear_m)
    column, row = np.meshgrid(np.arange(view.width_px) + 0.5, np.arange(view.height_px) + 0.5)
    colour, kind = _look(field, paint, view, column.ravel(), row.ravel(), reach_m)
    shape = view.height_px, view.width_px
    picture = colour.reshape(*shape, 3)
    rows, columns = np.nonzero(_edges(picture, kind.reshape(shape)))
    if len(rows):
        total = picture[rows, columns]
        for right, down in _SUBPIXELS:
            total += _look(field, paint, view, columns + 0.5 + right, rows + 0.5 + down, reach_m)[0]
        picture[rows, columns] = total * np.float32(1 / (1 + len(_SUBPIXELS)))
    return picture


def _look(
    field: Field, paint: Paint, view: View, column: ArrayLike, row: ArrayLike, reach_m: float
) -> tuple[Float32Array, NDArray[np.uint8]]:
    """Colours and kinds along the rays of picture points."""
    directions = view.directions(column, row)
    origin = np.array([[view.x, view.y, view.z]])
    hits = cast_field(field, origin, directions, reach_m)
    return shade(field, paint, origin, directions, hits), hits.kind


@njit(cache=True, nogil=True)
def _edges(picture: Float32Array, kind: NDArray[np.uint8]) -> BoolArray:
    """Pixels that differ from the next one to the right or below, and those next ones: bool[H, W].

    Leaves differ from leaves everywhere; only their outlines count.
    """
    rows, columns = kind.shape
    edge = np.zeros((rows, columns), np.bool_)
    for r in range(rows):
        for c in range(columns):
            for k in range(2):
                a, b = r + k, c + 1 - k
                if a == rows or b == columns or kind[r, c] == kind[a, b] == CROWN:
                    continue
                apart = max(
                    abs(picture[r, c, 0] - picture[a, b, 0]), abs(picture[r, c, 1] - picture[a, b, 1]),
                    abs(picture[r, c, 2] - picture[a, b, 2]),
                )  # fmt: skip
                if apart > _EDGE_LEVELS:
                    edge[r, c] = edge[a, b] = True
    return edge
