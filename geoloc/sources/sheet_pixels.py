"""Reading a window of a sheet: 8-bit RGB, and which of its pixels are ground."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError, RasterioIOError
from rasterio.windows import Window

from geoloc.core.arrays import AnyArray, BoolArray, IntArray, Pixels
from geoloc.core.errors import InputError
from geoloc.sources.sheet_file import open_sheet
from geoloc.sources.sheets import Scale, Sheet

_LARGEST_FLOAT32 = 3.4e38  # the most negative float32 is what ArcGIS writes where it has no data
_STRIP_PIXELS = 2**20  # pixels of the sheet that are averaged at once where GDAL cannot do it


def read_window(
    sheet: Sheet, column: int, row: int, width: int, height: int, reduce: int = 1
) -> tuple[Pixels, Pixels | None]:
    """A window of a sheet: RGB uint8[h, w, 3] and its mask uint8[h, w] (255 ground, 0 hole; None: all ground).

    `reduce` averages squares of that many pixels (overviews are used where the file has them); a window that
    begins at multiples of it is read fastest. Raises `InputError` when the file's data cannot be read.
    """
    window = Window(column, row, width, height)
    # Rounded down: GDAL takes an overview only for a reduction of at least the overview's own, and without one
    # averaging takes a hundred times as long.
    shape = (max(1, height // reduce), max(1, width // reduce))
    distinct = sorted(set(sheet.bands))
    try:
        with open_sheet(sheet.uri) as source:
            by_us = reduce > 1 and not sheet.palette and _holes_unknown_to_gdal(sheet, source)
            read = _averaged if by_us else _read
            raw, ground = read(source, sheet, distinct, window, shape)
            colours = source.colormap(sheet.bands[0]) if sheet.palette else None
    except (RasterioIOError, RasterioError, ValueError) as error:
        detail = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(
            f"{sheet.uri!r} cannot be read at column {column}, row {row}: {detail}; copy the sheet again.",
            reason="unreadable_imagery",
        ) from error
    if colours is not None:
        pixels, opaque = _from_palette(raw[..., 0], colours)
        ground = opaque if ground is None else ground & opaque
    else:
        pixels = _to_rgb(raw, [distinct.index(band) for band in sheet.bands], sheet.scale)
    if ground is None or ground.all():
        return pixels, None
    return pixels, ground.view(np.uint8) * np.uint8(255)


def _holes_unknown_to_gdal(sheet: Sheet, source: Any) -> bool:
    """Whether GDAL would average holes into the ground beside them, since only we know that they are holes."""
    floating = source.dtypes[sheet.bands[0] - 1].startswith("float")
    by_alpha = any(MaskFlags.alpha in source.mask_flag_enums[band - 1] for band in sheet.bands)
    other_alpha = sheet.alpha is None if by_alpha else sheet.alpha is not None and sheet.masked
    return sheet.nodata is not None or floating or other_alpha


def _read(
    source: Any, sheet: Sheet, bands: list[int], window: Window, shape: tuple[int, int]
) -> tuple[AnyArray, BoolArray | None]:
    """Raw values [h, w, bands] and where they are ground, bool[h, w] (None: everywhere), resampled by GDAL."""
    plain = shape == (window.height, window.width)
    how = Resampling.nearest if sheet.palette or plain else Resampling.average
    # Interleaved as pictures are: GDAL fills [h, w, bands] through this view of it.
    raw = np.empty((*shape, len(bands)), source.dtypes[bands[0] - 1])
    source.read(bands, window=window, out=raw.transpose(2, 0, 1), resampling=how)
    return raw, _ground(source, sheet, raw, bands, window)


def _ground(source: Any, sheet: Sheet, raw: AnyArray, bands: list[int], window: Window) -> BoolArray | None:
    """Which raw values [h, w, bands] show the ground, bool[h, w]; None: all."""
    shape = raw.shape[:2]
    parts: list[Any] = []
    if sheet.masked:
        # As GDAL has it for a whole sheet: a hole is where every band says so.
        parts.append(source.read_masks(bands, window=window, out_shape=(len(bands), *shape)).any(axis=0))
    if sheet.alpha is not None:
        parts.append(source.read(sheet.alpha, window=window, out_shape=shape) != 0)
    if raw.dtype.kind == "f":
        parts.append(_is_number(raw).all(axis=-1))
    if sheet.nodata is not None:
        parts.append(~_equal(raw, sheet.nodata).all(axis=-1))
    return np.logical_and.reduce(parts) if parts else None


def _is_number(raw: AnyArray) -> BoolArray:
    """Where raw floats [...] are finite and no float32 of the largest magnitude, which stands for a hole."""
    return np.abs(raw) < _LARGEST_FLOAT32


def _equal(raw: AnyArray, value: float) -> BoolArray:
    """Where raw values [...] are that value; in floats up to the rounding of a value that was typed."""
    if raw.dtype.kind == "f":
        return np.isclose(raw.astype(np.float64), value, rtol=1e-5, atol=0.0)
    return np.asarray(raw == value)


def _averaged(
    source: Any, sheet: Sheet, bands: list[int], window: Window, shape: tuple[int, int]
) -> tuple[AnyArray, BoolArray | None]:
    """As `_read`, but averaged over the ground alone, from the full resolution, strip by strip."""
    down, across = _edges(int(window.height), shape[0]), _edges(int(window.width), shape[1])
    sums = np.zeros((*shape, len(bands)))
    counts = np.zeros(shape)
    rows = max(1, int(_STRIP_PIXELS / window.width / (window.height / shape[0])))
    for first in range(0, shape[0], rows):
        last = min(shape[0], first + rows)
        top, bottom = int(down[first]), int(down[last])
        strip = Window(window.col_off, window.row_off + top, window.width, bottom - top)
        raw, ground = _read(source, sheet, bands, strip, (bottom - top, int(window.width)))
        weight = np.ones(raw.shape[:2]) if ground is None else ground.astype(np.float64)
        values = np.where(weight[..., None] > 0, raw, 0).astype(np.float64)
        starts = down[first:last] - top
        sums[first:last] = np.add.reduceat(np.add.reduceat(values, starts, axis=0), across[:-1], axis=1)
        counts[first:last] = np.add.reduceat(np.add.reduceat(weight, starts, axis=0), across[:-1], axis=1)
    mean = sums / np.maximum(counts, 1.0)[..., None]
    kind = np.dtype(source.dtypes[bands[0] - 1])
    return (mean if kind.kind == "f" else np.rint(mean)).astype(kind), counts > 0


def _edges(size: int, parts: int) -> IntArray:
    """Where `parts` nearly equal runs of `size` pixels begin, and the end: int64[parts + 1]."""
    return np.rint(np.linspace(0, size, parts + 1)).astype(np.int64)


def _from_palette(index: AnyArray, colours: dict[int, tuple[int, ...]]) -> tuple[Pixels, BoolArray]:
    """RGB uint8[h, w, 3] of palette numbers [h, w], and which are opaque, bool[h, w]."""
    table = np.zeros((max(colours, default=0) + 1, 4), np.uint8)
    for number, colour in colours.items():
        table[number] = (*colour[:3], colour[3] if len(colour) > 3 else 255)
    coloured = table[np.clip(index, 0, len(table) - 1)]
    return np.ascontiguousarray(coloured[..., :3]), coloured[..., 3] > 0


def _to_rgb(raw: AnyArray, order: list[int], scale: Scale | None) -> Pixels:
    """Raw values [h, w, bands] as RGB uint8[h, w, 3]; what is no finite number becomes black."""
    if scale is not None:
        black, white = scale
        with np.errstate(invalid="ignore", over="ignore"):
            stretched = (raw.astype(np.float32) - black) * (255.0 / (white - black))
        raw = np.clip(np.rint(np.nan_to_num(stretched)), 0, 255).astype(np.uint8)
    return raw if order == [0, 1, 2] else np.ascontiguousarray(raw[..., order])
