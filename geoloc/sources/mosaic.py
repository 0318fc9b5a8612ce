"""One picture of a block of tiles: sheets warped into the block's local frame, the first valid pixel wins.

The picture is sampled bilinearly, after the sheet was reduced to the wanted resolution by averaging. Positions
are computed exactly (pyproj) at the corners of a mesh of cells and bilinearly within: with `_CELL_PX` the
deviation stays below 0.01 pixel for tiles of up to 10 m per pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from geoloc.core.arrays import BoolArray, FloatArray, IntArray, Pixels
from geoloc.core.geodesy import LocalFrame
from geoloc.sources.sheet_pixels import read_window
from geoloc.sources.sheets import Sheet

_CELL_PX = 64
_MARGIN_PX = 3  # source pixels that interpolation may touch beyond the window
_REDUCE_FROM = 1.1  # below, the loss of sharpness is smaller than that of another resampling
NEUTRAL = (
    127  # value of holes in all three channels: the middle of the range, which no network finds remarkable
)


@dataclass(frozen=True)
class Canvas:
    """Pixels of a window of a frame.

    `image` is RGB with holes at `NEUTRAL`; `valid` bool[H, W] (None: everywhere) says where a sheet showed the
    ground; `owner` int16[H, W] is the position of that sheet in the list given (None: it is `only` everywhere).
    """

    image: Image.Image
    valid: BoolArray | None
    owner: npt.NDArray[np.int16] | None
    only: int = 0

    def holes(self, left: int, top: int, side: int) -> float:
        """Share of a square that no sheet showed."""
        if self.valid is None:
            return 0.0
        return 1.0 - float(np.count_nonzero(self.valid[top : top + side, left : left + side])) / side**2

    def square(self, left: int, top: int, side: int) -> Image.Image:
        """The picture of a square."""
        return self.image.crop((left, top, left + side, top + side))

    def sources(self, left: int, top: int, side: int) -> list[int]:
        """Positions of the sheets that a square shows, ascending."""
        if self.owner is None:
            return [self.only]
        box = (slice(top, top + side), slice(left, left + side))
        seen = self.owner[box]
        if self.valid is not None:
            seen = seen[self.valid[box]]
        first = int(seen.min())
        return [first] if first == int(seen.max()) else np.flatnonzero(np.bincount(seen.ravel())).tolist()


@dataclass(frozen=True)
class _Crop:
    """A part of a sheet in memory, perhaps reduced: `factor` of its pixels per sheet pixel (across, down)."""

    image: Image.Image
    mask: Pixels | None
    left: int
    top: int
    factor: tuple[float, float]


_Quads = list[tuple[tuple[int, int, int, int], tuple[float, ...]]]
_Warped = tuple[Image.Image, BoolArray | None]


@dataclass(frozen=True)
class _Mesh:
    """Where the corners of cells of a window lie in a sheet, in its pixels."""

    x: IntArray  # window pixels of the cells' edges
    y: IntArray
    column: FloatArray  # [len(y), len(x)] sheet pixels
    row: FloatArray
    wanted: BoolArray  # [len(y) - 1, len(x) - 1] cells that some tile needs

    def trimmed(self, sheet: Sheet) -> _Mesh | None:
        """The cells that may show the sheet; None when none does."""
        meets = _spans(self.column, sheet.width) & _spans(self.row, sheet.height)
        if not meets.any():
            return None
        i, j = np.flatnonzero(meets.any(axis=0)), np.flatnonzero(meets.any(axis=1))
        columns, rows = slice(i[0], i[-1] + 2), slice(j[0], j[-1] + 2)
        cells = (slice(j[0], j[-1] + 1), slice(i[0], i[-1] + 1))
        wanted = (self.wanted & meets)[cells]
        if not wanted.any():
            return None
        return _Mesh(
            self.x[columns], self.y[rows], self.column[rows, columns], self.row[rows, columns], wanted
        )

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The window's pixels that the mesh covers: left, top, right, bottom."""
        return int(self.x[0]), int(self.y[0]), int(self.x[-1]), int(self.y[-1])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the box."""
        left, top, right, bottom = self.box
        return right - left, bottom - top

    def inside(self, sheet: Sheet) -> BoolArray:
        """Which cells lie wholly within the sheet: bool[h, w]."""
        within = (
            (self.column >= 0) & (self.column <= sheet.width) & (self.row >= 0) & (self.row <= sheet.height)
        )
        return np.asarray(within[:-1, :-1] & within[1:, :-1] & within[:-1, 1:] & within[1:, 1:])

    def scale(self) -> float:
        """Sheet pixels per window pixel, the smaller of both directions."""
        across = np.hypot(np.diff(self.column, axis=1), np.diff(self.row, axis=1)) / np.diff(self.x)
        down = np.hypot(np.diff(self.column, axis=0), np.diff(self.row, axis=0)) / np.diff(self.y)[:, None]
        return float(min(np.median(across), np.median(down)))

    def quads(self, cells: BoolArray, crop: _Crop) -> _Quads:
        """Pillow's mesh of some cells: target box and source corners (NW, SW, SE, NE) in a crop of the sheet."""
        place = np.stack(
            [(self.column - crop.left) * crop.factor[0], (self.row - crop.top) * crop.factor[1]], -1
        )
        corners = np.concatenate([place[:-1, :-1], place[1:, :-1], place[1:, 1:], place[:-1, 1:]], axis=-1)
        x, y = (self.x - self.x[0]).tolist(), (self.y - self.y[0]).tolist()
        return [
            ((x[i], y[j], x[i + 1], y[j + 1]), tuple(corners[j, i].tolist()))
            for j, i in zip(*np.nonzero(cells), strict=True)
        ]


def _spans(corners: FloatArray, size: int) -> BoolArray:
    """Which cells' corners [h + 1, w + 1] span some of 0..size: bool[h, w]."""
    four = np.stack([corners[:-1, :-1], corners[1:, :-1], corners[:-1, 1:], corners[1:, 1:]])
    return np.asarray((four.max(axis=0) > 0) & (four.min(axis=0) < size))


def render(
    frame: LocalFrame,
    window: tuple[int, int, int, int],
    metres_per_pixel: float,
    sheets: Sequence[Sheet],
    squares: Iterable[tuple[int, int, int]] | None = None,
) -> Canvas | None:
    """The window (left, top, width, height) of a frame's pixel grid as shown by the sheets, in their order.

    `squares` (left, top, side within the window) are the parts that will be looked at; others may stay holes.
    None when no sheet shows anything there. Raises `InputError` when a sheet's data cannot be read.

    Convention: north up, east right; the frame's origin is the upper left corner of pixel (0, 0); x grows to
    the east, y to the south.
    """
    canvas: Canvas | None = None
    wanted = _wanted(window[2:], squares)
    for number, sheet in enumerate(sheets):
        for placed in _meshes(frame, window, metres_per_pixel, sheet, wanted):
            mesh = placed.trimmed(sheet)
            warped = None if mesh is None else _warp(sheet, mesh)
            if mesh is None or warped is None:
                continue
            canvas = _under(canvas, warped, number, mesh.box, window[2:])
            if canvas.valid is None:
                return canvas
    return canvas


def _wanted(size: tuple[int, int], squares: Iterable[tuple[int, int, int]] | None) -> BoolArray:
    """Cells of a window of (width, height) that some square touches: bool[h, w]."""
    shape = (-(-size[1] // _CELL_PX), -(-size[0] // _CELL_PX))
    if squares is None:
        return np.ones(shape, np.bool_)
    wanted = np.zeros(shape, np.bool_)
    for left, top, side in squares:
        wanted[
            top // _CELL_PX : (top + side - 1) // _CELL_PX + 1,
            left // _CELL_PX : (left + side - 1) // _CELL_PX + 1,
        ] = True
    return wanted


def _meshes(
    frame: LocalFrame,
    window: tuple[int, int, int, int],
    metres_per_pixel: float,
    sheet: Sheet,
    wanted: BoolArray,
) -> list[_Mesh]:
    """The window's mesh in the sheet; two where the sheet goes round the Earth and its seam crosses the window."""
    left, top, width, height = window
    x = np.append(np.arange(0, width, _CELL_PX), width)
    y = np.append(np.arange(0, height, _CELL_PX), height)
    east, south = np.meshgrid((x + left) * metres_per_pixel, (y + top) * metres_per_pixel)
    lat, lon = frame.to_degrees(east, -south)
    return [_Mesh(x, y, column, row, wanted) for column, row in sheet.placements(lat, lon)]


def _warp(sheet: Sheet, mesh: _Mesh) -> _Warped | None:
    """The mesh's box as one sheet shows it and where it does (None: everywhere); None when it does nowhere."""
    crop = _crop(sheet, mesh)
    if crop is None:
        return None
    quads = mesh.quads(mesh.wanted, crop)
    image = crop.image.transform(mesh.size, Image.Transform.MESH, quads, Image.Resampling.BILINEAR)
    if crop.mask is not None:
        return _with_mask(image, Image.fromarray(crop.mask), quads)
    inside = mesh.inside(sheet) & mesh.wanted
    if inside.all():
        return image, None
    # The border of the sheet runs through few cells; the others are known without looking at pixels.
    white = Image.new("L", crop.image.size, 255)
    weight = white.transform(mesh.size, Image.Transform.MESH, mesh.quads(mesh.wanted & ~inside, crop))
    valid = np.asarray(weight) > 0
    known = inside.repeat(np.diff(mesh.y), axis=0).repeat(np.diff(mesh.x), axis=1)
    return (image, valid | known) if known.any() or valid.any() else None


def _span(corners: FloatArray, size: int, step: int) -> tuple[int, int]:
    """First and last pixel (exclusive) of a sheet that corners and the interpolation need, at multiples of `step`."""
    first = max(0, int(np.floor(corners.min())) - _MARGIN_PX) // step * step
    last = -(-(int(np.ceil(corners.max())) + _MARGIN_PX) // step) * step
    return first, min(size, last)


def _crop(sheet: Sheet, mesh: _Mesh) -> _Crop | None:
    """The part of the sheet that the mesh lies on, at no more than the wanted resolution; None: only holes."""
    scale = mesh.scale()
    reduce = max(1, int(scale))
    left, right = _span(mesh.column, sheet.width, reduce)
    top, bottom = _span(mesh.row, sheet.height, reduce)
    pixels, mask = read_window(sheet, left, top, right - left, bottom - top, reduce)
    if mask is not None:
        if not mask.any():
            return None
        pixels[mask == 0] = 0  # so that sums weighted by the mask are right
    image = Image.fromarray(pixels)
    if (right - left) / image.width * _REDUCE_FROM < scale:
        size = (max(1, round((right - left) / scale)), max(1, round((bottom - top) / scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))
    return _Crop(image, mask, left, top, (image.width / (right - left), image.height / (bottom - top)))


def _with_mask(image: Image.Image, mask: Image.Image, quads: _Quads) -> _Warped | None:
    """Colours along holes freed of the black beside them; a pixel counts when half of its weight is valid."""
    weight = np.asarray(mask.transform(image.size, Image.Transform.MESH, quads, Image.Resampling.BILINEAR))
    valid = weight >= 128
    if not valid.any():
        return None
    edge = valid & (weight < 255)
    if edge.any():
        pixels = np.array(image)
        restored = pixels[edge].astype(np.float32) * (255.0 / weight[edge].astype(np.float32))[:, None]
        pixels[edge] = np.minimum(np.rint(restored), 255).astype(np.uint8)
        image = Image.fromarray(pixels)
    return image, (None if valid.all() else valid)


def _under(
    canvas: Canvas | None,
    warped: _Warped,
    number: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
) -> Canvas:
    """Put a sheet's picture of a box below what is already there."""
    image, valid = warped
    if canvas is None:
        if valid is None and image.size == size:
            return Canvas(image, None, None, number)
        blank = Image.new("RGB", size, (NEUTRAL,) * 3)
        canvas = Canvas(blank, np.zeros(size[::-1], np.bool_), np.full(size[::-1], number, np.int16))
    assert canvas.valid is not None
    assert canvas.owner is not None
    left, top, right, bottom = box
    there = canvas.valid[top:bottom, left:right]
    new = ~there if valid is None else valid & ~there
    canvas.image.paste(image, (left, top), Image.fromarray(new.view(np.uint8) * np.uint8(255)))
    np.copyto(canvas.owner[top:bottom, left:right], np.int16(number), where=new)
    there |= new
    return Canvas(canvas.image, None if canvas.valid.all() else canvas.valid, canvas.owner)
