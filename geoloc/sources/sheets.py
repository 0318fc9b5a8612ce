"""GeoTIFF sheets: what a file must be to be used as imagery, and reading a window of it as 8-bit RGB."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.windows import Window

from geoloc.core import storage
from geoloc.core.arrays import FloatArray, Pixels
from geoloc.core.errors import ConfigError, InputError
from geoloc.sources.sheet_file import open_sheet

SUFFIXES = (".tif", ".tiff", ".gtiff", ".cog")
_OUTLINE_POINTS = 21


Scale = tuple[float, float]


@dataclass(frozen=True)
class Sheet:
    """What reading needs to know of a sheet; made by `find_sheets`, which refuses what cannot be used.

    Convention: `to_world` (a, b, c, d, e, f) takes a pixel position (column, row from the upper left corner)
    to a * column + b * row + c, d * column + e * row + f in the sheet's CRS, in its x, y order.
    """

    uri: str
    width: int
    height: int
    crs_wkt: str
    to_world: tuple[float, float, float, float, float, float]
    bands: tuple[int, ...]
    masked: bool
    palette: bool
    scale: Scale | None

    @property
    def name(self) -> str:
        """File name without its directory."""
        return self.uri.rsplit("/", 1)[-1]

    def to_pixels(self, lat: FloatArray, lon: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(column, row) of WGS84 points, elementwise; infinite where the sheet's CRS does not reach."""
        x, y = _from_wgs84(self.crs_wkt).transform(lon, lat)
        a, b, c, d, e, f = self.to_world
        determinant = a * e - b * d
        dx, dy = np.asarray(x) - c, np.asarray(y) - f
        return (e * dx - b * dy) / determinant, (a * dy - d * dx) / determinant

    def to_degrees(self, column: FloatArray, row: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(lat, lon) of pixel positions, elementwise."""
        a, b, c, d, e, f = self.to_world
        lon, lat = _from_wgs84(self.crs_wkt).transform(
            a * column + b * row + c, d * column + e * row + f, direction="INVERSE"
        )
        return np.asarray(lat), np.asarray(lon)

    def outline(self) -> tuple[FloatArray, FloatArray]:
        """(lat, lon), float64[P] each, of points along the sheet's border."""
        along = np.linspace(0.0, 1.0, _OUTLINE_POINTS)
        zero, one = np.zeros_like(along), np.ones_like(along)
        column = np.concatenate([along, one, along, zero]) * self.width
        row = np.concatenate([zero, along, one, along]) * self.height
        lat, lon = self.to_degrees(column, row)
        good = np.isfinite(lat) & np.isfinite(lon)
        if not good.any():
            raise InputError(f"{self.uri!r}: its CRS cannot place its border on Earth; check the transform.")
        return lat[good], lon[good]


@lru_cache(maxsize=32)
def _from_wgs84(crs_wkt: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs("EPSG:4326", pyproj.CRS.from_wkt(crs_wkt), always_xy=True)


def find_sheets(patterns: Sequence[str], scale: Scale | None = None) -> list[Sheet]:
    """The sheets that files, directories and globs name, sorted by URI, each looked at and accepted.

    `scale` (low, high) maps pixel values linearly to 0..255 and is required for sheets that are not 8-bit.
    Raises `ArtifactError` for a path that is not there and `InputError` for a file that cannot be used.
    """
    uris = {file.uri for pattern in patterns for file in storage.expand(pattern, suffixes=SUFFIXES)}
    if scale is not None and not scale[0] < scale[1]:
        raise ConfigError(
            f"scale is {scale[0]:g} {scale[1]:g}; give the darker value before the brighter one."
        )
    # Headers of remote sheets: waiting, not computing.
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=8) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused with our own sentence
        return list(pool.map(lambda uri: _open_sheet(uri, scale), sorted(uris)))


def _open_sheet(uri: str, scale: Scale | None) -> Sheet:
    if storage.size_bytes(uri) == 0:
        raise InputError(f"{uri!r} is empty (0 bytes); copy the sheet again.", reason="empty")
    with _explained(uri), open_sheet(uri) as source:
        _check_georeference(uri, source)
        bands, palette = _colour_bands(uri, source)
        _check_depth(uri, source, bands, scale)
        transform = source.transform
        masked = any(MaskFlags.all_valid not in source.mask_flag_enums[band - 1] for band in bands)
        return Sheet(
            uri=uri,
            width=source.width,
            height=source.height,
            crs_wkt=source.crs.to_wkt(),
            to_world=(transform.a, transform.b, transform.c, transform.d, transform.e, transform.f),
            bands=bands,
            masked=masked,
            palette=palette,
            scale=scale,
        )


def _check_georeference(uri: str, source: Any) -> None:
    if source.width < 1 or source.height < 1:
        raise InputError(f"{uri!r} has {source.width} x {source.height} pixels; it shows nothing.")
    if source.crs is None:
        raise InputError(
            f"{uri!r} has no coordinate reference system; set it with `gdal_edit.py -a_srs EPSG:<code>`.",
            reason="no_crs",
        )
    if source.transform.is_identity or abs(source.transform.determinant) == 0:
        hint = "it has only ground control points: warp it" if source.gcps[0] else "georeference it"
        raise InputError(
            f"{uri!r} has no geotransform, so its pixels have no place; {hint} with `gdalwarp` first.",
            reason="no_transform",
        )
    try:
        _from_wgs84(source.crs.to_wkt())
    except pyproj.exceptions.ProjError as error:
        raise InputError(
            f"{uri!r}: its coordinate reference system has no relation to WGS84; assign a geographic or "
            "projected one.",
            reason="no_crs",
        ) from error


def _colour_bands(uri: str, source: Any) -> tuple[tuple[int, ...], bool]:
    """Numbers of the bands that are red, green and blue (three times the same for grey); whether it has a palette."""
    kinds = list(source.colorinterp)
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(colour in kinds for colour in colours):
        return tuple(kinds.index(colour) + 1 for colour in colours), False
    plain = [index + 1 for index, kind in enumerate(kinds) if kind != ColorInterp.alpha]
    if len(plain) >= 3:
        return tuple(plain[:3]), False
    if len(plain) == 1:
        return (plain[0],) * 3, kinds[plain[0] - 1] == ColorInterp.palette
    raise InputError(
        f"{uri!r} has {len(plain)} colour bands; give one (grey) or at least three (red, green, blue).",
        reason="bands",
    )


def _check_depth(uri: str, source: Any, bands: tuple[int, ...], scale: Scale | None) -> None:
    kinds = {source.dtypes[band - 1] for band in bands}
    if kinds != {"uint8"} and scale is None:
        raise InputError(
            f"{uri!r} has {', '.join(sorted(kinds))} pixels, not 8 bits; state which values are black and white "
            "with scale, such as scale=(0, 3000).",
            reason="depth",
        )
    if any(kind.startswith("complex") for kind in kinds):
        raise InputError(f"{uri!r} has complex pixels, which show nothing; give an image.", reason="depth")


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except (RasterioError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(
            f"{uri!r} cannot be read as a GeoTIFF: {detail}; check the file.", reason="unreadable_imagery"
        ) from error


def read_window(
    sheet: Sheet, column: int, row: int, width: int, height: int, reduce: int = 1
) -> tuple[Pixels, Pixels | None]:
    """A window of a sheet: RGB uint8[h, w, 3] and its mask uint8[h, w] (255 valid, 0 hole; None: all valid).

    `reduce` averages squares of that many pixels (overviews are used where the file has them); a window that
    begins at multiples of it is read fastest. Raises `InputError` when the file's data cannot be read.
    """
    window = Window(column, row, width, height)
    # Rounded down: GDAL takes an overview only for a reduction of at least the overview's own, and without one
    # averaging takes a hundred times as long.
    shape = (max(1, height // reduce), max(1, width // reduce))
    how = Resampling.nearest if sheet.palette or reduce == 1 else Resampling.average
    distinct = sorted(set(sheet.bands))
    try:
        with open_sheet(sheet.uri) as source:
            # Interleaved as pictures are: GDAL fills [h, w, bands] through this view of it.
            raw = np.empty((*shape, len(distinct)), source.dtypes[distinct[0] - 1])
            source.read(distinct, window=window, out=raw.transpose(2, 0, 1), resampling=how)
            mask = source.dataset_mask(window=window, out_shape=shape) if sheet.masked else None
            lut = source.colormap(sheet.bands[0]) if sheet.palette else None
    except (RasterioIOError, RasterioError, ValueError) as error:
        detail = " ".join(str(error.__cause__ or error).split())[:200]
        raise InputError(
            f"{sheet.uri!r} cannot be read at column {column}, row {row}: {detail}; copy the sheet again.",
            reason="unreadable_imagery",
        ) from error
    colours = _to_rgb(raw, [distinct.index(band) for band in sheet.bands], sheet.scale, lut)
    return colours, (mask if mask is not None and not mask.all() else None)


def _to_rgb(
    raw: npt.NDArray[Any], order: list[int], scale: Scale | None, lut: dict[int, tuple[int, ...]] | None
) -> Pixels:
    """Raw values [h, w, bands] as RGB uint8[h, w, 3]."""
    if lut is not None:
        table = np.zeros((256, 3), np.uint8)
        for value, colour in lut.items():
            table[value] = colour[:3]
        coloured: Pixels = table[raw[..., 0]]
        return coloured
    if scale is not None:
        low, high = scale
        stretched = (raw.astype(np.float32) - low) * (255.0 / (high - low))
        raw = np.nan_to_num(np.clip(np.rint(stretched), 0, 255)).astype(np.uint8)
    return raw if order == [0, 1, 2] else np.ascontiguousarray(raw[..., order])
