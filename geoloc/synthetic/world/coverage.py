"""Tiles of an overlapping grid that show a photo's place: one positive and up to three semi-positives.

The rule of VIGOR (Zhu, Yang, Chen, CVPR 2021, section 3): tiles lie on a grid with 50 % overlap; a photo's
positive is the tile in whose central quarter it was taken, its semi-positives are the other tiles that show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from geoloc.core.arrays import BoolArray, FloatArray, IntArray

NO_TILE = -1


@dataclass(frozen=True)
class TileGrid:
    """Centres of tiles on a regular grid whose tiles are twice as wide as the grid's step.

    Convention: x grows to the east, y to the north, in any unit (the steps may differ, as in degrees); tile
    `row * columns + column` has its centre at (west + column * step_x, south + row * step_y).
    """

    west: float
    south: float
    step_x: float
    step_y: float
    columns: int
    rows: int

    def __len__(self) -> int:
        return self.columns * self.rows

    def centres(self) -> tuple[FloatArray, FloatArray]:
        """X and y of all centres, row by row from the south-west: float64[rows * columns] twice."""
        row, column = np.divmod(np.arange(len(self)), self.columns)
        return self.west + column * self.step_x, self.south + row * self.step_y

    def cover(self, x: ArrayLike, y: ArrayLike) -> IntArray:
        """Tiles that show each point, nearest centre first: int64[N, 4].

        Column 0 is the positive, the others are semi-positives; -1 where the grid has no such tile. A point
        outside the central quarters of all tiles has no positive.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        u, v = (x - self.west) / self.step_x, (y - self.south) / self.step_y
        column, row = np.rint(u), np.rint(v)
        beside = np.where(u >= column, column + 1, column - 1)
        above = np.where(v >= row, row + 1, row - 1)
        columns = np.stack([column, beside, column, beside], -1)
        rows = np.stack([row, row, above, above], -1)
        away = np.hypot(u[:, None] - columns, v[:, None] - rows)
        order = np.argsort(away, axis=1, kind="stable")
        columns = np.take_along_axis(columns, order, 1).astype(np.int64)
        rows = np.take_along_axis(rows, order, 1).astype(np.int64)
        inside = (columns >= 0) & (columns < self.columns) & (rows >= 0) & (rows < self.rows)
        return np.where(inside, rows * self.columns + columns, NO_TILE)


def keep_balanced(tiles: IntArray, most: int) -> BoolArray:
    """Mask bool[N] of the photos that stay, in order, when no tile may be the positive of more than `most`.

    `tiles`: int64[N], the positive of each photo.
    """
    order = np.argsort(tiles, kind="stable")
    first = np.searchsorted(tiles[order], tiles[order], side="left")
    keep = np.zeros(len(tiles), bool)
    keep[order] = np.arange(len(tiles)) - first < most
    return keep
