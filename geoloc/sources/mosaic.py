"""One picture of a block of tiles: sheets warped into the block's local frame, the first valid pixel wins.

The picture is sampled bilinearly, after the sheet was reduced to the wanted resolution by averaging. Positions
are computed exactly (pyproj) at the corners of a mesh of cells and bilinearly within: with `_CELL_PX` the
deviation stays below 0.01 pixel for tiles of up to 10 m per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from geoloc.geodesy import LocalFrame
from geoloc.sources.sheets import Floats, Pixels, Sheet, read_window

_CELL_PX = 128
_MARGIN_PX = 3  # source pixels that interpolation may touch beyond the window
_REDUCE_FROM = 1.1  # below, the loss of sharpness is smaller than that of another resampling
NEUTRAL = (
    127  # value of holes in all three channels: the middle of the range, which no network finds remarkable
)


@dataclass(frozen=True)
class Canvas:
    """Pixels of a window of a frame.

    `image` is RGB uint8[H, W, 3] with holes at `NEUTRAL`; `valid` bool[H, W] (None: everywhere) says where a
    sheet showed the ground; `owner` int16[H, W] is the position of that sheet in the list given (None: it is
    `only` everywhere).
    """

    image: Pixels
    valid: npt.NDArray[np.bool_] | None
    owner: npt.NDArray[np.int16] | None
    only: int = 0


@dataclass(frozen=True)
class _Mesh:
    """Where the corners of cells of a window lie in a sheet, in its pixels."""

    x: npt.NDArray[np.int64]  # window pixels of the cells' edges
    y: npt.NDArray[np.int64]
    column: Floats  # [len(y), len(x)] sheet pixels
    row: Floats

    def trimmed(self, sheet: Sheet) -> _Mesh | None:
        """The cells that may show the sheet; None when none does."""
        if not (np.isfinite(self.column).all() and np.isfinite(self.row).all()):
            return None
        meets = _spans(self.column, sheet.width) & _spans(self.row, sheet.height)
        if not meets.any():
            return None
        i, j = np.flatnonzero(meets.any(axis=0)), np.flatnonzero(meets.any(axis=1))
        columns, rows = slice(i[0], i[-1] + 2), slice(j[0], j[-1] + 2)
        return _Mesh(self.x[columns], self.y[rows], self.column[rows, columns], self.row[rows, columns])

    @property
    def box(self) -> tuple[slice, slice]:
        """The window's pixels that the mesh covers: (rows, columns)."""
        return slice(int(self.y[0]), int(self.y[-1])), slice(int(self.x[0]), int(self.x[-1]))

    def scale(self) -> float:
        """Sheet pixels per window pixel, the smaller of both directions."""
        across = np.hypot(np.diff(self.column, axis=1), np.diff(self.row, axis=1)) / np.diff(self.x)
        down = np.hypot(np.diff(self.column, axis=0), np.diff(self.row, axis=0)) / np.diff(self.y)[:, None]
        return float(min(np.median(across), np.median(down)))

    def quads(self, left: float, top: float, factor: tuple[float, float]) -> _Quads:
        """Pillow's mesh: target box and source corners (NW, SW, SE, NE) in a reduced crop of the sheet."""
        u, v = (self.column - left) * factor[0], (self.row - top) * factor[1]
        x, y = self.x - self.x[0], self.y - self.y[0]
        cells: _Quads = []
        for j in range(len(y) - 1):
            for i in range(len(x) - 1):
                box = (int(x[i]), int(y[j]), int(x[i + 1]), int(y[j + 1]))
                corners = ((j, i), (j + 1, i), (j + 1, i + 1), (j, i + 1))
                cells.append((box, tuple(float(w[corner]) for corner in corners for w in (u, v))))
        return cells


_Quads = list[tuple[tuple[int, int, int, int], tuple[float, ...]]]
_Warped = tuple[Pixels, npt.NDArray[np.bool_] | None]


def _spans(corners: Floats, size: int) -> npt.NDArray[np.bool_]:
    """Which cells' corners [h + 1, w + 1] span some of 0..size: bool[h, w]."""
    four = np.stack([corners[:-1, :-1], corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]])
    return np.asarray((four.max(axis=0) > 0) & (four.min(axis=0) < size))


def render(
    frame: LocalFrame,
    window: tuple[int, int, int, int],
    metres_per_pixel: float,
    sheets: Sequence[Sheet],
) -> Canvas | None:
    """The window (left, top, width, height) of a frame's pixel grid as shown by the sheets, in their order.

    None when no sheet shows anything there. Raises `InputError` when a sheet's data cannot be read.

    Convention: north up, east right; the frame's origin is the upper left corner of pixel (0, 0); x grows to
    the east, y to the south.
    """
    canvas: Canvas | None = None
    for number, sheet in enumerate(sheets):
        mesh = _mesh(frame, window, metres_per_pixel, sheet).trimmed(sheet)
        warped = None if mesh is None else _warp(sheet, mesh)
        if mesh is None or warped is None:
            continue
        canvas = _under(canvas, warped, number, mesh.box, (window[3], window[2]))
        if canvas.valid is None:
            break
    return canvas


def _mesh(
    frame: LocalFrame, window: tuple[int, int, int, int], metres_per_pixel: float, sheet: Sheet
) -> _Mesh:
    left, top, width, height = window
    x = np.append(np.arange(0, width, _CELL_PX), width)
    y = np.append(np.arange(0, height, _CELL_PX), height)
    east, south = np.meshgrid((x + left) * metres_per_pixel, (y + top) * metres_per_pixel)
    lat, lon = frame.to_degrees(east, -south)
    column, row = sheet.to_pixels(lat, lon)
    return _Mesh(x, y, column, row)


def _warp(sheet: Sheet, mesh: _Mesh) -> _Warped | None:
    """The mesh's box as one sheet shows it and where it does (None: everywhere); None when it does nowhere."""
    left = max(0, int(np.floor(mesh.column.min())) - _MARGIN_PX)
    top = max(0, int(np.floor(mesh.row.min())) - _MARGIN_PX)
    right = min(sheet.width, int(np.ceil(mesh.column.max())) + _MARGIN_PX)
    bottom = min(sheet.height, int(np.ceil(mesh.row.max())) + _MARGIN_PX)
    inside = (
        mesh.column.min() >= 0
        and mesh.row.min() >= 0
        and mesh.column.max() <= sheet.width
        and mesh.row.max() <= sheet.height
    )
    scale = mesh.scale()
    pixels, mask = read_window(sheet, left, top, right - left, bottom - top, max(1, int(scale)))
    if mask is not None and not mask.any():
        return None
    source, mask = _reduced(pixels, mask, (right - left, bottom - top), scale)
    factor = (source.width / (right - left), source.height / (bottom - top))
    quads, size = mesh.quads(left, top, factor), (int(mesh.x[-1] - mesh.x[0]), int(mesh.y[-1] - mesh.y[0]))
    image = np.array(source.transform(size, Image.Transform.MESH, quads, Image.Resampling.BILINEAR))
    if mask is None and inside:
        return image, None
    if mask is None:
        mask = np.full((source.height, source.width), 255, np.uint8)
    return _with_mask(image, Image.fromarray(mask), quads, size)


def _reduced(
    pixels: Pixels, mask: Pixels | None, full: tuple[int, int], scale: float
) -> tuple[Image.Image, Pixels | None]:
    """Pixels at no more than the wanted resolution, holes black (so that sums weighted by the mask are right)."""
    if mask is not None:
        pixels[mask == 0] = 0
    image = Image.fromarray(pixels)
    if full[0] / image.width * _REDUCE_FROM >= scale:
        return image, mask
    size = (max(1, round(full[0] / scale)), max(1, round(full[1] / scale)))
    smaller = None
    if mask is not None:
        smaller = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))
    return image.resize(size, Image.Resampling.BILINEAR), smaller


def _with_mask(image: Pixels, mask: Image.Image, quads: _Quads, size: tuple[int, int]) -> _Warped | None:
    """Colours along holes freed of the black beside them; a pixel counts when half of its weight is valid."""
    weight = np.asarray(mask.transform(size, Image.Transform.MESH, quads, Image.Resampling.BILINEAR))
    valid = weight >= 128
    if not valid.any():
        return None
    edge = valid & (weight < 255)
    if edge.any():
        restored = image[edge].astype(np.float32) * (255.0 / weight[edge].astype(np.float32))[:, None]
        image[edge] = np.minimum(np.rint(restored), 255).astype(np.uint8)
    return image, (None if valid.all() else valid)


def _under(
    canvas: Canvas | None, warped: _Warped, number: int, box: tuple[slice, slice], shape: tuple[int, int]
) -> Canvas:
    """Put a sheet's picture of a box below what is already there."""
    image, valid = warped
    if canvas is None:
        if valid is None and image.shape[:2] == shape:
            return Canvas(image, None, None, number)
        filled = np.full((*shape, 3), NEUTRAL, np.uint8)
        canvas = Canvas(filled, np.zeros(shape, np.bool_), np.zeros(shape, np.int16))
    assert canvas.valid is not None
    assert canvas.owner is not None
    there = canvas.valid[box]
    new = ~there if valid is None else valid & ~there
    if new.all():
        canvas.image[box] = image
    else:
        np.copyto(canvas.image[box], image, where=new[..., None])
    np.copyto(canvas.owner[box], np.int16(number), where=new)
    there |= new
    return Canvas(canvas.image, None if canvas.valid.all() else canvas.valid, canvas.owner)
