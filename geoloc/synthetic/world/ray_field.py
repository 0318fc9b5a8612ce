"""The solids of an area for rays: buildings as prisms, cars as boxes, crowns and barriers by the pixel.

A `Field` is cut from a window on the city's own pixel grid, always the same square for the same request, so that
pictures do not depend on how large a window they were given. Above the 0.4 m layers lies a pyramid of greatest
heights in cells of 4, 16 and 64 pixels, by which rays skip empty space.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoloc.core.arrays import FloatArray, Int32Array, IntArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.buildings import Buildings
from geoloc.synthetic.world.cars import Cars, cars_on
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.style import MAX_HEIGHT_M, PIXEL_M
from geoloc.synthetic.world.view_conditions import Look

CEILING_M = MAX_HEIGHT_M + 6.0
"""Nothing stands higher: rays from above start here."""


class Field(NamedTuple):
    """One square of the city for rays; row 0 is the northern edge.

    height_cm, canopy_dm, under_dm, building: as in `Layers`. near: int32[H, W], the building whose walls may be
    met in the pixel, its own or a neighbour's. car: int16[H, W], -1 none. tops: uint16[T], greatest heights in
    centimetres at 1, 4, 16 and 64 pixels, one level after the other; levels: int64[4, 4], for each level where it
    starts, how many columns it has, and the city's square at its western and northern edge. prisms: float64[B, 8] of
    x, y, cos, sin, half_u, half_v, wall_m, gable_m; boxes: float64[C, 7] of x, y, cos, sin, half_length, half_width,
    height, both relative to the anchor. frame: int64[4], west_px, north_px, anchor_i, anchor_j.

    Convention: the anchor is the city pixel (anchor_i east, anchor_j north); its south-west corner is the origin
    of all coordinates of rays. Column c and row r are city pixel (west_px + c, north_px - 1 - r).
    """

    height_cm: NDArray[np.uint16]
    canopy_dm: NDArray[np.uint8]
    under_dm: NDArray[np.uint8]
    building: Int32Array
    near: Int32Array
    car: NDArray[np.int16]
    tops: NDArray[np.uint16]
    levels: IntArray
    prisms: FloatArray
    boxes: FloatArray
    frame: IntArray

    @property
    def anchor_m(self) -> tuple[float, float, float]:
        """The origin of the coordinates of rays, in city metres."""
        return float(self.frame[2]) * PIXEL_M, float(self.frame[3]) * PIXEL_M, 0.0


def crop(window: Window, bounds: Bounds) -> tuple[slice, slice]:
    """Rows and columns of the window's pixels that an area covers.

    Raises `ConfigError` when the window does not reach that far.

    Convention: west, south, east, north in city metres, grown to whole pixels of 0.4 m.
    """
    west, south = (int(np.floor(v / PIXEL_M + 1e-6)) for v in bounds[:2])
    east, north = (int(np.ceil(v / PIXEL_M - 1e-6)) for v in bounds[2:])
    rows, columns = window.layers.material.shape
    top, left = window.north_px - north, west - window.west_px
    if top < 0 or left < 0 or top + north - south > rows or left + east - west > columns:
        raise ConfigError(
            f"The window covers {_metres(window.bounds)}, but the picture needs {_metres(bounds)}; "
            "make the window larger or leave it out."
        )
    return slice(top, top + north - south), slice(left, left + east - west)


def _metres(bounds: Bounds) -> str:
    return f"{bounds[0]:.0f} to {bounds[2]:.0f} m east, {bounds[1]:.0f} to {bounds[3]:.0f} m north"


def build_field(
    window: Window, bounds: Bounds, look: Look, eye: tuple[float, float], *, clear_m: float = 0.0
) -> Field:
    """The field of an area with the cars of a look; none whose centre is within `clear_m` of the eye.

    `eye` (x, y in city metres) is where rays start: coordinates are kept small and exact around it.
    """
    rows, columns = crop(window, bounds)
    layers = window.layers
    height = layers.height_cm[rows, columns].copy()
    canopy = layers.canopy_dm[rows, columns].copy()
    under = layers.under_dm[rows, columns].copy()
    building = layers.building[rows, columns].copy()
    west_px, north_px = window.west_px + columns.start, window.north_px - rows.start
    anchor_i, anchor_j = int(np.floor(eye[0] / PIXEL_M)), int(np.floor(eye[1] / PIXEL_M))
    origin = anchor_i * PIXEL_M, anchor_j * PIXEL_M
    prisms = _prisms(window.table, origin)
    boxes = _boxes(cars_in_area(cars_on(window.edges, look), eye, clear_m, bounds), origin)
    car = np.full(height.shape, -1, np.int16)
    _mark_boxes(car, boxes, float(west_px - anchor_i), float(north_px - anchor_j))
    near, top = _outline(height, canopy, building, car, prisms, boxes)
    tops, levels = _pyramid(top, west_px, north_px)
    frame = np.array([west_px, north_px, anchor_i, anchor_j], np.int64)
    return Field(height, canopy, under, building, near, car, tops, levels, prisms, boxes, frame)


def _pyramid(top: NDArray[np.uint16], west_px: int, north_px: int) -> tuple[NDArray[np.uint16], IntArray]:
    """Greatest heights at all levels, as in `Field`."""
    tops, levels, start = [], [], 0
    for shift in (0, 2, 4, 6):
        squares = _coarsen(top, west_px, north_px, shift) if shift else top
        levels.append((start, squares.shape[1], west_px >> shift, (north_px - 1) >> shift))
        tops.append(squares.ravel())
        start += squares.size
    return np.concatenate(tops), np.array(levels, np.int64)


def _prisms(table: Buildings, origin: tuple[float, float]) -> FloatArray:
    names = ("cos", "sin", "half_u", "half_v", "wall_m", "gable_m")
    columns = [table["x"] - origin[0], table["y"] - origin[1], *(table[n].astype(np.float64) for n in names)]
    return np.ascontiguousarray(np.stack(columns, -1))


def cars_in_area(cars: Cars, eye: tuple[float, float], clear_m: float, bounds: Bounds) -> Cars:
    """The cars of an area whose centres are farther than `clear_m` from the eye, in their own order."""
    away = np.hypot(cars.centre[:, 0] - eye[0], cars.centre[:, 1] - eye[1])
    low, high = np.array(bounds[:2]) - 4, np.array(bounds[2:]) + 4
    keep = (away > clear_m) & ((cars.centre > low) & (cars.centre < high)).all(1)
    return Cars(*(getattr(cars, name)[keep] for name in cars.__dataclass_fields__))


def _boxes(cars: Cars, origin: tuple[float, float]) -> FloatArray:
    parts = [
        cars.centre - origin, cars.ahead, cars.half_length_m[:, None], cars.half_width_m[:, None],
        cars.height_m[:, None],
    ]  # fmt: skip
    return np.ascontiguousarray(np.concatenate(parts, 1))


@njit(cache=True, nogil=True)
def _mark_boxes(car: NDArray[np.int16], boxes: FloatArray, west: float, north: float) -> None:
    """Write each car's number into the pixels it may reach; the first car keeps a pixel that two share."""
    rows, columns = car.shape
    for k in range(len(boxes)):
        x, y, cos, sin, length, width = (
            boxes[k, 0],
            boxes[k, 1],
            boxes[k, 2],
            boxes[k, 3],
            boxes[k, 4],
            boxes[k, 5],
        )
        reach = length + width + 0.4
        c0, c1 = int((x - reach) / 0.4 - west), int((x + reach) / 0.4 - west) + 1
        r0, r1 = int(north - (y + reach) / 0.4), int(north - (y - reach) / 0.4) + 1
        for r in range(max(r0, 0), min(r1, rows)):
            for c in range(max(c0, 0), min(c1, columns)):
                east = (west + c + 0.5) * 0.4 - x
                up = (north - r - 0.5) * 0.4 - y
                along, across = east * cos + up * sin, up * cos - east * sin
                if abs(along) < length + 0.3 and abs(across) < width + 0.3 and car[r, c] < 0:
                    car[r, c] = k


@njit(cache=True, nogil=True)
def _outline(
    height: NDArray[np.uint16], canopy: NDArray[np.uint8], building: Int32Array, car: NDArray[np.int16],
    prisms: FloatArray, boxes: FloatArray,
) -> tuple[Int32Array, NDArray[np.uint16]]:  # fmt: skip
    """The building that may be met in each pixel, and the greatest height there in centimetres."""
    rows, columns = height.shape
    near, top = building.copy(), np.empty((rows, columns), np.uint16)
    for r in range(rows):
        for c in range(columns):
            found = building[r, c]
            if found < 0:
                best = -1.0
                for a in range(max(r - 1, 0), min(r + 2, rows)):
                    for b in range(max(c - 1, 0), min(c + 2, columns)):
                        other = building[a, b]
                        if other >= 0 and prisms[other, 6] > best:
                            best, found = prisms[other, 6], other
                near[r, c] = found
            tall = max(float(height[r, c]), canopy[r, c] * 10.0)
            if found >= 0:
                tall = max(tall, 100.0 * (prisms[found, 6] + prisms[found, 7]) + 1)
            if car[r, c] >= 0:
                tall = max(tall, 100.0 * boxes[car[r, c], 6] + 1)
            top[r, c] = np.uint16(tall)
    return near, top


@njit(cache=True, nogil=True)
def _coarsen(top: NDArray[np.uint16], west_px: int, north_px: int, shift: int) -> NDArray[np.uint16]:
    """Greatest heights in squares of 2 ** shift pixels that lie on the city's grid, whatever the window."""
    rows, columns = top.shape
    first_i, last_j = west_px >> shift, (north_px - 1) >> shift
    out = np.zeros(
        (last_j - ((north_px - rows) >> shift) + 1, ((west_px + columns - 1) >> shift) - first_i + 1),
        np.uint16,
    )
    for r in range(rows):
        b = last_j - ((north_px - 1 - r) >> shift)
        for c in range(columns):
            a = ((west_px + c) >> shift) - first_i
            if top[r, c] > out[b, a]:
                out[b, a] = top[r, c]
    return out


def shadow_ceiling(window: Window, bounds: Bounds, look: Look) -> NDArray[np.uint16]:
    """The height in centimetres up to which the air over each pixel is in shadow: uint16[H, W].

    A point at height z is in the sun when z lies above the ceiling of its pixel. One sweep from the sunny side
    carries the heights that still cast a shadow; they shift on the city's own rows, so a shadow has the same
    shape in every window.

    Convention: the sun may stand anywhere; its azimuth is clockwise from grid north.
    """
    rows, columns = crop(window, bounds)
    top = np.maximum(
        window.layers.height_cm[rows, columns], window.layers.canopy_dm[rows, columns].astype(np.uint16) * 10
    )
    azimuth, elevation = np.radians([look.sun_azimuth_deg, look.sun_elevation_deg])
    east, north = float(np.sin(azimuth)), float(np.cos(azimuth))
    first_i, first_j = window.west_px + columns.start, window.north_px - rows.start - 1
    if abs(north) >= abs(east):  # sweep along rows, from the side of the sun
        flip = north < 0
        swept = top[::-1] if flip else top
        line = first_j - len(top) + 1 if flip else first_j
        slope, step = east / abs(north), (1 if flip else -1)
    else:
        swept = top.T[::-1] if east > 0 else top.T
        line = first_i + top.shape[1] - 1 if east > 0 else first_i
        slope, step = -north / abs(east), (-1 if east > 0 else 1)
    drop = round(100 * PIXEL_M * float(np.tan(elevation)) / max(abs(north), abs(east)))
    ceiling = _sweep(np.ascontiguousarray(swept), line, step, slope, drop)
    if abs(north) >= abs(east):
        return np.ascontiguousarray(ceiling[::-1] if north < 0 else ceiling)
    return np.ascontiguousarray((ceiling[::-1] if east > 0 else ceiling).T)


@njit(cache=True, nogil=True)
def _sweep(top: NDArray[np.uint16], line: int, step: int, slope: float, drop: int) -> NDArray[np.uint16]:
    """Ceilings of lines that follow each other away from the sun; `slope` columns are drifted per line."""
    rows, columns = top.shape
    ceiling = np.zeros((rows, columns), np.uint16)
    for r in range(1, rows):
        # Away from the sun a shadow moves against its azimuth: by -slope columns a line.
        here = int(np.floor(-slope * step * (line + step * r) + 0.5))
        before = int(np.floor(-slope * step * (line + step * (r - 1)) + 0.5))
        shift = here - before
        for c in range(columns):
            source = c - shift
            if 0 <= source < columns:
                carried = max(int(ceiling[r - 1, source]), int(top[r - 1, source])) - drop
                if carried > 0:
                    ceiling[r, c] = carried
    return ceiling
