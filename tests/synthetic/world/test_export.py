from __future__ import annotations

import csv
import io

import numpy as np
import pyproj
import pytest
from PIL import Image
from rasterio.io import MemoryFile

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.districts import District, DistrictSettings, Photo, Sheet, plan_districts
from geoloc.synthetic.world.export import (
    photos_csv,
    render_photo,
    render_sheet,
    sheet_name,
    tiles_csv,
    work_bounds,
)
from geoloc.synthetic.world.georeference import from_latlon
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.view_conditions import flight_look

WANTED = DistrictSettings(
    train_photos=120, validation_photos=30, test_photos=60, distractors=150, anywhere_photos=40
)
GEOD = pyproj.Geod(ellps="WGS84")


@pytest.fixture(scope="module")
def districts(city: City) -> dict[str, District]:
    return {district.name: district for district in plan_districts(city, WANTED)}


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode())))


def places(rows: list[dict[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(r["lat"]) for r in rows]), np.array([float(r["lon"]) for r in rows])


def distances(one: list[dict[str, str]], two: list[dict[str, str]]) -> np.ndarray:
    """Geodesic metres between all pairs."""
    (lat_a, lon_a), (lat_b, lon_b) = places(one), places(two)
    grid = [
        np.ascontiguousarray(g) for g in np.broadcast_arrays(lon_a[:, None], lat_a[:, None], lon_b, lat_b)
    ]
    return np.asarray(GEOD.inv(*grid)[2])


def test_districts_are_more_than_twice_the_view_apart(districts: dict[str, District]) -> None:
    boxes = [district.bounds for district in districts.values()]
    for k, a in enumerate(boxes):
        for b in boxes[k + 1 :]:
            east = max(a[0] - b[2], b[0] - a[2])
            north = max(a[1] - b[3], b[1] - a[3])
            assert max(east, north) >= 400


def test_photos_lie_within_five_metres_of_exactly_one_centre(districts: dict[str, District]) -> None:
    for district in districts.values():
        photos, centres = rows_of(photos_csv(district.photos)), rows_of(tiles_csv(district.centres))
        near = distances(photos, centres)
        assert near.min(1).max() <= 5.01  # the grid's scale and the eighth decimal
        assert len(set(near.argmin(1).tolist())) == len(centres) == len(photos)
        spacing = 18 if district.name == "train" else 25
        assert np.partition(near, 1, axis=1)[:, 1].min() > spacing - 5.1


def test_distractors_have_no_photo_near(districts: dict[str, District]) -> None:
    test = districts["test"]
    distractors, centres = rows_of(tiles_csv(test.distractors)), rows_of(tiles_csv(test.centres))
    assert len(distractors) == 150
    assert distances(distractors, centres).min() > 24.9
    apart = distances(distractors, distractors) + np.eye(150) * 100
    assert apart.min() > 14.9


def test_photos_anywhere_lie_in_a_tile(districts: dict[str, District]) -> None:
    test = districts["test"]
    east = np.abs(np.array([p.x for p in test.anywhere])[:, None] - [c[1] for c in test.centres])
    north = np.abs(np.array([p.y for p in test.anywhere])[:, None] - [c[2] for c in test.centres])
    assert np.maximum(east, north).min(1).max() <= 25.6


def test_a_district_grows_until_its_streets_hold_what_is_wanted(city: City) -> None:
    wide = DistrictSettings(
        train_photos=30, validation_photos=20, test_photos=20, distractors=30, spacing_m=110.0
    )
    plan = {district.name: district for district in plan_districts(city, wide)}
    assert len(plan["validation"].centres) == 20
    assert len(plan["validation"].sheets) > len(plan["train"].sheets)
    too_wide = DistrictSettings(
        train_photos=30, validation_photos=200, test_photos=20, distractors=30, spacing_m=900.0
    )
    with pytest.raises(ConfigError, match="positions fit on the streets"):
        plan_districts(city, too_wide)


def test_tiles_of_every_centre_are_covered_by_sheets(districts: dict[str, District]) -> None:
    for district in districts.values():
        west, south, east, north = district.bounds
        area = sum((s.bounds[2] - s.bounds[0]) * (s.bounds[3] - s.bounds[1]) for s in district.sheets)
        assert area == (east - west) * (north - south)
        for _, x, y in district.centres + district.distractors:
            assert west + 60 < x < east - 60
            assert south + 60 < y < north - 60


def test_names_are_unique_and_say_nothing_about_the_place(districts: dict[str, District]) -> None:
    train = districts["train"]
    names = [p.name for p in train.photos] + [c[0] for c in train.centres]
    assert len(set(names)) == len(names)
    order = np.arange(120)
    for values in ([p.x for p in train.photos], [c[2] for c in train.centres]):
        assert abs(np.corrcoef(order, values)[0, 1]) < 0.25


def test_headings_are_true_and_photos_have_the_columns_of_the_folder_source(city: City) -> None:
    photo = Photo("a.jpg", "train/photos", 9000.0, 500.0, 350.0, (0, 0))
    row = rows_of(photos_csv([photo]))[0]
    assert list(row) == ["photo", "lat", "lon", "heading_deg", "fov_deg", "view"]
    assert (row["photo"], row["fov_deg"], row["view"]) == ("a.jpg", "360", "panorama")
    x, y = from_latlon(float(row["lat"]), float(row["lon"]))
    np.testing.assert_allclose([x, y], [9000.0, 500.0], atol=0.01)
    (lat, lat_n), (lon, lon_n) = zip(
        *((float(row["lat"]), float(row["lon"])), _degrees(9000.0, 510.0)), strict=True
    )
    north_heading = GEOD.inv(lon, lat, lon_n, lat_n)[
        0
    ]  # the true heading of grid north, from the ellipsoid alone
    assert north_heading > 0.04  # far enough from the central meridian to matter
    assert abs(float(row["heading_deg"]) - (350 + north_heading)) < 0.01


def _degrees(x: float, y: float) -> tuple[float, float]:
    to_degrees = pyproj.Transformer.from_crs("EPSG:32626", "EPSG:4326", always_xy=True)
    origin = from_latlon(45.0, -27.0)
    easting, northing = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32626", always_xy=True).transform(
        -27.0, 45.0
    )
    lon, lat = to_degrees.transform(easting - origin[0] + x, northing - origin[1] + y)
    return lat, lon


def test_sheets_are_georeferenced_tiles_of_one_mosaic(city: City) -> None:
    sheets = [Sheet(0, k, (128.0 * k, 0.0, 128.0 * (k + 1), 128.0)) for k in range(2)]
    bounds = []
    for sheet in sheets:
        window = city.window(work_bounds(sheet))
        with MemoryFile(render_sheet(city, sheet, 0.4, window)) as memory, memory.open() as source:
            assert source.crs.to_epsg() == 32626
            assert source.res == (0.4, 0.4)
            assert source.dtypes == ("uint8",) * 3
            assert source.shape == (320, 320)
            assert source.profile["tiled"]
            assert source.compression.name.lower() == "jpeg"
            bounds.append(source.bounds)
            picture = np.moveaxis(source.read(), 0, -1).astype(int)
        exact = render_aerial(city, sheet.bounds, look=flight_look(city.seed, 0, 0), window=window)
        assert np.abs(picture - exact).mean() < 8  # JPEG
        assert np.corrcoef(picture.ravel(), exact.ravel())[0, 1] > 0.97
    assert bounds[0].right == bounds[1].left
    assert (bounds[0].top, bounds[0].bottom) == (bounds[1].top, bounds[1].bottom)
    assert [sheet_name(s) for s in sheets] == ["sheet_00_00.tif", "sheet_00_01.tif"]
    centre = pyproj.Transformer.from_crs(32626, 4326, always_xy=True).transform(
        bounds[0].left, bounds[0].bottom
    )
    np.testing.assert_allclose(from_latlon(centre[1], centre[0]), [0, 0], atol=1e-3)


def test_photos_are_jpegs_of_the_camera(city: City) -> None:
    photo = Photo("a.jpg", "train/photos", 120.0, 90.0, 45.0, (0, 3))
    camera = Camera(height_px=40, width_px=160)
    data = render_photo(city, photo, camera)
    assert Image.open(io.BytesIO(data)).size == (160, 40)
    assert render_photo(City(seed=11), photo, camera) == data
