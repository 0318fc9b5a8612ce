"""Tiles from GeoTIFF imagery: a regular grid over all sheets, or one tile around each of given centres.

Planning needs the sheets' headers alone and is deterministic; cutting one block of neighbouring tiles needs
memory for a picture of about 2,000 x 2,000 pixels and the part of the sheets below it (about 60 MB).
A tile is north up and square in metres; its lat, lon are those of its own middle. Around given centres that is
the pixel grid's nearest position, at most 0.71 pixel away from the centre asked for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from geoloc.core import schemas
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError
from geoloc.core.geodesy import cells
from geoloc.sources import grid
from geoloc.sources.grid import Block, TilePlace, TileSpec
from geoloc.sources.jpeg import encode_jpeg
from geoloc.sources.mosaic import Canvas, render
from geoloc.sources.quarantine import RefusedRow
from geoloc.sources.sheets import Sheet

Numbered = Sequence[Sheet] | Mapping[int, Sheet]
_DENSE = 0.1  # share of a block's picture that tiles must cover to be worth reading as one


@dataclass(frozen=True)
class CutTiles:
    """What cutting tiles gave: rows of the tiles table, refused tiles, and how many were left out as empty."""

    rows: pa.Table
    refused: list[RefusedRow]
    mostly_nodata: int


def plan_grid(sheets: Sequence[Sheet], spec: TileSpec) -> list[Block]:
    """Blocks of the regular grid that come near a sheet, along a space-filling curve, each with its sheets."""
    touching: dict[tuple[int, int], list[int]] = defaultdict(list)
    margin_m = spec.tile_m / math.sqrt(2) + 1.0
    for number, sheet in enumerate(sheets):
        lat, lon = sheet.outline()
        for place in grid.blocks_touching(lat, lon, spec.block_m, margin_m):
            touching[place].append(number)
    blocks = []
    for (band, column), numbers in touching.items():
        block = grid.grid_block(band, column, spec)
        blocks += _with_sheets(block, sheets, numbers, spec)
    return _along_curve(blocks)


def plan_centres(
    sheets: Sequence[Sheet], spec: TileSpec, tile_ids: Sequence[str], lat: FloatArray, lon: FloatArray
) -> list[Block]:
    """Blocks of tiles around given centres: WGS84 degrees [N], checked by the caller.

    A block without sheets keeps its tiles, so that each can be refused by name.
    """
    spots = replace(spec, stride_m=spec.tile_m)  # the stride plays no part here: centres lie where they lie
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in range(len(tile_ids)):
        band = grid.band_of(float(lat[index]), spots.block_m)
        members[band, grid.column_of(float(lon[index]), band, spots.block_m)].append(index)
    outlines = [sheet.outline() for sheet in sheets]
    margin_m = spec.tile_m + 1.0
    touching: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, outline in enumerate(outlines):
        for place in grid.blocks_touching(*outline, spots.block_m, margin_m):
            touching[place].append(number)
    blocks = []
    for place, indices in members.items():
        centre = grid.block_centre(*place, spots.block_m)
        block = Block(centre.lat, centre.lon, ())
        east, north = block.frame.to_metres(lat[indices], lon[indices])
        left = np.rint(east / spec.metres_per_pixel - spec.tile_px / 2).astype(int)
        top = np.rint(-north / spec.metres_per_pixel - spec.tile_px / 2).astype(int)
        tiles = tuple(
            TilePlace(tile_ids[index], int(x), int(y)) for index, x, y in zip(indices, left, top, strict=True)
        )
        for group in _dense_groups(replace(block, tiles=tiles), spec.tile_px):
            blocks += _with_sheets(group, sheets, touching[place], spec) or [group]
    return _along_curve(blocks)


def _dense_groups(block: Block, tile_px: int) -> list[Block]:
    """The block itself when its tiles cover its picture well, else one block per tile."""
    _, _, width, height = block.window(tile_px)
    if len(block.tiles) * tile_px**2 >= _DENSE * width * height:
        return [block]
    return [replace(block, tiles=(tile,)) for tile in block.tiles]


def _with_sheets(
    block: Block, sheets: Sequence[Sheet], numbers: Iterable[int], spec: TileSpec
) -> list[Block]:
    """The block with those sheets that its picture really overlaps; nothing when there is none."""
    left, top, width, height = block.window(spec.tile_px)
    steps = np.linspace(0.0, 1.0, 5)
    east, south = np.meshgrid((left + steps * width), (top + steps * height))
    lat, lon = block.frame.to_degrees(east * spec.metres_per_pixel, -south * spec.metres_per_pixel)
    meeting = [number for number in numbers if sheets[number].placements(lat, lon)]
    return [replace(block, sheets=tuple(meeting))] if meeting else []


def pieces(block: Block, limit: int) -> list[Block]:
    """The block in strips of at most `limit` tiles (rows of the grid, from north to south)."""
    starts = range(0, len(block.tiles), limit)
    return [replace(block, tiles=block.tiles[start : start + limit]) for start in starts]


def _along_curve(blocks: list[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: (int(cells(block.lat, block.lon)), block.tiles[0].tile_id))


def cut_blocks(
    blocks: Iterable[Block],
    sheets: Numbered,
    spec: TileSpec,
    *,
    max_nodata_share: float,
    jpeg_quality: int,
    named: bool,
) -> CutTiles:
    """Cut all tiles of some blocks; `sheets` are numbered as the blocks number them.

    A tile of which more than `max_nodata_share` is hole is left out and counted; where tiles were asked for by
    name (`named`), it is refused as `outside_imagery`. Tiles on a sheet that cannot be read are refused as
    `unreadable_imagery`.
    """
    rows: list[dict[str, object]] = []
    refused: list[RefusedRow] = []
    empty = 0
    for block in blocks:
        for piece, canvas in _pictures(block, sheets, spec, refused):
            origin = piece.window(spec.tile_px)[:2]
            names = [sheets[number].name for number in piece.sheets]
            for tile, lat, lon in zip(piece.tiles, *piece.centres(spec), strict=True):
                square = (tile.left_px - origin[0], tile.top_px - origin[1], spec.tile_px)
                holes = 1.0 if canvas is None else canvas.holes(*square)
                if canvas is not None and holes <= max_nodata_share and holes < 1.0:
                    place = {"lat": float(lat), "lon": float(lon), "metres_per_pixel": spec.metres_per_pixel}
                    rows.append(_row(tile, canvas, square, names, jpeg_quality) | place)
                elif named:
                    detail = (
                        f"{holes:.0%} of the tile is not covered by imagery (limit {max_nodata_share:.0%})"
                    )
                    refused.append(RefusedRow(tile.tile_id, "outside_imagery", detail, "imagery"))
                elif holes < 1.0:
                    empty += 1
    return CutTiles(_tiles_table(rows), refused, empty)


def _pictures(
    block: Block, sheets: Numbered, spec: TileSpec, refused: list[RefusedRow]
) -> Iterator[tuple[Block, Canvas | None]]:
    """The block's picture; when a sheet cannot be read, that of each tile by itself, to lose no more than needed."""
    chosen = [sheets[number] for number in block.sheets]
    try:
        window = block.window(spec.tile_px)
        squares = [(tile.left_px - window[0], tile.top_px - window[1], spec.tile_px) for tile in block.tiles]
        yield block, render(block.frame, window, spec.metres_per_pixel, chosen, squares)
    except InputError as error:
        if len(block.tiles) == 1:
            refused.append(RefusedRow(block.tiles[0].tile_id, error.reason, str(error), "imagery"))
            return
        for tile in block.tiles:
            yield from _pictures(replace(block, tiles=(tile,)), sheets, spec, refused)


def _row(
    tile: TilePlace, canvas: Canvas, square: tuple[int, int, int], names: Sequence[str], quality: int
) -> dict[str, object]:
    return {
        "tile_id": tile.tile_id,
        "image": encode_jpeg(canvas.square(*square), quality),
        "source": ";".join(names[number] for number in canvas.sources(*square)),
    }


def _tiles_table(rows: list[dict[str, object]]) -> pa.Table:
    names = ("tile_id", "lat", "lon", "metres_per_pixel", "image", "source")
    columns = {name: pa.array([row[name] for row in rows], schemas.TILES.field(name).type) for name in names}
    codes = cells(np.array([row["lat"] for row in rows]), np.array([row["lon"] for row in rows]))
    table = pa.table({**columns, "cell": pa.array(codes.astype(np.int64), pa.int64())})
    return schemas.with_geometry(schemas.conform(table, schemas.TILES))
