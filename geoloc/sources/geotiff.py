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
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
from PIL import Image

from geoloc.core import geodesy, schemas
from geoloc.core.arrays import BoolArray, FloatArray, Int32Array, IntArray
from geoloc.core.errors import InputError
from geoloc.core.geodesy import cells
from geoloc.core.scratch import scratch_array
from geoloc.sources import grid
from geoloc.sources.centres import HELD_BYTES, Centres
from geoloc.sources.grid import Block, TilePlace, TileSpec
from geoloc.sources.jpeg import encode_jpeg
from geoloc.sources.mosaic import Canvas, render
from geoloc.sources.quarantine import RefusedRow
from geoloc.sources.sheets import Sheet

Numbered = Sequence[Sheet] | Mapping[int, Sheet]
_ROWS_AT_ONCE = 65_536  # of centres
_PAIRS_AT_ONCE = 4096  # of a block and a sheet, while the plan is made
_DENSE = 0.1  # share of a block's picture that tiles must cover to be worth reading as one


@dataclass(frozen=True)
class CutTiles:
    """What cutting tiles gave: rows of the tiles table, refused tiles, and how many were left out as empty."""

    rows: pa.Table
    refused: list[RefusedRow]
    mostly_nodata: int


@dataclass(frozen=True)
class CutTile:
    """A tile as it was cut: its middle in WGS84 degrees, its RGB picture (north up), the sheets it shows."""

    tile_id: str
    lat: float
    lon: float
    image: Image.Image
    source: str


@dataclass
class LeftOut:
    """What cutting left out: refused tiles, and how many were left out as empty."""

    refused: list[RefusedRow] = field(default_factory=list)
    mostly_nodata: int = 0

    def add(self, tile_id: str, holes: float, limit: float, *, named: bool) -> None:
        """Note a tile with a share `holes` of hole; a tile of the grid without any ground is not counted."""
        if named:
            detail = f"{holes:.0%} of the tile is not covered by imagery (limit {limit:.0%})"
            self.refused.append(RefusedRow(tile_id, "outside_imagery", detail, "imagery"))
        elif holes < 1.0:
            self.mostly_nodata += 1


@dataclass(frozen=True)
class GridPlan:
    """All blocks of the regular grid that come near a sheet, along a space-filling curve, as arrays.

    band, column: int32[B], the place of each block. The sheets that may show block b are
    sheet_numbers[sheet_starts[b] : sheet_starts[b + 1]]. A block is expanded when it is needed (`blocks`): the plan
    takes about 20 bytes a block, whatever the number of its tiles.
    """

    spec: TileSpec
    band: Int32Array
    column: Int32Array
    sheet_starts: IntArray
    sheet_numbers: Int32Array

    def __len__(self) -> int:
        return len(self.band)

    def sheets_of(self, block: int) -> tuple[int, ...]:
        """Numbers of the sheets that may show a block, ascending."""
        first, last = self.sheet_starts[block : block + 2]
        return tuple(int(number) for number in self.sheet_numbers[first:last])

    def blocks(self) -> Iterator[Block]:
        """The blocks with their tiles, one after the other."""
        for index in range(len(self)):
            block = grid.grid_block(int(self.band[index]), int(self.column[index]), self.spec)
            yield replace(block, sheets=self.sheets_of(index))

    def part_ranges(self, limit: int) -> GridParts:
        """How the tiles are shared among parts of at most `limit` tiles."""
        return GridParts(len(self), self.spec.per_side**2, limit)


@dataclass(frozen=True)
class GridParts:
    """Parts of at most `limit` tiles of `blocks` blocks with `tiles` tiles each, computed and never listed.

    Whole blocks share a part where several fit into it; else a block has parts of its own, in strips from north to
    south.
    """

    blocks: int
    tiles: int
    limit: int

    def __len__(self) -> int:
        if self.tiles <= self.limit:
            return -(-self.blocks // (self.limit // self.tiles))
        return self.blocks * -(-self.tiles // self.limit)

    def part(self, index: int) -> tuple[range, range]:
        """The blocks of a part, and the tiles of each of them that belong to it."""
        if self.tiles <= self.limit:
            together = self.limit // self.tiles
            first = index * together
            return range(first, min(first + together, self.blocks)), range(self.tiles)
        block, strip = divmod(index, -(-self.tiles // self.limit))
        return range(block, block + 1), range(strip * self.limit, min((strip + 1) * self.limit, self.tiles))


def plan_grid(sheets: Sequence[Sheet], spec: TileSpec) -> GridPlan:
    """The blocks of the regular grid that come near a sheet, each with its sheets; no tile is listed."""
    margin_m = spec.tile_m / math.sqrt(2) + 1.0
    places: list[IntArray] = [np.empty(0, np.int64)]
    numbers: list[Int32Array] = [np.empty(0, np.int32)]
    for which, sheet in enumerate(sheets):
        touching = grid.blocks_touching(*sheet.outline(), spec.block_m, margin_m)
        keys = np.fromiter((band << 32 | column for band, column in touching), np.int64)
        places.append(keys)
        numbers.append(np.full(len(keys), which, np.int32))
    place, number = np.concatenate(places), np.concatenate(numbers)
    order = np.lexsort((number, place))
    place, number = place[order], number[order]
    meeting = _meeting(place, number, sheets, spec)
    place, number = place[meeting], number[meeting]
    keys, starts = np.unique(place, return_index=True)
    band, column = (keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32)
    along = _curve_order(band, column, spec)
    counts = np.diff(np.append(starts, len(place)))
    taken = np.concatenate(
        [np.arange(starts[b], starts[b] + counts[b]) for b in along] or [np.empty(0, np.int64)]
    )
    return GridPlan(
        spec,
        band[along],
        column[along],
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[along])]),
        number[taken.astype(np.int64)],
    )


def _meeting(place: IntArray, number: Int32Array, sheets: Sequence[Sheet], spec: TileSpec) -> BoolArray:
    """Which pairs of a block's place (ascending) and a sheet's number really overlap, bool[P]."""
    east, south = _window_mesh(
        grid.grid_block(0, 0, spec).window(spec.tile_px), spec
    )  # the same in every block
    out = np.zeros(len(place), np.bool_)
    for first in range(0, len(place), _PAIRS_AT_ONCE):
        keys, which = np.unique(place[first : first + _PAIRS_AT_ONCE], return_inverse=True)
        centres = _centres((keys >> 32).tolist(), (keys & 0xFFFFFFFF).tolist(), spec)
        lat, lon = geodesy.offset_degrees(centres[:, 0, None, None], centres[:, 1, None, None], east, -south)
        for pair, block in enumerate(which.tolist(), start=first):
            out[pair] = bool(sheets[number[pair]].placements(lat[block], lon[block]))
    return out


def _centres(band: Iterable[int], column: Iterable[int], spec: TileSpec) -> FloatArray:
    """Centres of blocks, float64[B, 2] in degrees."""
    centres = [grid.block_centre(b, c, spec.block_m) for b, c in zip(band, column, strict=True)]
    return np.array(centres, dtype=np.float64).reshape(-1, 2)


def _curve_order(band: Int32Array, column: Int32Array, spec: TileSpec) -> IntArray:
    """Order of blocks along the space-filling curve; blocks of one cell by the id of their first tile."""
    centres = _centres(band.tolist(), column.tolist(), spec)
    cell = cells(centres[:, 0], centres[:, 1])
    order = np.argsort(cell, kind="stable")
    ends = np.flatnonzero(np.diff(cell[order])) + 1
    side = spec.per_side
    for run in np.split(order, ends):
        if len(run) > 1:  # views: sorted in place
            first_ids = [f"{int(column[b]) * side}_{int(band[b]) * side + side - 1}" for b in run]
            run[:] = run[np.argsort(np.array(first_ids), kind="stable")]
    return order.astype(np.int64)


def plan_centres(sheets: Sequence[Sheet], spec: TileSpec, centres: Centres) -> Iterator[Block]:
    """Blocks of tiles around given centres, along the curve of cells.

    A block without sheets keeps its tiles, so that each can be refused by name. Memory: 12 bytes a centre, and the
    blocks of one cell.

    Convention: centres are WGS84 degrees; a tile's pixel position counts east and south from its block's middle.
    """
    spots = replace(spec, stride_m=spec.tile_m)  # the stride plays no part here: centres lie where they lie
    margin_m = spec.tile_m + 1.0
    touching: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, sheet in enumerate(sheets):
        for place in grid.blocks_touching(*sheet.outline(), spots.block_m, margin_m):
            touching[place].append(number)
    order, edges = _by_cell(centres, spots.block_m)
    for first, last in pairwise(edges):
        blocks: list[Block] = []
        for place, rows in _by_place(centres, order[first:last], spots.block_m).items():
            for group in _dense_groups(_block_of(centres, place, rows, spots), spec.tile_px):
                blocks += _with_sheets(group, sheets, touching.get(place, ()), spec) or [group]
        yield from sorted(blocks, key=lambda block: block.tiles[0].tile_id)


def _block_of(centres: Centres, place: tuple[int, int], rows: list[int], spots: TileSpec) -> Block:
    """The block at a place of the grid, with the tiles of some centres."""
    middle = grid.block_centre(*place, spots.block_m)
    block = Block(middle.lat, middle.lon, ())
    east, north = block.frame.to_metres(centres.lat[rows], centres.lon[rows])
    left = np.rint(east / spots.metres_per_pixel - spots.tile_px / 2).astype(int)
    top = np.rint(-north / spots.metres_per_pixel - spots.tile_px / 2).astype(int)
    ids = centres.ids_of(np.array(rows, np.int64))
    tiles = (TilePlace(name, int(x), int(y)) for name, x, y in zip(ids, left, top, strict=True))
    return replace(block, tiles=tuple(tiles))


def _place_of(lat: float, lon: float, block_m: float) -> tuple[int, int]:
    """Band and column of the grid's block that a point lies in."""
    band = grid.band_of(lat, block_m)
    return band, grid.column_of(lon, band, block_m)


def _by_place(centres: Centres, rows: IntArray, block_m: float) -> dict[tuple[int, int], list[int]]:
    """Some rows, by the place of their block: of one cell there may be several, beyond the mercator limit."""
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, lat, lon in zip(
        rows.tolist(), centres.lat[rows].tolist(), centres.lon[rows].tolist(), strict=True
    ):
        places[_place_of(lat, lon, block_m)].append(row)
    return places


def _by_cell(centres: Centres, block_m: float) -> tuple[IntArray, IntArray]:
    """(order int64[N], edges int64[E]): rows between two edges have blocks of one cell, cells follow their curve."""
    cell: IntArray = scratch_array((len(centres.lat),), np.int64, HELD_BYTES)

    @lru_cache(4096)
    def cell_of(band: int, column: int) -> int:
        return int(cells(*grid.block_centre(band, column, block_m)))

    for first in range(0, len(cell), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        points = zip(centres.lat[rows].tolist(), centres.lon[rows].tolist(), strict=True)
        cell[rows] = [cell_of(*_place_of(lat, lon, block_m)) for lat, lon in points]
    order = np.argsort(cell, kind="stable")
    edges, before = [np.zeros(1, np.int64)], None
    for first in range(0, len(order), _ROWS_AT_ONCE):
        here = np.asarray(cell[order[first : first + _ROWS_AT_ONCE]])
        changed = np.diff(here, prepend=here[0] if before is None else before)
        edges.append(np.flatnonzero(changed) + first)
        before = here[-1]
    return order, np.concatenate([*edges, [len(order)]])


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
    east, south = _window_mesh(block.window(spec.tile_px), spec)
    lat, lon = block.frame.to_degrees(east, -south)
    meeting = [number for number in numbers if sheets[number].placements(lat, lon)]
    return [replace(block, sheets=tuple(meeting))] if meeting else []


def _window_mesh(window: tuple[int, int, int, int], spec: TileSpec) -> tuple[FloatArray, FloatArray]:
    """(east_m, south_m) float64[5, 5] of points spread over a pixel window (left, top, width, height)."""
    left, top, width, height = window
    steps = np.linspace(0.0, 1.0, 5)
    east, south = np.meshgrid((left + steps * width), (top + steps * height))
    return east * spec.metres_per_pixel, south * spec.metres_per_pixel


def pieces(block: Block, limit: int) -> list[Block]:
    """The block in strips of at most `limit` tiles (rows of the grid, from north to south)."""
    starts = range(0, len(block.tiles), limit)
    return [replace(block, tiles=block.tiles[start : start + limit]) for start in starts]


def cut_blocks(
    blocks: Iterable[Block],
    sheets: Numbered,
    spec: TileSpec,
    *,
    max_nodata_share: float,
    jpeg_quality: int,
    named: bool,
) -> CutTiles:
    """Cut all tiles of some blocks into rows of the tiles table; settings as for `cut_tiles`."""
    left_out = LeftOut()
    tiles = cut_tiles(blocks, sheets, spec, left_out, max_nodata_share=max_nodata_share, named=named)
    rows = [_row(tile, spec, jpeg_quality) for tile in tiles]
    return CutTiles(_tiles_table(rows), left_out.refused, left_out.mostly_nodata)


def cut_tiles(
    blocks: Iterable[Block],
    sheets: Numbered,
    spec: TileSpec,
    left_out: LeftOut,
    *,
    max_nodata_share: float,
    named: bool,
) -> Iterator[CutTile]:
    """The tiles of some blocks, one after the other; `sheets` are numbered as the blocks number them.

    The imagery below a block is read and warped once, whatever the number of its tiles. What is not cut is added to
    `left_out`: a tile of which more than `max_nodata_share` is hole is counted; where tiles were asked for by name
    (`named`), it is refused as `outside_imagery`. Tiles on a sheet that cannot be read are refused as
    `unreadable_imagery`.
    """
    for block in blocks:
        for piece, canvas in _pictures(block, sheets, spec, left_out.refused):
            origin = piece.window(spec.tile_px)[:2]
            names = [sheets[number].name for number in piece.sheets]
            for tile, lat, lon in zip(piece.tiles, *piece.centres(spec), strict=True):
                square = (tile.left_px - origin[0], tile.top_px - origin[1], spec.tile_px)
                holes = 1.0 if canvas is None else canvas.holes(*square)
                if canvas is not None and holes <= max_nodata_share and holes < 1.0:
                    source = ";".join(names[number] for number in canvas.sources(*square))
                    yield CutTile(tile.tile_id, float(lat), float(lon), canvas.square(*square), source)
                else:
                    left_out.add(tile.tile_id, holes, max_nodata_share, named=named)


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


def _row(tile: CutTile, spec: TileSpec, jpeg_quality: int) -> dict[str, object]:
    return {
        "tile_id": tile.tile_id,
        "lat": tile.lat,
        "lon": tile.lon,
        "metres_per_pixel": spec.metres_per_pixel,
        "image": encode_jpeg(tile.image, jpeg_quality),
        "source": tile.source,
    }


def _tiles_table(rows: list[dict[str, object]]) -> pa.Table:
    names = ("tile_id", "lat", "lon", "metres_per_pixel", "image", "source")
    columns = {name: pa.array([row[name] for row in rows], schemas.TILES.field(name).type) for name in names}
    codes = cells(np.array([row["lat"] for row in rows]), np.array([row["lon"] for row in rows]))
    table = pa.table({**columns, "cell": pa.array(codes.astype(np.int64), pa.int64())})
    return schemas.with_geometry(schemas.conform(table, schemas.TILES))
