from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from geoloc.core.errors import ConfigError, InputError
from geoloc.core.geodesy import LatLon, LocalFrame, destination, distance_m
from geoloc.core.images import decode_image
from geoloc.sources.folder import ViewDefaults, read_photos
from geoloc.sources.sheets import find_sheets
from geoloc.synthetic.nadir import NadirLook, look_down, nadir_views, texture
from tests.sources.sheet_files import painted, sheet_around, smooth, write_sheet


def dot_sheet(tmp_path: Path, places: list[LatLon]) -> str:
    """White discs of 4 m at the given places on dark ground."""

    def paint(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        near = [distance_m(place.lat, place.lon, lat, lon) < 2.0 for place in places]
        return np.broadcast_to(np.where(np.any(near, axis=0), 250.0, 20.0), (3, *lat.shape))

    transform, size = sheet_around(59.0, 24.0, "EPSG:32635", 200.0, 0.5)
    return painted(tmp_path / "dots.tif", paint, transform, size, "EPSG:32635")


@pytest.mark.parametrize("heading", [0.0, 90.0, 233.0])
def test_the_top_of_the_photo_looks_along_the_heading(tmp_path: Path, heading: float) -> None:
    middle = LatLon(59.0, 24.0)
    ahead, right = destination(*middle, heading, 20.0), destination(*middle, heading + 90.0, 10.0)
    sheets = find_sheets([dot_sheet(tmp_path, [middle, ahead, right])])
    photo = look_down(middle, heading, 64.0, 128, sheets)
    assert photo is not None
    for x, y in ((64, 64), (64, 24), (84, 64)):  # 2 pixels a metre: ahead is up, right is right
        assert photo[y - 1 : y + 1, x - 1 : x + 1].min() > 200
    assert photo[104, 64].max() < 60


def test_photos_carry_their_truth_and_are_what_ingest_takes(tmp_path: Path) -> None:
    transform, size = sheet_around(59.0, 24.0, "EPSG:3301", 250.0, 0.5)
    sheet = painted(tmp_path / "a.tif", smooth, transform, size, "EPSG:3301")
    plain = NadirLook(
        ground_m=60, side_px=120, turn=False, scale=(1, 1), brightness=0, contrast=0, colour_cast=0
    )
    views = nadir_views([sheet], 6, str(tmp_path / "out"), seed=3, look=plain)
    photos, refused = read_photos(str(tmp_path / "out" / "photos.csv"), ViewDefaults("panorama", 360))
    assert not refused
    assert [photo.view for photo in photos] == ["drone"] * 6
    for view, photo in zip(views, photos, strict=True):
        assert distance_m(view.lat, view.lon, photo.lat, photo.lon) < 0.01
        steps = (np.arange(120) + 0.5 - 60) * 0.5
        east, south = np.meshgrid(steps, steps)
        truth = smooth(*LocalFrame(LatLon(view.lat, view.lon)).to_degrees(east, -south))
        stored = decode_image(Path(photo.uri).read_bytes()).astype(float)
        assert np.abs(stored[..., 1] - truth[1]).mean() < 8
    again = nadir_views([sheet], 6, str(tmp_path / "again"), seed=3, look=plain)
    assert [view.lat for view in again] == [view.lat for view in views]
    for path in sorted((tmp_path / "out").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "out")).read_bytes()


def test_ground_without_texture_is_marked(tmp_path: Path) -> None:
    transform, (width, height) = sheet_around(59.0, 24.0, "EPSG:3301", 200.0, 0.5)
    water = np.random.default_rng(1).normal(30, 2, (3, height, width)).clip(0, 255).astype(np.uint8)
    sheet = write_sheet(tmp_path / "sea.tif", water, transform, "EPSG:3301")
    views = nadir_views([sheet], 3, str(tmp_path / "out"))
    assert all(view.textureless for view in views)
    with (tmp_path / "out" / "photos.csv").open() as file:
        assert {row["textureless"] for row in csv.DictReader(file)} == {"1"}
    waves = smooth(*np.meshgrid(np.linspace(59, 59.002, 256), np.linspace(24, 24.004, 256)))
    assert texture(np.moveaxis(waves, 0, -1).astype(np.uint8)) > 6


def test_no_room_and_nonsense_are_refused(tmp_path: Path) -> None:
    transform, size = sheet_around(59.0, 24.0, "EPSG:3301", 50.0, 0.5)
    sheet = painted(tmp_path / "a.tif", smooth, transform, size, "EPSG:3301")
    with pytest.raises(InputError, match=r"has no room for a photo of 76.8 m"):
        nadir_views([sheet], 1, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="cannot be made; use positive metres"):
        NadirLook(side_px=10)


@pytest.mark.slow
def test_real_imagery_gives_land_and_sea(tmp_path: Path, shared_data: Path) -> None:
    views = nadir_views([str(shared_data / "ortho_estonia")], 60, str(tmp_path))
    sea = sum(view.textureless for view in views)
    assert 15 < sea < 45
