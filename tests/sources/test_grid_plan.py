"""The plan of a grid: a few bytes a block, whatever the number of tiles, and parts that are computed, not listed."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from geoloc.core import geodesy
from geoloc.runtime import table_job
from geoloc.sources import geotiff, grid
from geoloc.sources.geotiff import GridParts
from geoloc.sources.grid import TileSpec
from geoloc.sources.sheets import Sheet

SPEC = TileSpec(tile_m=64.0, tile_px=160, stride_m=32.0)


def sheet(side_m: float, east_m: float = 0.0) -> Sheet:
    """The header of a square sheet on UTM 35 N; no file."""
    pixels = int(side_m / 10)
    return Sheet(
        uri=f"sheet-{east_m:g}.tif",
        width=pixels,
        height=pixels,
        crs_wkt=CRS.from_epsg(32635).to_wkt(),
        to_world=(10.0, 0.0, 400_000.0 + east_m, 0.0, -10.0, 6_600_000.0),
        bands=(1, 2, 3),
        masked=False,
        palette=False,
        scale=None,
    )


def test_the_plan_of_ten_million_tiles_holds_less_than_a_byte_a_tile() -> None:
    """Of about one and of ten million tiles; what grows are the blocks' places and the sheets that they may show."""
    tiles, peaks = [], []
    for side_m in (31_000.0, 100_000.0):
        tracemalloc.start()
        plan = geotiff.plan_grid([sheet(5_000.0), sheet(side_m, 10.0)], SPEC)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        tiles.append(len(plan) * SPEC.per_side**2)
    assert tiles[0] > 9e5
    assert tiles[1] > 9.5e6
    assert (peaks[1] - peaks[0]) / (tiles[1] - tiles[0]) < 1.0
    assert peaks[1] < 32e6


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(1, 60), st.integers(1, 100))
def test_parts_are_those_of_a_plain_division(blocks: int, tiles: int, limit: int) -> None:
    """Strips of at most `limit` tiles, put together in order while they fit."""
    pieces = [
        (block, tuple(range(first, min(first + limit, tiles))))
        for block, first in itertools.product(range(blocks), range(0, tiles, limit))
    ]
    groups = table_job.split(pieces, lambda piece: len(piece[1]), limit)
    parts = GridParts(blocks, tiles, limit)
    assert len(parts) == len(groups)
    for index, group in enumerate(groups):
        chosen, strip = parts.part(index)
        assert [(block, tuple(strip)) for block in chosen] == group


@pytest.mark.parametrize("spec", [SPEC, TileSpec(40.0, 256, 40.0), TileSpec(600.0, 2100, 300.0)])
def test_blocks_are_all_that_meet_a_sheet_each_once_along_the_curve(spec: TileSpec) -> None:
    """Compared with every block of the lattice around, and with the frame of each block."""
    side_m = 4 * spec.block_m
    sheets = [sheet(side_m), sheet(side_m / 2, 0.8 * side_m)]
    plan = geotiff.plan_grid(sheets, spec)
    blocks = list(plan.blocks())
    places = list(zip(plan.band.tolist(), plan.column.tolist(), strict=True))
    assert len(set(places)) == len(places) == len(blocks)
    keys = [(int(geodesy.cells(block.lat, block.lon)), block.tiles[0].tile_id) for block in blocks]
    assert keys == sorted(keys)
    bands, columns = zip(*places, strict=True)
    for band in range(min(bands) - 1, max(bands) + 2):
        for column in range(min(columns) - 1, max(columns) + 2):
            block = grid.grid_block(band, column, spec)
            left, top, width, height = block.window(spec.tile_px)
            steps = np.linspace(0.0, 1.0, 5) * spec.metres_per_pixel
            east, south = np.meshgrid(
                left * spec.metres_per_pixel + steps * width, top * spec.metres_per_pixel + steps * height
            )
            lat, lon = block.frame.to_degrees(east, -south)
            meeting = tuple(number for number, each in enumerate(sheets) if each.placements(lat, lon))
            there = places.index((band, column)) if (band, column) in places else None
            assert (plan.sheets_of(there) if there is not None else ()) == meeting
            if there is not None:
                assert blocks[there].tiles == block.tiles
