"""Kinds of sheets that people bring: side files, opacity, depths, palettes, odd georeferences, seams of the Earth."""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from geoloc.core import storage
from geoloc.core.errors import ConfigError, GeolocError, InputError
from geoloc.core.geodesy import LatLon, LocalFrame, distance_m
from geoloc.sources import geotiff
from geoloc.sources.georeference import longitude_period
from geoloc.sources.grid import TileSpec
from geoloc.sources.mosaic import NEUTRAL
from geoloc.sources.sheet_checks import check_sheets, count_overlapping, pixel_m
from geoloc.sources.sheet_pixels import read_window
from geoloc.sources.sheets import Sheet, find_sheets, sheet_from, sheet_identities
from tests.conftest import S3Server
from tests.failing_proxy import Faults, failing_proxy
from tests.sources.sheet_files import centres_at, painted, sheet_around, write_sheet

SPEC = TileSpec(tile_m=32.0, tile_px=64, stride_m=16.0)
CRS = "EPSG:32635"
TRANSFORM = Affine(0.5, 0, 500_000, 0, -0.5, 6_500_000)


def cut(sheets: list[Sheet], spec: TileSpec = SPEC, max_nodata_share: float = 0.5) -> list[dict]:
    blocks = geotiff.plan_grid(sheets, spec).blocks()
    return geotiff.cut_blocks(
        blocks, sheets, spec, max_nodata_share=max_nodata_share, jpeg_quality=100, named=False
    ).rows.to_pylist()


def shown(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]))).astype(float)


def ground(bands: int = 3, side: int = 200, dtype: str = "uint8", top: int = 255) -> np.ndarray:
    """Bands [bands, side, side] that grow to the east and the south, never black."""
    steps = np.linspace(0.2, 0.9, side)
    east, south = np.meshgrid(steps, steps)
    return np.stack([(east, south, (east + south) / 2, east)[k % 4] * top for k in range(bands)]).astype(
        dtype
    )


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("reduce", [1, 2, 3])
def test_an_opacity_that_is_no_opacity_changes_no_colour(tmp_path: Path, dtype: str, reduce: int) -> None:
    image = ground(4, 96, dtype, 250 if dtype == "uint8" else 3000)
    image[3] = np.where(np.arange(96) < 48, 1, 200)
    image[3, :12] = 0
    scale = None if dtype == "uint8" else (0.0, 3000.0)
    tagged = write_sheet(tmp_path / "n.tif", image, TRANSFORM, CRS, photometric="RGB", alpha="yes")
    plain = write_sheet(tmp_path / "p.tif", image[:3], TRANSFORM, CRS, photometric="RGB")
    (sheet,), (other,) = find_sheets([tagged], scale), find_sheets([plain], scale)
    assert sheet.alpha == 4
    colours, mask = read_window(sheet, 0, 0, 96, 96, reduce)
    expected, no_mask = read_window(other, 0, 0, 96, 96, reduce)
    assert no_mask is None
    assert mask is not None
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[: 12 // reduce] == 0).all()
    assert (mask[12 // reduce :] == 255).all()
    assert np.abs(colours.astype(int) - expected)[mask == 255].max() <= 1


def test_a_band_that_varies_like_a_picture_gets_a_word_and_a_real_opacity_none(tmp_path: Path) -> None:
    image = ground(4)
    options = {"photometric": "RGB", "alpha": "yes"}
    picture = find_sheets([write_sheet(tmp_path / "nir.tif", image, TRANSFORM, CRS, **options)])
    report = check_sheets(picture, SPEC, scaled=False, order="name")
    assert "nir.tif: band 4 is tagged as opacity (alpha) but varies like a picture" in report.notes[0]
    image[3] = 255
    image[3, :, :40] = 0
    opacity = find_sheets([write_sheet(tmp_path / "rgba.tif", image, TRANSFORM, CRS, **options)])
    assert check_sheets(opacity, SPEC, scaled=False, order="name").notes == ()
    image[3] = 0
    unused = find_sheets([write_sheet(tmp_path / "zero.tif", image, TRANSFORM, CRS, **options)])
    (note,) = check_sheets(unused, SPEC, scaled=False, order="name").notes
    assert "zero.tif: band 4 is tagged as opacity (alpha) but is 0 all over" in note


def test_a_colour_that_is_tagged_as_opacity_is_named(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "a.tif", ground(), TRANSFORM, CRS)
    with rasterio.open(path, "r+") as sheet:
        sheet.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.alpha]
    with pytest.raises(InputError, match=r"has 2 colour bands \(band 3 is tagged as opacity\)"):
        find_sheets([path])
    (sheet,) = find_sheets([path], bands=(1, 2, 3))
    assert read_window(sheet, 0, 0, 9, 9)[0][0, 0].tolist() == ground()[:, 0, 0].tolist()


def test_bands_may_be_named_by_number_and_are_read_from_their_names(tmp_path: Path) -> None:
    blue, green, red, nir = (np.full((100, 100), value, np.uint8) for value in (30, 60, 90, 200))
    image = np.stack([blue, green, red, nir])
    path = write_sheet(tmp_path / "bgrn.tif", image, TRANSFORM, CRS, photometric="MINISBLACK")
    grey = write_sheet(tmp_path / "grey.tif", image[:1], TRANSFORM, CRS)
    (guessed,) = find_sheets([path])
    assert "leave open which bands" in check_sheets([guessed], SPEC, scaled=False, order="name").notes[0]
    named, single = find_sheets([path, grey], bands=(3, 2, 1))
    assert read_window(named, 0, 0, 1, 1)[0].tolist() == [[[90, 60, 30]]]
    assert read_window(single, 0, 0, 1, 1)[0].tolist() == [[[30, 30, 30]]]
    with rasterio.open(path, "r+") as sheet:
        sheet.descriptions = ("Blue", "Green", "Red", "NIR")
    assert find_sheets([path])[0].bands == (3, 2, 1)
    with pytest.raises(InputError, match="has 4 bands, but bands are 5 2 1"):
        find_sheets([path], bands=(5, 2, 1))
    with pytest.raises(ConfigError, match="numbered from 1"):
        find_sheets([path], bands=(0, 1, 2))


_PAM = "<PAMDataset>{}</PAMDataset>"
_SIDES = ["msk", "nodata", "tfw", "georeference", "ovr"]


def sheet_with_side_file(folder: Path, kind: str) -> Path:
    """A sheet whose meaning is in the file beside it: its north-west quarter is black."""
    image = ground()
    image[:, :100, :100] = 0
    path = folder / "sheet.tif"
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    write_sheet(path, image, None if kind == "tfw" else TRANSFORM, CRS)
    if kind == "msk":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as sheet:
            sheet.write_mask(image[0] > 0)
    elif kind == "nodata":
        bands = "".join(
            f'<PAMRasterBand band="{k}"><NoDataValue>0</NoDataValue></PAMRasterBand>' for k in (1, 2, 3)
        )
        (folder / "sheet.tif.aux.xml").write_text(_PAM.format(bands))
    elif kind == "tfw":
        (folder / "sheet.tfw").write_text("0.5\n0\n0\n-0.5\n500000.25\n6499999.75\n")
    elif kind == "georeference":
        (folder / "sheet.tif.aux.xml").write_text(
            _PAM.format("<GeoTransform>600000, 0.5, 0, 6400000, 0, -0.5</GeoTransform>")
        )
    else:
        with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as sheet:
            sheet.build_overviews([4])
        with rasterio.open(folder / "sheet.tif.ovr", "r+") as overview:
            overview.write(np.full((3, 50, 50), 77, np.uint8))
    assert len(list(folder.iterdir())) == 2
    return path


def check_meaning(uri: str, kind: str) -> None:
    """The sheet at a URI means what GDAL says of the file beside it."""
    origin = (600_000, 6_400_000) if kind == "georeference" else (500_000, 6_500_000)
    (sheet,) = find_sheets([uri])
    assert (sheet.to_world[2], sheet.to_world[5]) == pytest.approx(origin)
    _, mask = read_window(sheet, 0, 0, 200, 200)
    if kind in ("msk", "nodata"):
        assert mask is not None
        assert (mask[:100, :100] == 0).all()
        assert np.count_nonzero(mask == 0) == 100 * 100
    else:
        assert mask is None
    reduced, _ = read_window(sheet, 0, 0, 200, 200, 4)
    assert (set(np.unique(reduced)) == {77}) == (kind == "ovr")


@pytest.mark.parametrize("kind", _SIDES)
def test_side_files_mean_what_gdal_says_in_every_store(tmp_path: Path, s3_uri: str, kind: str) -> None:
    path = sheet_with_side_file(tmp_path, kind)
    there = storage.join(s3_uri, "an upload")
    for file in tmp_path.iterdir():
        storage.copy_file(str(file), storage.join(there, file.name))
    check_meaning(str(path), kind)
    check_meaning(storage.join(there, "sheet.tif"), kind)


@pytest.mark.parametrize("kind", _SIDES)
def test_side_files_of_a_store_that_fails_mean_the_same(
    tmp_path: Path, s3_uri: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for file in [sheet_with_side_file(tmp_path, kind), *tmp_path.iterdir()]:
        storage.copy_file(str(file), storage.join(s3_uri, file.name))
    with failing_proxy(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.faults = Faults(script=deque(["error", "half", "reset"] * 4))
        check_meaning(storage.join(s3_uri, "sheet.tif"), kind)
        assert sum(proxy.failed.values()) > 4


def test_a_mask_that_changes_beside_its_sheet_is_another_input_and_statistics_are_not(tmp_path: Path) -> None:
    path = tmp_path / "sheet.tif"
    write_sheet(path, ground(), TRANSFORM, CRS)
    before = sheet_identities(find_sheets([str(path)]))
    (tmp_path / "sheet.tif.aux.xml").write_text(_PAM.format("<Metadata><MDI key='a'>1</MDI></Metadata>"))
    assert sheet_identities(find_sheets([str(path)])) == before
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as sheet:
        sheet.write_mask(np.arange(40_000).reshape(200, 200) > 5)
    masked = sheet_identities(find_sheets([str(path)]))
    assert masked != before
    (tmp_path / "sheet.tif.msk").unlink()
    (tmp_path / "sheet.tif.aux.xml").unlink()
    assert sheet_identities(find_sheets([str(path)])) == before


def waves(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Waves around 180 degrees and the equator, the same at 180.001 and at -179.999."""
    east, north = ((lon % 360.0) - 180.0) * 111_320, lat * 110_574
    return 127 + 100 * np.stack([np.sin(east / 7), np.sin(north / 6), np.sin((east + north) / 9)])


@pytest.mark.parametrize(
    ("crs", "lon", "shift"),
    [
        ("EPSG:4326", 180.0, 0.0),
        ("EPSG:4326", 180.0, -360.0),
        ("EPSG:4326", -179.0, 360.0),  # 0..360
        ("EPSG:3857", 180.0, 0.0),
        ("EPSG:32660", 179.9999, 0.0),
        ("EPSG:3832", 180.0, 0.0),  # mercator about 150 degrees: 180 is not its seam
    ],
)
def test_sheets_across_180_degrees_give_all_their_tiles_at_the_right_place(
    tmp_path: Path, crs: str, lon: float, shift: float
) -> None:
    (a, b, c, d, e, f, *_), size = sheet_around(0.001, lon - (1e-4 if lon == 180.0 else 0.0), crs, 120.0, 0.5)
    transform = Affine(a, b, c + shift, d, e, f)
    if lon == 180.0:
        c += 1e-4 * (abs(longitude_period(rasterio.CRS.from_string(crs).to_wkt())) or 0.0) / 360.0
        transform = Affine(a, b, c + shift, d, e, f)
    sheets = find_sheets([painted(tmp_path / "a.tif", waves, transform, size, crs)])
    rows = cut(sheets, max_nodata_share=0.0)
    assert 25 <= len(rows) <= 50
    lat, at = np.array([row["lat"] for row in rows]), np.array([row["lon"] for row in rows])
    apart = distance_m(lat[:, None], at[:, None], lat[None], at[None]) + 1e9 * np.eye(len(rows))
    assert apart.min() > 0.99 * SPEC.stride_m
    assert apart.min(axis=1).max() < 1.01 * SPEC.stride_m
    steps = (np.arange(64) + 0.5 - 32) * SPEC.metres_per_pixel
    east, south = np.meshgrid(steps, steps)
    for row in rows:
        true = waves(*LocalFrame(LatLon(row["lat"], row["lon"])).to_degrees(east, -south))
        assert np.abs(shown(row) - np.moveaxis(true, 0, -1)).mean() < 4


def test_a_sheet_around_the_whole_earth_has_no_seam(tmp_path: Path) -> None:
    def stripes(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        return np.stack([127 + 100 * np.cos(np.radians(lon * 3))] * 3) + 0 * lat

    path = painted(tmp_path / "w.tif", stripes, Affine(0.5, 0, 0, 0, -0.5, 60), (720, 240), "EPSG:4326")
    (sheet,) = find_sheets([path])
    spec = TileSpec(3_200_000.0, 64, 1_600_000.0)
    blocks = geotiff.plan_centres([sheet], spec, centres_at(["seam"], [0.0], [0.2]))
    rows = geotiff.cut_blocks(blocks, [sheet], spec, max_nodata_share=0, jpeg_quality=95, named=True).rows
    (row,) = rows.to_pylist()
    assert shown(row)[32, 20:44].min() > 100
    assert len(sheet.placements(np.zeros((2, 2)), np.array([[-5.0, 5.0], [-5.0, 5.0]]))) == 2


def test_which_crs_go_round_the_earth() -> None:
    def period(code: str) -> float:
        return longitude_period(rasterio.CRS.from_string(code).to_wkt())

    assert period("EPSG:4326") == pytest.approx(360.0)
    assert period("EPSG:4807") == pytest.approx(400.0)  # Paris, in grads
    assert period("EPSG:3857") == pytest.approx(2 * np.pi * 6_378_137.0)
    assert period("EPSG:3832") == pytest.approx(2 * np.pi * 6_378_137.0)
    assert period("EPSG:4087") == pytest.approx(2 * np.pi * 6_378_137.0)
    for code in ("EPSG:32635", "EPSG:3301", "EPSG:3031", "EPSG:3035", "+proj=sinu", "+proj=moll"):
        assert period(code) == 0.0


def test_a_scale_is_for_sheets_that_need_one(tmp_path: Path) -> None:
    image = ground()
    eight = write_sheet(tmp_path / "a.tif", image, TRANSFORM, CRS)
    sixteen = write_sheet(tmp_path / "b.tif", image.astype(np.uint16) * 12, TRANSFORM, CRS)
    sheets = find_sheets([eight, sixteen], scale=(0.0, 3060.0))
    first, second = (read_window(sheet, 0, 0, 200, 200)[0] for sheet in sheets)
    assert (first == second).all()
    assert check_sheets(sheets, SPEC, scaled=True, order="name").overlapping == 2
    notes = check_sheets(sheets[:1], SPEC, scaled=True, order="name").notes
    assert notes == ("the scale has no effect: all sheets have 8 bits, which are taken as they are",)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("reduce", [1, 2])
@pytest.mark.parametrize("declared", [False, True])
def test_what_is_no_number_is_a_hole(tmp_path: Path, bad: float, reduce: int, declared: bool) -> None:
    image = ground(dtype="float32", top=1).astype(np.float32)
    image[0, :61, :61] = bad
    image[1:, :61, :61] = np.nan
    path = write_sheet(tmp_path / "f.tif", image, TRANSFORM, CRS, **({"nodata": np.nan} if declared else {}))
    (sheet,) = find_sheets([path], scale=(0.0, 1.0))
    colours, mask = read_window(sheet, 0, 0, 200, 200, reduce)
    assert mask is not None
    assert (mask[: 60 // reduce, : 60 // reduce] == 0).all()
    assert np.count_nonzero(mask == 0) == (61 // reduce) ** 2 if reduce == 1 else 30**2
    assert colours[mask == 255].min() > 40  # nothing dark, not even along the hole


@pytest.mark.parametrize("reduce", [1, 2, 3])
@pytest.mark.parametrize("value", [0, 255])
def test_a_collar_that_nobody_declared_is_named_by_its_value(tmp_path: Path, reduce: int, value: int) -> None:
    image = ground(top=250)
    image[0, 120, 120] = value  # one band alone is a colour
    image[:, :, :61] = value
    path = write_sheet(tmp_path / "c.tif", image, TRANSFORM, CRS)
    below = write_sheet(tmp_path / "d.tif", np.full_like(image, 99), TRANSFORM, CRS)
    (plain,), (sheet, other) = find_sheets([path]), find_sheets([path, below], nodata=float(value))
    assert read_window(plain, 0, 0, 200, 200, reduce)[1] is None
    colours, mask = read_window(sheet, 0, 0, 200, 200, reduce)
    assert mask is not None
    assert np.count_nonzero(mask[10] == 0) == 61 // reduce
    edge = colours[:, 61 // reduce]  # where collar and ground meet, the ground alone counts
    assert np.abs(edge.astype(int) - colours[:, 61 // reduce + 1]).max() <= 3 * reduce
    tiles = cut([sheet, other], TileSpec(48.0, 96 // reduce, 12.0), max_nodata_share=0.0)
    west = min(tiles, key=lambda row: row["lon"])
    assert np.abs(shown(west)[:, 2] - 99).max() < 6
    assert "d.tif" in west["source"]


def test_a_float_nodata_value_may_be_rounded(tmp_path: Path) -> None:
    image = ground(dtype="float32", top=1).astype(np.float32)
    image[:, :50] = np.finfo(np.float32).min
    path = write_sheet(tmp_path / "f.tif", image, TRANSFORM, CRS)
    (sheet,) = find_sheets([path], scale=(0.0, 1.0), nodata=-3.40282e38)
    _, mask = read_window(sheet, 0, 0, 200, 200)
    assert mask is not None
    assert np.count_nonzero(mask == 0) == 50 * 200


def test_palettes_of_any_depth_and_few_bits_become_colours(tmp_path: Path) -> None:
    index = np.arange(40_000, dtype=np.uint16).reshape(1, 200, 200) % 1000
    path = write_sheet(tmp_path / "p16.tif", index, TRANSFORM, CRS, photometric="PALETTE")
    with rasterio.open(path, "r+") as sheet:
        sheet.write_colormap(1, {number: (number % 256, number // 4 % 256, 9, 255) for number in range(1000)})
    (sheet,) = find_sheets([path])
    colours, mask = read_window(sheet, 0, 0, 200, 200)
    assert mask is None
    assert (colours[..., 0] == index[0] % 256).all()
    assert (colours[..., 1] == index[0] // 4 % 256).all()
    for bits, top in ((1, 1), (2, 3), (4, 15)):
        values = (index % (top + 1)).astype(np.uint8)
        few = write_sheet(tmp_path / f"b{bits}.tif", values, TRANSFORM, CRS, nbits=bits)
        got = read_window(find_sheets([few])[0], 0, 0, 200, 200)[0]
        assert (got[..., 1] == values[0] * (255 // top)).all()


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_a_negative_is_turned_into_a_positive(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = (ground(1, 100, "float64", 1) * top).round().astype("uint16" if bits == 16 else "uint8")
    options = {"nbits": 1} if bits == 1 else {}
    path = write_sheet(tmp_path / "n.tif", values, TRANSFORM, CRS, photometric="MINISWHITE", **options)
    (sheet,) = find_sheets([path], scale=(0.0, 65535.0))
    got = read_window(sheet, 0, 0, 100, 100)[0].astype(float)
    assert np.abs(got[..., 0] - 255 * (1 - values[0] / top)).max() <= 1


def _control(crs: str, bend: float = 0.0) -> list[GroundControlPoint]:
    """Points on a 200 px sheet of half a metre in UTM, in another CRS; the middle is `bend` metres off."""
    to = Transformer.from_crs(CRS, crs, always_xy=True)
    points = []
    for row in (0, 100, 200):
        for column in (0, 100, 200):
            away = bend if (row, column) == (100, 100) else 0.0
            x, y = to.transform(500_000 + 0.5 * column + away, 6_500_000 - 0.5 * row)
            points.append(GroundControlPoint(row=row, col=column, x=x, y=y))
    return points


def test_ground_control_points_place_a_sheet_or_are_refused_with_what_helps(tmp_path: Path) -> None:
    def sheet_of(name: str, points: list[GroundControlPoint], crs: str) -> str:
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", count=3, width=200, height=200, dtype="uint8", crs=None
        ) as sheet:
            sheet.write(ground())
            sheet.gcps = (points, rasterio.CRS.from_string(crs))
        return str(tmp_path / name)

    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    true = find_sheets([write_sheet(tmp_path / "true.tif", ground(), TRANSFORM, CRS)])[0]
    for crs in ("EPSG:4326", CRS, "EPSG:3857"):
        (sheet,) = find_sheets([sheet_of("g.tif", _control(crs), crs)])
        at = np.array([0.0, 200.0, 37.0]), np.array([0.0, 10.0, 190.0])
        assert distance_m(*true.to_degrees(*at), *sheet.to_degrees(*at)).max() < 0.05
    with pytest.raises(
        InputError, match=r"misses them by up to \d\.\d pixels .limit 1.; warp it: `gdalwarp -tps"
    ):
        find_sheets([sheet_of("bent.tif", _control("EPSG:4326", bend=3.0), "EPSG:4326")])
    with pytest.raises(InputError, match="2 ground control points, which place no plane"):
        find_sheets([sheet_of("two.tif", _control("EPSG:4326")[:2], "EPSG:4326")])


def test_rational_polynomials_are_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    path = write_sheet(tmp_path / "r.tif", ground(), None, None)
    ones = [1.0, *[0.0] * 19]
    with rasterio.open(path, "r+") as sheet:
        sheet.rpcs = RPC(
            height_off=0, height_scale=1, lat_off=59, lat_scale=1, long_off=24, long_scale=1, line_off=1,
            line_scale=1, samp_off=1, samp_scale=1, line_num_coeff=ones, line_den_coeff=ones,
            samp_num_coeff=ones, samp_den_coeff=ones,
        )  # fmt: skip
    with pytest.raises(InputError, match=r"RPC.*gdalwarp -rpc -to RPC_DEM="):
        find_sheets([path])


def test_swapped_axes_are_refused_in_one_sentence(tmp_path: Path) -> None:
    swapped = Affine(0, -1e-5, 59.0, 1e-5, 0, 124.0)  # x the latitude, y the longitude
    path = write_sheet(tmp_path / "s.tif", ground(), swapped, "EPSG:4326")
    with pytest.raises(InputError, match=r"y goes to 124.*beyond the pole; either its axes are swapped"):
        find_sheets([path])
    metres = write_sheet(tmp_path / "m.tif", ground(), TRANSFORM, "EPSG:4326")
    with pytest.raises(InputError, match="its coordinates are of another system"):
        find_sheets([metres])


def test_a_pole_inside_or_beside_a_sheet_is_refused(tmp_path: Path) -> None:
    def sheet_at(x: float, y: float) -> list[Sheet]:
        around = Affine(10.0, 0, x - 1000, 0, -10.0, y + 1000)
        return find_sheets([write_sheet(tmp_path / "p.tif", ground(), around, "EPSG:3031")])

    spec = TileSpec(640.0, 64, 320.0)
    for x, y in ((0.0, 0.0), (300.0, -200.0)):
        with pytest.raises(InputError, match="lies around a pole"):
            check_sheets(sheet_at(x, y), spec, scaled=False, order="name")
    with pytest.raises(InputError, match=r"comes within \d.* km of a pole"):
        check_sheets(sheet_at(0.0, 15_000.0), spec, scaled=False, order="name")
    assert check_sheets(sheet_at(0.0, 300_000.0), spec, scaled=False, order="name").notes == ()


def test_coarse_imagery_gets_a_word_and_very_coarse_is_refused(tmp_path: Path) -> None:
    (sheet,) = find_sheets([write_sheet(tmp_path / "a.tif", ground(), TRANSFORM, CRS)])
    assert pixel_m(sheet) == pytest.approx(0.5, rel=1e-3)
    assert check_sheets([sheet], TileSpec(16.0, 64, 8.0), scaled=False, order="name").notes == ()
    (word,) = check_sheets([sheet], TileSpec(12.8, 64, 8.0), scaled=False, order="name").notes
    assert "1 of 1 sheets are coarser than the tiles (a.tif: 0.5 m a pixel, tiles 0.2 m)" in word
    with pytest.raises(InputError, match=r"has pixels of 0.5 m, but tiles have pixels of 0.04 m: below 0.1"):
        check_sheets([sheet], TileSpec(2.56, 64, 2.0), scaled=False, order="name")


def test_overlapping_sheets_are_counted_and_their_order_is_chosen(tmp_path: Path) -> None:
    old = write_sheet(tmp_path / "a.tif", np.full((3, 200, 200), 50, np.uint8), TRANSFORM, CRS)
    new = write_sheet(tmp_path / "b.tif", np.full((3, 200, 200), 200, np.uint8), TRANSFORM, CRS)
    beside = write_sheet(
        tmp_path / "c.tif", np.full((3, 200, 200), 90, np.uint8), TRANSFORM @ Affine.translation(199, 0), CRS
    )
    os.utime(old, (1_000_000_000, 1_000_000_000))
    by_name, by_time = find_sheets([old, new, beside]), find_sheets([old, new], order="time")
    assert count_overlapping(by_name) == 2
    assert [sheet.name for sheet in by_name] == ["a.tif", "b.tif", "c.tif"]
    assert [sheet.name for sheet in by_time] == ["b.tif", "a.tif"]
    assert np.abs(shown(cut(by_time, max_nodata_share=0.0)[0]) - 200).max() <= 1
    assert "2 of 2 sheets overlap another one; where they do, the newest is on top" in str(
        check_sheets(by_time, SPEC, scaled=False, order="time").notes
    )
    with rasterio.open(old, "r+") as sheet:
        sheet.update_tags(TIFFTAG_DATETIME="2124:05:31 12:00:00")
    assert [sheet.name for sheet in find_sheets([old, new], order="time")] == ["a.tif", "b.tif"]


def test_a_sheet_survives_json_and_is_the_same(tmp_path: Path) -> None:
    (sheet,) = find_sheets([write_sheet(tmp_path / "a.tif", ground(), TRANSFORM, CRS)], scale=(0, 9))
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(sheet).items()}
    assert sheet_from(fields) == sheet
    assert NEUTRAL == 127
    assert issubclass(InputError, GeolocError)
