"""GeoTIFF sheets: what a file must be to be used as imagery, and where its pixels lie."""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyproj
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geoloc.core import storage
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.file_selection import select
from geoloc.core.fingerprint import file_fingerprints
from geoloc.core.progress import say
from geoloc.sources.georeference import Affine, georeference, longitude_period, wgs84_transformer
from geoloc.sources.sheet_file import check_sheet_files, open_sheet

SUFFIXES = (".tif", ".tiff", ".gtiff", ".cog")
SIDE_SUFFIXES = (
    ".aux.xml",
    ".msk",
    ".ovr",
    ".aux",
    ".tfw",
    ".tifw",
    ".tiffw",
    ".wld",
    ".tab",
    ".rpb",
    ".imd",
)
PIXEL_SIDE_FILES = (".msk", ".msk.ovr", ".ovr")
_OUTLINE_POINTS = 21
_COLOUR_WORDS = {"red": "red", "r": "red", "green": "green", "g": "green", "blue": "blue", "b": "blue"}

Scale = tuple[float, float]
Bands = tuple[int, int, int]
Order = Literal["name", "time"]


@dataclass(frozen=True)
class Sheet:
    """What reading needs to know of a sheet; made by `find_sheets`, which refuses what cannot be used.

    `bands` are the numbers of red, green and blue (three times the same for grey). `scale` are the values that become
    0 and 255 (the first is larger in a negative); None: they are 0 and 255. A pixel is a hole in four cases:

    * its band `alpha` is 0;
    * the file's own mask says so (`masked`);
    * all its bands have the value `nodata`;
    * one of its bands is no finite number, or the most negative float32.

    Everything else is ground with the colours that the file has.

    Convention: `to_world` is (a, b, c, d, e, f). A pixel position is (column, row) from the upper left corner. It lies
    at x = a * column + b * row + c and y = d * column + e * row + f in the sheet's CRS.
    """

    uri: str
    width: int
    height: int
    crs_wkt: str
    to_world: Affine
    bands: Bands
    masked: bool
    palette: bool
    scale: Scale | None
    alpha: int | None = None
    nodata: float | None = None
    declared: str = ""  # what the header declares of holes and of the palette, in words, for the fingerprint
    dated: str | None = None  # TIFFTAG_DATETIME
    eight_bit: bool = True
    band_note: str = ""  # how red, green and blue were chosen, where the file does not say

    @property
    def name(self) -> str:
        """File name without its directory."""
        return self.uri.rsplit("/", 1)[-1]

    @property
    def meaning(self) -> dict[str, Any]:
        """Everything that reading takes from the sheet's header and side files, for a fingerprint."""
        return {name: value for name, value in asdict(self).items() if name not in ("uri", "band_note")}

    def placements(self, lat: FloatArray, lon: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
        """(column, row) [h, w] of a mesh of WGS84 points [h, w], for every turn around the Earth that meets the sheet.

        The mesh spans less than half of the Earth, and its columns are continuous. Nothing is returned where
        the sheet's CRS does not reach or the mesh lies beside the sheet; a sheet around the whole Earth meets a
        mesh across its seam twice.
        """
        x, y = self._world(lat, lon)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return []
        period = longitude_period(self.crs_wkt)
        turns = np.zeros(1)
        if period:
            start = x.flat[0]
            x = x + period * np.rint((start - x) / period)
            turns = np.rint((self._centre_x - start) / period) + np.arange(-1, 2)
        placed = [self._pixels(x + turn * period, y) for turn in turns]
        return [
            (column, row)
            for column, row in placed
            if column.max() > 0 and column.min() < self.width and row.max() > 0 and row.min() < self.height
        ]

    def _world(self, lat: FloatArray, lon: FloatArray) -> tuple[FloatArray, FloatArray]:
        x, y = wgs84_transformer(self.crs_wkt).transform(lon, lat)
        return np.asarray(x), np.asarray(y)

    def _pixels(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        a, b, c, d, e, f = self.to_world
        determinant = a * e - b * d
        dx, dy = x - c, y - f
        return (e * dx - b * dy) / determinant, (a * dy - d * dx) / determinant

    @property
    def _centre_x(self) -> float:
        a, b, c = self.to_world[:3]
        return a * self.width / 2 + b * self.height / 2 + c

    def to_degrees(self, column: FloatArray, row: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(lat, lon) of pixel positions, elementwise; lon in [-180, 180)."""
        a, b, c, d, e, f = self.to_world
        lon, lat = wgs84_transformer(self.crs_wkt).transform(
            a * column + b * row + c, d * column + e * row + f, direction="INVERSE"
        )
        return np.asarray(lat), (np.asarray(lon) + 180.0) % 360.0 - 180.0

    def outline(self) -> tuple[FloatArray, FloatArray]:
        """(lat[N], lon[N]) of points along the sheet's border, a ring from the upper left corner back to it.

        Longitudes are continuous along the ring, so those of a sheet across 180 degrees leave [-180, 180); when
        they do not come back to their start, the ring runs around a pole.
        """
        along = np.linspace(0.0, 1.0, _OUTLINE_POINTS)
        zero, one = np.zeros_like(along), np.ones_like(along)
        column = np.concatenate([along, one, 1.0 - along, zero]) * self.width
        row = np.concatenate([zero, along, one, 1.0 - along]) * self.height
        lat, lon = self.to_degrees(column, row)
        good = np.isfinite(lat) & np.isfinite(lon)
        if not good.any():
            raise InputError(
                f"{self.uri!r}: its CRS cannot place its border on Earth; check the transform, and whether its axes "
                "are swapped (x is the longitude or easting).",
                reason="bad_transform",
            )
        return lat[good], np.unwrap(lon[good], period=360.0)


def find_sheets(
    patterns: Sequence[str],
    scale: Scale | None = None,
    *,
    bands: Bands | None = None,
    nodata: float | None = None,
    order: Order = "name",
) -> list[Sheet]:
    """The sheets that files, directories and globs name, each looked at and accepted, the topmost first.

    `scale` (low, high) maps pixel values linearly to 0..255; sheets that are not 8-bit need it, 8-bit sheets are
    never scaled. `bands` are the numbers of red, green and blue in sheets with that many bands, `nodata` is a value
    that shows nothing, beside those that sheets declare. With the order `name` sheets are sorted by their URI,
    with `time` the newest comes first: by TIFFTAG_DATETIME, else by the file's time.
    Raises `ArtifactError` for a path that is not there and `InputError` for a file that cannot be used.
    """
    if scale is not None and not scale[0] < scale[1]:
        raise ConfigError(
            f"scale is {scale[0]:g} {scale[1]:g}; give the darker value before the brighter one."
        )
    if bands is not None and min(bands) < 1:
        raise ConfigError(f"bands are {' '.join(map(str, bands))}; they are numbered from 1.")
    chosen = [select(pattern, SUFFIXES, beside=SIDE_SUFFIXES) for pattern in patterns]
    uris = sorted({file.uri for selection in chosen for file in selection.files})
    for selection in chosen:
        if selection.left_out:
            say(f"imagery: {selection.left_out_words()}")
    # Headers of remote sheets: waiting, not computing.
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=8) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused with our own sentence
        sheets = list(pool.map(lambda uri: _look_at(uri, scale, bands, nodata), uris))
    return sheets if order == "name" else _newest_first(sheets)


def _newest_first(sheets: Sequence[Sheet]) -> list[Sheet]:
    """By date, the newest first; sheets of one date by URI."""
    dates = [sheet.dated or storage.modified(sheet.uri) for sheet in sheets]
    placed = sorted(zip(dates, sheets, strict=True), key=lambda pair: pair[0], reverse=True)
    return [sheet for _, sheet in placed]


def _look_at(uri: str, scale: Scale | None, bands: Bands | None, nodata: float | None) -> Sheet:
    if storage.size_bytes(uri) == 0:
        raise InputError(f"{uri!r} is empty (0 bytes); copy the sheet again.", reason="empty")
    with _explained(uri), open_sheet(uri, with_place=True) as source:
        check_sheet_files(uri, source)
        if source.width < 1 or source.height < 1:
            raise InputError(f"{uri!r} has {source.width} x {source.height} pixels; it shows nothing.")
        crs_wkt, to_world = georeference(uri, source)
        chosen, palette, note = _colour_bands(uri, source, bands)
        kinds = list(source.colorinterp)
        alpha = next((i + 1 for i, kind in enumerate(kinds) if kind == ColorInterp.alpha), None)
        flags = [source.mask_flag_enums[band - 1] for band in chosen]
        return Sheet(
            uri=uri,
            width=source.width,
            height=source.height,
            crs_wkt=crs_wkt,
            to_world=to_world,
            bands=chosen,
            masked=any(MaskFlags.all_valid not in flag and MaskFlags.alpha not in flag for flag in flags),
            palette=palette,
            scale=None if palette else _values(uri, source, chosen, scale),
            alpha=None if alpha in chosen else alpha,
            nodata=None if nodata is None or np.isnan(nodata) else float(nodata),
            eight_bit=all(source.dtypes[band - 1] == "uint8" for band in chosen),
            declared=_declared(source, chosen, palette),
            dated=_date(source.tags().get("TIFFTAG_DATETIME", "")),
            band_note=note,
        )


def _declared(source: Any, bands: Bands, palette: bool) -> str:
    values = [repr(source.nodatavals[band - 1]) for band in sorted(set(bands))]
    colours = repr(sorted(source.colormap(bands[0]).items())) if palette else ""
    digest = hashlib.sha256(colours.encode()).hexdigest()[:16] if colours else ""
    return f"nodata {', '.join(values)}; palette {digest or 'none'}"


def _date(tag: str) -> str | None:
    """A TIFF date `2024:05:31 12:00:00` as `2024-05-31 12:00:00`; None where there is none."""
    day, _, hour = tag.strip().partition(" ")
    parts = day.replace("-", ":").split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts) or int(parts[0]) == 0:
        return None
    return f"{'-'.join(parts)} {hour or '00:00:00'}"


def _colour_bands(uri: str, source: Any, wanted: Bands | None) -> tuple[Bands, bool, str]:
    """Numbers of the bands that are red, green and blue, whether it is a palette, and how they were chosen."""
    kinds = list(source.colorinterp)
    plain = [index + 1 for index, kind in enumerate(kinds) if kind != ColorInterp.alpha]
    if wanted is not None and len(kinds) >= max(wanted):
        return wanted, len(set(wanted)) == 1 and kinds[wanted[0] - 1] == ColorInterp.palette, ""
    if len(plain) == 1:
        return (plain[0],) * 3, kinds[plain[0] - 1] == ColorInterp.palette, ""
    if wanted is not None:
        raise InputError(
            f"{uri!r} has {len(kinds)} bands, but bands are {' '.join(map(str, wanted))}; name bands that it has.",
            reason="bands",
        )
    tagged = {kind.name: index + 1 for index, kind in reversed(list(enumerate(kinds)))}
    words = [_COLOUR_WORDS.get((text or "").strip().lower(), "") for text in source.descriptions]
    named = {word: index + 1 for index, word in reversed(list(enumerate(words))) if word}
    for labels in (tagged, named):
        if all(colour in labels for colour in ("red", "green", "blue")):
            chosen = (labels["red"], labels["green"], labels["blue"])
            other = tuple(named.get(colour, 0) for colour in ("red", "green", "blue"))
            clash = labels is tagged and all(other) and other != chosen
            return chosen, False, f"tags say {_numbers(chosen)}, names {_numbers(other)}" if clash else ""
    if len(plain) >= 3:
        note = "the file does not say which is which" if len(plain) > 3 else ""
        return (plain[0], plain[1], plain[2]), False, note
    opacity = [str(index + 1) for index, kind in enumerate(kinds) if kind == ColorInterp.alpha]
    tagged_words = f" (band {', '.join(opacity)} is tagged as opacity)" if opacity else ""
    raise InputError(
        f"{uri!r} has {len(plain)} colour bands{tagged_words}; give one (grey) or at least three (red, green, blue), "
        "or name the bands with bands, such as bands 1 1 1.",
        reason="bands",
    )


def _numbers(bands: Sequence[int]) -> str:
    return " ".join(map(str, bands))


def _values(uri: str, source: Any, bands: Bands, scale: Scale | None) -> Scale | None:
    """The values that become 0 and 255; `InputError` when they have to be given and are not."""
    kinds = {source.dtypes[band - 1] for band in bands}
    if any(kind.startswith("complex") for kind in kinds):
        raise InputError(f"{uri!r} has complex pixels, which show nothing; give an image.", reason="depth")
    values: Scale | None = scale
    if kinds == {"uint8"}:
        bits = int(source.tags(bands[0], ns="IMAGE_STRUCTURE").get("NBITS", 8))
        values = None if bits == 8 else (0.0, 2.0**bits - 1.0)
    elif scale is None:
        raise InputError(
            f"{uri!r} has {', '.join(sorted(kinds))} pixels, not 8 bits; state which values are black and white "
            "with scale, such as scale=(0, 3000).",
            reason="depth",
        )
    if source.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES":
        low, high = values or (0.0, 255.0)
        return high, low
    return values


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except (RasterioError, pyproj.exceptions.ProjError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(
            f"{uri!r} cannot be read as a GeoTIFF: {detail}; check the file.", reason="unreadable_imagery"
        ) from error


def sheet_identities(sheets: Sequence[Sheet]) -> list[object]:
    """What identifies each sheet for a fingerprint: its name, its bytes, and what its header and side files mean.

    Masks and overviews beside a sheet count by their bytes. Other side files count by what GDAL takes from them:
    programs write statistics into `.aux.xml` while they look at a sheet.
    """
    folders = sorted({sheet.uri.rpartition("/")[0] for sheet in sheets})
    there = {file.uri for folder in folders for file in storage.list_files(folder, recursive=False)}
    pixels = [
        [sheet.uri, *(sheet.uri + end for end in PIXEL_SIDE_FILES if sheet.uri + end in there)]
        for sheet in sheets
    ]
    tags = dict(zip(flat := [uri for group in pixels for uri in group], file_fingerprints(flat), strict=True))
    return [
        [sheet.name, sheet.meaning, [tags[uri] for uri in group]]
        for sheet, group in zip(sheets, pixels, strict=True)
    ]


def sheet_from(fields: Mapping[str, Any]) -> Sheet:
    """A sheet from its fields as JSON gives them back (lists where there were tuples)."""
    tuples = {name: tuple(value) for name, value in fields.items() if isinstance(value, list | tuple)}
    return Sheet(**{**fields, **tuples})
