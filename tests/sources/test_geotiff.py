from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyproj import Transformer

from geoloc.core.errors import ConfigError, GeolocError, InputError
from geoloc.core.geodesy import LatLon, LocalFrame, distance_m, heading_deg
from geoloc.sources import geotiff, grid
from geoloc.sources.grid import Block, TilePlace, TileSpec
from geoloc.sources.mosaic import NEUTRAL, render
from geoloc.sources.sheet_pixels import read_window
from geoloc.sources.sheets import find_sheets
from tests.sources.sheet_files import centres_at, painted, sheet_around, smooth, write_sheet

SPEC = TileSpec(tile_m=32.0, tile_px=64, stride_m=16.0)


def pixels(cut: geotiff.CutTiles) -> dict[str, np.ndarray]:
    return {
        row["tile_id"]: np.asarray(Image.open(io.BytesIO(row["image"]))).astype(float)
        for row in cut.rows.to_pylist()
    }


def cut_all(paths: list[str], spec: TileSpec = SPEC, *, max_nodata_share: float = 0.5) -> geotiff.CutTiles:
    sheets = find_sheets(paths)
    blocks = geotiff.plan_grid(sheets, spec).blocks()
    return geotiff.cut_blocks(
        blocks, sheets, spec, max_nodata_share=max_nodata_share, jpeg_quality=100, named=False
    )


def expected(lat: float, lon: float, spec: TileSpec) -> np.ndarray:
    """What a tile must show: the painter at the true positions of its pixels, north up, [H, W, 3]."""
    steps = (np.arange(spec.tile_px) + 0.5 - spec.tile_px / 2) * spec.metres_per_pixel
    east, south = np.meshgrid(steps, steps)
    at_lat, at_lon = LocalFrame(LatLon(lat, lon)).to_degrees(east, -south)
    return np.moveaxis(smooth(at_lat, at_lon), 0, -1)


@pytest.mark.parametrize(
    ("crs", "lat", "lon", "turn"),
    [
        ("EPSG:32635", 59.0, 24.02, 0.0),  # 3 degrees from the zone's meridian: north is 2.6 degrees off
        ("EPSG:3301", 59.0, 24.0, 0.0),
        ("EPSG:4326", 59.0, 24.0, 0.0),
        ("EPSG:3857", 59.0, 24.0, 0.0),  # twice the true size at this latitude
        ("EPSG:32635", 59.0, 24.0, 30.0),
    ],
)
def test_tiles_show_the_true_ground_north_up_from_any_crs(
    tmp_path: Path, crs: str, lat: float, lon: float, turn: float
) -> None:
    transform, size = sheet_around(lat, lon, crs, 160.0, 0.5, turn_deg=turn)
    path = painted(tmp_path / "a.tif", smooth, transform, size, crs)
    cut = cut_all([path], max_nodata_share=0.0)
    assert cut.rows.num_rows >= 20
    for row in cut.rows.to_pylist():
        shown = np.asarray(Image.open(io.BytesIO(row["image"]))).astype(float)
        difference = np.abs(shown - expected(row["lat"], row["lon"], SPEC))
        assert difference.mean() < 2.5
        # Moved by one pixel the difference would be several times as large.
        assert difference.mean() < 0.4 * np.abs(np.roll(shown, 1, axis=1) - shown).mean()


def test_a_line_to_true_north_is_vertical_in_the_tile(tmp_path: Path) -> None:
    crs, lat, lon = "EPSG:32635", 59.0, 24.0
    frame = LocalFrame(LatLon(lat, lon))

    def line(at_lat: np.ndarray, at_lon: np.ndarray) -> np.ndarray:
        east, _ = frame.to_metres(at_lat, at_lon)
        return np.broadcast_to(np.where(np.abs(east) < 1.0, 255.0, 20.0), (3, *east.shape))

    transform, size = sheet_around(lat, lon, crs, 200.0, 0.25)
    sheets = find_sheets([painted(tmp_path / "a.tif", line, transform, size, crs)])
    with rasterio.open(tmp_path / "a.tif") as sheet:
        raw = sheet.read(1)
    spec = TileSpec(128.0, 512, 64.0)
    blocks = geotiff.plan_centres(sheets, spec, centres_at(["t"], [lat], [lon]))
    cut = geotiff.cut_blocks(blocks, sheets, spec, max_nodata_share=0, jpeg_quality=95, named=True)
    tile = pixels(cut)["t"][..., 0]
    columns = [float(np.average(np.arange(512), weights=row - 20 + 1e-9)) for row in np.clip(tile, 20, 255)]
    assert np.ptp(columns) < 1.0
    lean = [int(np.argmax(row)) for row in (raw[150], raw[-150])]
    assert abs(lean[0] - lean[1]) > 10  # the sheet itself leans, or the test would show nothing


def test_a_tile_equals_a_plain_read_where_no_warping_is_needed(tmp_path: Path) -> None:
    centre = LatLon(59.0, 24.0)
    crs = f"+proj=aeqd +lat_0={centre.lat} +lon_0={centre.lon} +datum=WGS84 +units=m"
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (3, 200, 200), dtype=np.uint8)
    path = write_sheet(tmp_path / "a.tif", image, Affine(0.5, 0, -50, 0, -0.5, 50), crs)
    canvas = render(LocalFrame(centre), (-60, -40, 100, 90), 0.5, find_sheets([path]))
    assert canvas is not None
    with rasterio.open(path) as sheet:
        plain = sheet.read(window=((60, 150), (40, 140)))
    assert np.abs(np.asarray(canvas.image).astype(int) - np.moveaxis(plain, 0, -1)).max() <= 1
    assert canvas.valid is None


def test_centres_are_where_the_row_says(tmp_path: Path) -> None:
    transform, size = sheet_around(59.0, 24.0, "EPSG:3301", 300.0, 1.0)
    sheets = find_sheets([painted(tmp_path / "a.tif", smooth, transform, size, "EPSG:3301")])
    lat, lon = np.array([59.0, 59.0004, 58.9996]), np.array([24.0, 24.0008, 23.9991])
    blocks = geotiff.plan_centres(sheets, SPEC, centres_at(["a", "b", "c"], lat, lon))
    cut = geotiff.cut_blocks(blocks, sheets, SPEC, max_nodata_share=0.5, jpeg_quality=92, named=True)
    rows = {row["tile_id"]: row for row in cut.rows.to_pylist()}
    assert sorted(rows) == ["a", "b", "c"]
    for index, name in enumerate("abc"):
        moved = distance_m(rows[name]["lat"], rows[name]["lon"], lat[index], lon[index])
        assert moved <= 0.71 * SPEC.metres_per_pixel
        shown = np.asarray(Image.open(io.BytesIO(rows[name]["image"]))).astype(float)
        assert np.abs(shown - expected(rows[name]["lat"], rows[name]["lon"], SPEC)).mean() < 6


def test_grid_covers_the_sheets_once_with_the_stride(tmp_path: Path) -> None:
    paths = []
    for index, lon in enumerate((24.0, 24.003)):
        transform, size = sheet_around(59.0, lon, "EPSG:3301", 170.0, 0.5)
        paths.append(painted(tmp_path / f"{index}.tif", smooth, transform, size, "EPSG:3301"))
    cut = cut_all(paths, max_nodata_share=0.0)
    ids = cut.rows["tile_id"].to_pylist()
    assert len(ids) == len(set(ids))
    lat, lon = cut.rows["lat"].to_numpy(), cut.rows["lon"].to_numpy()
    apart = distance_m(lat[:, None], lon[:, None], lat[None], lon[None]) + 1e9 * np.eye(len(ids))
    assert abs(np.median(apart.min(axis=1)) - SPEC.stride_m) < 0.6
    # Any place of the first sheet that a whole tile fits around has a tile within half a stride's diagonal.
    reach = distance_m(59.0, 24.0, lat, lon).min()
    assert reach <= SPEC.stride_m / np.sqrt(2) + 1.0
    again = cut_all(list(reversed(paths)), max_nodata_share=0.0)
    assert again.rows.equals(cut.rows)
    alone = cut_all(paths[:1], max_nodata_share=0.0)
    assert set(alone.rows["tile_id"].to_pylist()) <= set(ids)


def test_sheets_are_mosaicked_first_valid_wins(tmp_path: Path) -> None:
    transform, (width, height) = sheet_around(59.0, 24.0, "EPSG:3301", 200.0, 0.5)
    half = width // 2
    left = np.full((3, height, half + 20), 60, np.uint8)
    right = np.full((3, height, width - half), 200, np.uint8)
    paths = [
        write_sheet(tmp_path / "a.tif", left, transform, "EPSG:3301"),
        write_sheet(tmp_path / "b.tif", right, transform @ Affine.translation(half, 0), "EPSG:3301"),
    ]
    cut = cut_all(paths, max_nodata_share=0.0)
    both = [row for row in cut.rows.to_pylist() if row["source"] == "a.tif;b.tif"]
    assert both
    assert {row["source"] for row in cut.rows.to_pylist()} == {"a.tif", "b.tif", "a.tif;b.tif"}
    tile = np.asarray(Image.open(io.BytesIO(both[0]["image"])))[..., 0].astype(int)
    middle = tile[32]
    assert middle[0] == 60
    assert middle[-1] == 200
    # Nothing dark between the sheets, and the overlap belongs to the first.
    assert middle.min() >= 58
    assert ((middle > 65) & (middle < 195)).sum() <= 2


@pytest.mark.parametrize("kind", ["mask", "alpha", "nodata"])
def test_holes_are_honoured_filled_and_limited(tmp_path: Path, kind: str) -> None:
    transform, (width, height) = sheet_around(59.0, 24.0, "EPSG:3301", 160.0, 0.5)
    image = np.full((3, height, width), 220, np.uint8)
    hole = np.zeros((height, width), bool)
    hole[:, : width // 2] = True
    if kind == "nodata":
        image[:, hole] = 0
        path = write_sheet(tmp_path / "a.tif", image, transform, "EPSG:3301", nodata=0)
    elif kind == "mask":
        path = write_sheet(tmp_path / "a.tif", image, transform, "EPSG:3301", mask=~hole)
    else:
        image[:, hole] = 3
        bands = np.concatenate([image, np.where(hole, 0, 255).astype(np.uint8)[None]])
        path = write_sheet(tmp_path / "a.tif", bands, transform, "EPSG:3301", photometric="RGB", alpha="yes")
    some = cut_all([path], max_nodata_share=0.5)
    none = cut_all([path], max_nodata_share=0.0)
    assert none.rows.num_rows < some.rows.num_rows
    assert none.mostly_nodata > some.mostly_nodata > 0
    assert all((np.abs(tile - 220) <= 1).all() for tile in pixels(none).values())
    for tile in pixels(some).values():
        values = np.unique(np.round(tile[2:-2:9, :, 0]))
        # Ground and the neutral value, and the JPEG's ringing between them: never the black under the hole.
        assert values.min() >= NEUTRAL - 25


def test_coarser_tiles_average_instead_of_aliasing(tmp_path: Path) -> None:
    transform, (width, height) = sheet_around(59.0, 24.0, "EPSG:3301", 256.0, 0.25)
    checker = (np.indices((height, width)).sum(axis=0) % 2 * 255).astype(np.uint8)
    path = write_sheet(tmp_path / "a.tif", np.stack([checker] * 3), transform, "EPSG:3301")
    for tile in pixels(cut_all([path], TileSpec(64.0, 64, 64.0), max_nodata_share=0)).values():
        assert np.abs(tile - 127).max() < 25


def test_sixteen_bit_needs_a_scale_and_uses_it(tmp_path: Path) -> None:
    transform, (width, height) = sheet_around(59.0, 24.0, "EPSG:3301", 100.0, 0.5)
    image = np.full((1, height, width), 1500, np.uint16)
    path = write_sheet(tmp_path / "a.tif", image, transform, "EPSG:3301")
    with pytest.raises(
        InputError, match="has uint16 pixels, not 8 bits; state which values are black and white"
    ):
        find_sheets([path])
    (sheet,) = find_sheets([path], scale=(1000.0, 2000.0))
    shown, mask = read_window(sheet, 0, 0, 8, 8)
    assert mask is None
    assert shown.shape == (8, 8, 3)
    assert set(np.unique(shown)) == {128}
    with pytest.raises(ConfigError, match="give the darker value before the brighter one"):
        find_sheets([path], scale=(5.0, 5.0))


def test_grey_and_palette_become_colours(tmp_path: Path) -> None:
    transform, (width, height) = sheet_around(59.0, 24.0, "EPSG:3301", 50.0, 0.5)
    image = np.full((1, height, width), 7, np.uint8)
    write_sheet(tmp_path / "grey.tif", image, transform, "EPSG:3301")
    options = {"photometric": "PALETTE"}
    write_sheet(tmp_path / "palette.tif", image, transform, "EPSG:3301", **options)
    with rasterio.open(tmp_path / "palette.tif", "r+") as sheet:
        sheet.write_colormap(1, {value: (value, 100, 200, 255) for value in range(256)})
    grey, palette = find_sheets([str(tmp_path / "*.tif")])
    assert read_window(grey, 0, 0, 4, 4)[0][0, 0].tolist() == [7, 7, 7]
    assert read_window(palette, 0, 0, 4, 4)[0][0, 0].tolist() == [7, 100, 200]


def test_refusals_are_one_sentence_each(tmp_path: Path) -> None:
    transform, _ = sheet_around(59.0, 24.0, "EPSG:3301", 20.0, 0.5)
    image = np.zeros((3, 40, 40), np.uint8)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        write_sheet(tmp_path / "plain.tif", image, None, "EPSG:3301")
    cases = {
        write_sheet(
            tmp_path / "crs.tif", image, transform, None
        ): "has no coordinate reference system; set it",
        str(tmp_path / "plain.tif"): "has no geotransform, so its pixels have no place",
        write_sheet(tmp_path / "two.tif", image[:2], transform, "EPSG:3301"): "has 2 colour bands; give one",
    }
    (tmp_path / "text.tif").write_text("not a picture")
    (tmp_path / "empty.tif").write_bytes(b"")
    cases[str(tmp_path / "text.tif")] = "cannot be read as a GeoTIFF"
    cases[str(tmp_path / "empty.tif")] = "is empty (0 bytes)"
    cases[str(tmp_path / "absent.tif")] = "does not exist; give a file, a directory or a glob"
    cases[str(tmp_path / "*.jp2")] = "matches no file"
    for path, sentence in cases.items():
        with pytest.raises(GeolocError) as caught:
            find_sheets([path])
        assert sentence in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_sheet_that_breaks_off_costs_its_tiles_alone(tmp_path: Path) -> None:
    paths = []
    for index, lon in enumerate((24.0, 24.0028)):
        transform, size = sheet_around(59.0, lon, "EPSG:3301", 160.0, 0.5)
        options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
        paths.append(painted(tmp_path / f"{index}.tif", smooth, transform, size, "EPSG:3301", **options))
    whole = cut_all(paths)
    data = Path(paths[1]).read_bytes()
    # The directory of a plain TIFF lies in front: the header still opens, the data ends early.
    Path(paths[1]).write_bytes(data[: len(data) // 2])
    cut = cut_all(paths)
    reasons = {row.reason for row in cut.refused}
    assert reasons == {"unreadable_imagery"}
    assert cut.rows.num_rows + len(cut.refused) >= whole.rows.num_rows
    ids = cut.rows["tile_id"].to_pylist()
    kept = whole.rows.filter([row in set(ids) for row in whole.rows["tile_id"].to_pylist()])
    assert 0 < cut.rows.num_rows < whole.rows.num_rows
    assert kept["tile_id"].to_pylist() == [name for name in kept["tile_id"].to_pylist() if name in ids]


@settings(deadline=None, max_examples=60)
@given(st.floats(-84, 84), st.floats(-180, 179.99), st.sampled_from([12.8, 51.2, 500.0]))
def test_every_place_on_earth_is_near_a_tile_of_its_block(lat: float, lon: float, tile_m: float) -> None:
    spec = TileSpec(tile_m, 64, tile_m / 2)
    band = grid.band_of(lat, spec.block_m)
    block = grid.grid_block(band, grid.column_of(lon, band, spec.block_m), spec)
    at_lat, at_lon = block.centres(spec)
    nearest = distance_m(lat, lon, at_lat, at_lon).min()
    # Half a stride to each side, a pixel of rounding, and the widening of blocks towards the equator.
    assert nearest <= spec.stride_m * 0.71 + spec.metres_per_pixel + 2e-3 * spec.block_m
    assert len({tile.tile_id for tile in block.tiles}) == spec.per_side**2


@settings(deadline=None, max_examples=30)
@given(st.floats(-80, 80), st.floats(-180, 180))
def test_north_is_up_within_the_stated_error(lat: float, lon: float) -> None:
    spec = TileSpec(51.2, 128, 25.6)
    band = grid.band_of(lat, spec.block_m)
    block = grid.grid_block(band, grid.column_of(lon, band, spec.block_m), spec)
    corner = replace(block, tiles=(block.tiles[0],))
    above = replace(
        corner, tiles=(TilePlace("above", corner.tiles[0].left_px, corner.tiles[0].top_px - 200),)
    )
    (a,), (b,) = corner.centres(spec)
    (c,), (d,) = above.centres(spec)
    off = (float(heading_deg(a, b, c, d)) + 180) % 360 - 180
    assert abs(off) <= np.degrees(spec.block_m / 2 * np.tan(np.radians(abs(lat) + 0.02)) / 6_350_000) + 1e-6


def test_spec_refuses_nonsense() -> None:
    for values in ((0.0, 64, 1.0), (10.0, 16, 5.0), (10.0, 64, 0.01), (10.0, 64, float("nan"))):
        with pytest.raises(ConfigError):
            TileSpec(*values)


def test_lonlat_of_a_sheet_agrees_with_pyproj(tmp_path: Path) -> None:
    transform, size = sheet_around(59.0, 24.0, "EPSG:3301", 100.0, 0.5, turn_deg=12.0)
    (sheet,) = find_sheets([painted(tmp_path / "a.tif", smooth, transform, size, "EPSG:3301")])
    lat, lon = sheet.to_degrees(np.array([10.0, 150.0]), np.array([20.0, 30.0]))
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:3301", always_xy=True).transform(lon, lat)
    ((column, row),) = sheet.placements(lat, lon)
    assert np.allclose(column, [10, 150], atol=1e-5)
    assert np.allclose(row, [20, 30], atol=1e-5)
    back = ~transform
    assert np.allclose(back.a * x + back.b * y + back.c, [10, 150], atol=1e-5)
    assert Block(59.0, 24.0, (TilePlace("a", -3, 4),)).window(10) == (-3, 4, 10, 10)


@pytest.mark.parametrize("window", [(0, 0, 301, 299), (2, 4, 131, 77), (100, 50, 64, 33), (300, 298, 1, 1)])
def test_a_reduced_window_comes_from_the_overview_even_when_its_size_is_odd(
    tmp_path: Path, window: tuple[int, int, int, int]
) -> None:
    transform, _ = sheet_around(59.0, 24.0, "EPSG:3301", 60.0, 0.2)
    path = write_sheet(
        tmp_path / "a.tif", np.full((3, 299, 301), 200, np.uint8), transform, "EPSG:3301", tiled=True,
        blockxsize=64, blockysize=64,
    )  # fmt: skip
    with rasterio.open(path, "r+") as sheet:
        sheet.build_overviews([2], rasterio.enums.Resampling.average)
    with rasterio.open(path, "r+") as sheet:
        sheet.write(np.zeros((3, 299, 301), np.uint8))  # the overview keeps what it had
    (found,) = find_sheets([path])
    shown, _ = read_window(found, *window, 2)
    assert shown.shape == (max(1, window[3] // 2), max(1, window[2] // 2), 3)
    # Of a single pixel there is no half: it is read as it is.
    assert (shown == (0 if window[2:] == (1, 1) else 200)).all()
