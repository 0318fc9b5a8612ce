"""Which cells of the space-filling curve a region can touch: a few ranges of cells, so a few slices of a shard.

The box of the region is covered with cells of the finest level that needs no more than a limited number. Cells that the
region does not meet are dropped, and neighbours along the curve are joined.
"""

from __future__ import annotations

import numpy as np

from geoloc.core import geodesy
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.index.format.shard import SpatialOrder
from geoloc.index.search.region import Box, Polygon, Region

_MOST_CELLS = 1024


def cell_ranges(region: Region, level: int = geodesy.CELL_LEVEL) -> IntArray:
    """Ranges int64[R, 2] of cells (first and last included) that cover the region, ascending and disjoint."""
    pieces = [_of_box(part, region, level) for part in _parts(region.box())]
    ranges = np.concatenate(pieces)
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    reached = np.maximum.accumulate(ranges[:, 1])
    fresh = np.concatenate([[True], ranges[1:, 0] > reached[:-1] + 1])
    starts = np.flatnonzero(fresh)
    return np.stack([ranges[starts, 0], np.maximum.reduceat(ranges[:, 1], starts)], axis=1)


def _parts(box: Box) -> list[Box]:
    """The box as boxes whose cells ascend from west to east; the cells of 180 E are those of 180 W."""
    crosses = box.west > box.east
    parts = (
        [box.model_copy(update={"east": 180.0}), box.model_copy(update={"west": -180.0})]
        if crosses
        else [box]
    )
    if not crosses and box.east == 180:
        parts.append(box.model_copy(update={"west": -180.0, "east": -180.0}))
    return parts


def _of_box(box: Box, region: Region, level: int) -> IntArray:
    west, north = geodesy.map_tile(box.north, box.west, level)
    _, south = geodesy.map_tile(box.south, box.west, level)
    # 180 E is counted as 180 W by the tiles.
    east = 2**level - 1 if box.east == 180 else geodesy.map_tile(box.north, box.east, level)[0]
    corners = np.array([west, east, north, south], dtype=np.int64)
    up = 0
    while _count(corners >> up) > _MOST_CELLS:
        up += 1
    left, right, top, bottom = (int(value) for value in corners >> up)
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(left, right + 1), np.arange(top, bottom + 1)))
    # A circle counts as its box; of a polygon that is lean enough, cells are split further.
    outline = region if isinstance(region, Polygon) else box
    while True:
        met = outline.meets(*_bounds(x, y, level - up))
        x, y = x[met], y[met]
        if up == 0 or 4 * len(x) > _MOST_CELLS:
            break
        x, y, up = _quarters(2 * x, 1, 0), _quarters(2 * y, 0, 1), up - 1
    cells = np.sort(geodesy.morton(x, y))
    return np.stack([cells << (2 * up), ((cells + 1) << (2 * up)) - 1], axis=1)


def _quarters(first: IntArray, across: int, down: int) -> IntArray:
    """The columns, or the rows, of the four quarters of cells."""
    return np.concatenate([first, first + across, first + down, first + across + down])


def _count(corners: IntArray) -> int:
    return int((corners[1] - corners[0] + 1) * (corners[3] - corners[2] + 1))


def _bounds(x: IntArray, y: IntArray, level: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(south, west, north, east) of cells in degrees, a little widened; the outermost rows reach the poles."""
    size, slack = 2**level, 1e-9

    def latitude(row: IntArray) -> FloatArray:
        inner = np.degrees(np.arctan(np.sinh(np.pi * (1.0 - 2.0 * row / size))))
        return np.where(row <= 0, 90.0, np.where(row >= size, -90.0, inner))

    west, east = x / size * 360.0 - 180.0, (x + 1) / size * 360.0 - 180.0
    return latitude(y + 1) - slack, west - slack, latitude(y) + slack, east + slack


def rows_between(space: SpatialOrder, ranges: IntArray) -> IntArray:
    """The rows int64[M] of a shard whose cell lies in one of the ranges, in no particular order."""
    starts = np.searchsorted(space.cells, ranges[:, 0], side="left")
    stops = np.searchsorted(space.cells, ranges[:, 1], side="right")
    pieces = [space.rows[start:stop] for start, stop in zip(starts, stops, strict=True) if start < stop]
    return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)
