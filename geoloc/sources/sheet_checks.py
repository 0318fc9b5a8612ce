"""What a user should know of sheets before tiles are cut: coarse, around a pole, overlapping, of unclear bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
import shapely.affinity
from rasterio.errors import RasterioError
from rasterio.windows import Window

from geoloc.core.arrays import AnyArray
from geoloc.core.errors import InputError
from geoloc.core.geodesy import distance_m
from geoloc.sources.grid import TileSpec
from geoloc.sources.sheet_file import open_sheet
from geoloc.sources.sheets import Sheet

_WARN_BELOW, _REFUSE_BELOW = 0.5, 0.1  # tile pixels per sheet pixel
_MOST_POLAR_M = 100_000.0
_POLAR_BLOCKS = 10  # nearer to the pole, blocks of the grid overlap, and north turns within a block
_OVERLAP_SHARE = 0.01  # of the smaller sheet; neighbours of one delivery share a few rows of pixels
_SAMPLED_SHEETS, _SAMPLE_PX = 16, 64
_PICTURE_SHARE = 0.1  # of an opacity's values that are neither 0 nor full


@dataclass(frozen=True)
class SheetReport:
    """How many sheets overlap another one, and sentences for the user."""

    overlapping: int
    notes: tuple[str, ...]


def check_sheets(sheets: Sequence[Sheet], spec: TileSpec, *, scaled: bool, order: str) -> SheetReport:
    """Look at accepted sheets together; `scaled` says whether a scale was given.

    Raises `InputError` for a sheet around a pole, and for one whose pixels are more than ten times as large as
    those of tiles.
    """
    notes = [*_resolution(sheets, spec), *_bands(sheets), *_opacity(sheets)]
    for sheet in sheets:
        _check_pole(sheet, spec)
    if scaled and all(sheet.palette or sheet.eight_bit for sheet in sheets):
        notes.append("the scale has no effect: all sheets have 8 bits, which are taken as they are")
    overlapping = count_overlapping(sheets)
    if overlapping:
        rule = "the first by name" if order == "name" else "the newest"
        notes.append(
            f"{overlapping:,} of {len(sheets):,} sheets overlap another one; where they do, {rule} is on top (order)"
        )
    return SheetReport(overlapping, tuple(notes))


def pixel_m(sheet: Sheet) -> float:
    """Ground size in metres of the longer side of the sheet's middle pixel."""
    column, row = sheet.width / 2 + np.array([0.0, 1.0, 0.0]), sheet.height / 2 + np.array([0.0, 0.0, 1.0])
    lat, lon = sheet.to_degrees(column, row)
    return float(distance_m(lat[[0, 0]], lon[[0, 0]], lat[1:], lon[1:]).max())


def _resolution(sheets: Sequence[Sheet], spec: TileSpec) -> list[str]:
    sizes = np.array([pixel_m(sheet) for sheet in sheets])
    ratios = spec.metres_per_pixel / sizes
    worst = int(np.argmin(ratios))
    name, size_m = sheets[worst].name, float(sizes[worst])
    if ratios[worst] < _REFUSE_BELOW:
        raise InputError(
            f"{sheets[worst].uri!r} has pixels of {size_m:.3g} m, but tiles have pixels of {spec.metres_per_pixel:.3g} "
            f"m: below {_REFUSE_BELOW:g} of a tile's detail there is nothing to match; leave the sheet out, or cut "
            f"tiles of larger pixels (tile_m, tile_px) for a model that was trained on such.",
            reason="too_coarse",
        )
    coarse = int(np.count_nonzero(ratios < 0.99 * _WARN_BELOW))
    if not coarse:
        return []
    return [
        f"{coarse:,} of {len(sheets):,} sheets are coarser than the tiles ({name}: {size_m:.3g} m a pixel, tiles "
        f"{spec.metres_per_pixel:.3g} m): tiles will be blurred, and photos are located less often"
    ]


def _check_pole(sheet: Sheet, spec: TileSpec) -> None:
    lat, lon = sheet.outline()
    around = abs(float(lon[-1] - lon[0])) > 180.0
    nearest_m = float(distance_m(np.abs(lat).max(), 0.0, 90.0, 0.0))
    limit_m = min(_MOST_POLAR_M, _POLAR_BLOCKS * spec.block_m)
    if around or nearest_m < limit_m:
        where = "lies around a pole" if around else f"comes within {nearest_m / 1000:,.1f} km of a pole"
        raise InputError(
            f"{sheet.uri!r} {where}, where a tile has no one north (limit {limit_m / 1000:,.1f} km); cut the sheet "
            "into parts beside the pole with `gdal_translate -srcwin`.",
            reason="pole",
        )


def _bands(sheets: Sequence[Sheet]) -> list[str]:
    unclear = [sheet for sheet in sheets if sheet.band_note]
    if not unclear:
        return []
    first = unclear[0]
    return [
        f"{len(unclear):,} of {len(sheets):,} sheets leave open which bands are red, green and blue "
        f"({first.name}: {first.band_note}); {' '.join(map(str, first.bands))} are taken, bands says otherwise"
    ]


def _opacity(sheets: Sequence[Sheet]) -> list[str]:
    """Words when a band that is tagged as opacity varies like a picture, or is 0 wherever one looks."""
    tagged = [sheet for sheet in sheets if sheet.alpha is not None]
    looked_at = tagged[:: max(1, len(tagged) // _SAMPLED_SHEETS)][:_SAMPLED_SHEETS]
    notes: dict[str, str] = {}
    for sheet in looked_at:
        kind, consequence = _unlike_opacity(_sampled_opacity(sheet))
        if kind:
            notes.setdefault(
                kind,
                f"{sheet.name}: band {sheet.alpha} is tagged as opacity (alpha) but {kind}; {consequence}. If it is no "
                f"opacity, untag it: `gdal_edit.py -colorinterp_{sheet.alpha} undefined {sheet.name}`",
            )
    return list(notes.values())


def _unlike_opacity(opacity: AnyArray) -> tuple[str, str]:
    """What speaks against values of an opacity, and what follows; empty where nothing does."""
    if opacity.size and not opacity.any():
        return "is 0 all over", "such ground is a hole, so that no tile shows it"
    full = float(np.iinfo(opacity.dtype).max) if opacity.dtype.kind in "iu" else 1.0
    between = (opacity != 0) & (opacity != full)
    several = len(np.unique(opacity[opacity != 0])) > 1
    if several and float(between.mean()) > _PICTURE_SHARE:
        return (
            "varies like a picture, as near infrared does",
            "only where it is 0 there is a hole, and colours are taken as they are",
        )
    return "", ""


def _sampled_opacity(sheet: Sheet) -> AnyArray:
    """Values of the opacity in a few windows of the sheet; none where its data is broken."""
    values = []
    try:
        with open_sheet(sheet.uri) as source:
            side = (min(_SAMPLE_PX, sheet.width), min(_SAMPLE_PX, sheet.height))
            for across, down in ((0.5, 0.5), (0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)):
                left, top = int((sheet.width - side[0]) * across), int((sheet.height - side[1]) * down)
                values.append(source.read(sheet.alpha, window=Window(left, top, *side)).ravel())
    except RasterioError:
        return np.zeros(0, np.uint8)  # broken data costs its tiles later, each with its reason
    return np.concatenate(values)


def count_overlapping(sheets: Sequence[Sheet]) -> int:
    """How many sheets share more than a hundredth of their ground with another one."""
    shapes = []
    for sheet in sheets:
        lat, lon = sheet.outline()
        shapes.append(shapely.make_valid(shapely.Polygon(np.stack([lon, lat], axis=1))))
    tree = shapely.STRtree(shapes)
    overlapping: set[int] = set()
    for turn_deg in (-360.0, 0.0, 360.0):  # outlines across 180 degrees may lie a turn apart
        moved = [shapely.affinity.translate(shape, xoff=turn_deg) for shape in shapes]
        for first, second in tree.query(moved, predicate="intersects").T.tolist():
            if first == second or {first, second} <= overlapping:
                continue
            shared = shapely.area(shapely.intersection(moved[first], shapes[second]))
            if shared > _OVERLAP_SHARE * min(shapely.area(shapes[first]), shapely.area(shapes[second])):
                overlapping |= {first, second}
    return len(overlapping)
