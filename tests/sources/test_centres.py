"""Lists of tile centres: bad rows, the order of the plan, and what a list of any length costs the driver."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from geoloc.core.geodesy import cells, distance_m
from geoloc.sources import centres as centres_module
from geoloc.sources import geotiff
from geoloc.sources.centres import read_centres
from geoloc.sources.grid import TileSpec
from geoloc.sources.sheet_checks import SheetReport
from geoloc.stages.imagery_plan import ImageryPlan
from tests.sources.sheet_files import centres_at

SPEC = TileSpec(64.0, 128, 64.0)
HELD_BYTES = 16


def test_centres_refuse_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "centres.csv"
    path.write_text("tile_id;lat;lon\na;1;2\na;3;4\n;1;2\nb;95;2\nc;;\nd;1,5;2\ne;-1;-2\n")
    centres = read_centres(str(path))
    assert centres.tile_ids.to_pylist() == ["a", "e"]
    assert centres.lat.tolist() == [1.0, -1.0]
    assert [(row.key, row.reason) for row in centres.refused] == [
        ("a", "duplicate_id"),
        ("row 3", "missing_id"),
        ("b", "latitude_out_of_range"),
        ("c", "missing_coordinate"),
        ("d", "bad_value"),
    ]
    assert centres.refused[len(centres.refused) - 1].detail.endswith("decimals take a point")


def test_the_plan_has_each_centre_once_along_the_curve_of_cells() -> None:
    rng = np.random.default_rng(5)
    lat = np.concatenate(
        [rng.uniform(58.99, 59.01, 60), rng.uniform(-89.9, 89.9, 40)]
    )  # dense, and everywhere
    lon = np.concatenate([rng.uniform(23.98, 24.02, 60), rng.uniform(-180, 180, 40)])
    ids = [f"t{number:03d}" for number in rng.permutation(100)]
    blocks = list(geotiff.plan_centres([], SPEC, centres_at(ids, lat, lon)))
    found = {}
    for block in blocks:
        at_lat, at_lon = block.centres(SPEC)
        found |= {tile.tile_id: place for tile, *place in zip(block.tiles, at_lat, at_lon, strict=True)}
    assert sum(len(block.tiles) for block in blocks) == 100
    assert sorted(found) == sorted(ids)
    moved = [distance_m(lat[row], lon[row], *found[name]) for row, name in enumerate(ids)]
    assert max(moved) <= 0.71 * SPEC.metres_per_pixel
    keys = [(int(cells(block.lat, block.lon)), block.tiles[0].tile_id) for block in blocks]
    assert keys == sorted(keys)


def test_a_centre_costs_the_driver_the_same_at_two_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(centres_module, "HELD_BYTES", 0)
    monkeypatch.setattr(geotiff, "HELD_BYTES", 0)
    plans = {}
    for count in (4_000, 12_000):
        rows = (f"t{k:09d},{(k % 100) * 3e-5:.6f},{(k // 100) * 3e-5:.6f}" for k in range(count))
        path = tmp_path / f"{count}.csv"
        path.write_text("tile_id,lat,lon\n" + "\n".join(rows) + "\n")
        plans[count] = ImageryPlan([], SPEC, SheetReport(0, ()), 0.5, 64, str(path))
    units = plans[12_000].units()  # what is kept of the map's grid is kept from here on
    tiles = [tile["tile_id"] for unit in units for block in unit["blocks"] for tile in block["tiles"]]
    assert len(set(tiles)) == len(tiles) == 12_000
    held = []
    for plan in plans.values():
        tracemalloc.start()
        units = plan.units()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert (held[1] - held[0]) / 8_000 < HELD_BYTES
