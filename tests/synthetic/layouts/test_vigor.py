from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pyproj import Geod

from geoloc.synthetic.layouts import vigor
from geoloc.synthetic.layouts.view_images import Export

from .conftest import picture, rendered, truth

GEOD = Geod(ellps="WGS84")
CITIES = ("NewYork", "Seattle", "SanFrancisco", "Chicago")
LISTS = ("same_area_balanced_train", "same_area_balanced_test", "pano_label_balanced")
LINE = re.compile(
    r"[\w-]{22},-?\d+\.\d{6},-?\d+\.\d{6},\.jpg( satellite_-?\d+\.\d+_-?\d+\.\d+\.png -?\d+\.0 -?\d+\.0){4}"
)


def lines(export: Export, city: str, name: str) -> list[list[str]]:
    return [line.split(" ") for line in export.annotations[f"splits/{city}/{name}.txt"].decode().split("\n")]


def offsets_of_names(fields: list[str], number: int) -> tuple[float, float]:
    """Metres that a panorama lies south and west of a tile, from the coordinates in the two names alone."""
    _, lat, lon, _ = fields[0].split(",")
    _, tile_lat, tile_lon = fields[1 + 3 * number].removesuffix(".png").split("_")
    azimuth, _, metres = GEOD.inv(float(tile_lon), float(tile_lat), float(lon), float(lat))
    return -metres * np.cos(np.radians(azimuth)), -metres * np.sin(np.radians(azimuth))


def test_label_lines_have_the_published_form(vigor_plan: Export) -> None:
    for city, name, kind in itertools.product(CITIES, LISTS, ("", "__corrected")):
        text = vigor_plan.annotations[f"splits/{city}/{name}{kind}.txt"].decode()
        assert not text.endswith("\n")
        assert all(LINE.fullmatch(line) for line in text.split("\n"))
    satellites = vigor_plan.annotations["splits/Seattle/satellite_list.txt"].decode()
    assert satellites.endswith(".png\n")


@pytest.mark.parametrize("city", CITIES)
def test_pixel_offsets_agree_with_the_coordinates_in_the_names(vigor_plan: Export, city: str) -> None:
    resolution = vigor_plan.details[city]["metres_per_pixel"]
    for kind, scale in (("", 0.114), ("__corrected", resolution)):
        for fields, number in itertools.product(
            lines(vigor_plan, city, f"pano_label_balanced{kind}"), range(4)
        ):
            south, west = offsets_of_names(fields, number)
            row, column = float(fields[2 + 3 * number]), float(fields[3 + 3 * number])
            assert row * scale == pytest.approx(south, abs=0.5 * scale + 0.03)
            assert column * scale == pytest.approx(west, abs=0.5 * scale + 0.03)


def test_the_real_files_have_the_same_convention(shared_data: Path) -> None:
    path = shared_data / "vigor_labels" / "Seattle" / "same_area_balanced_test__corrected.txt"
    resolution = vigor.mercator_metres_per_pixel(47.6, vigor.ZOOM)
    for line in path.read_text().split("\n")[:300]:
        fields = line.split(" ")
        for number in range(4):
            south, west = offsets_of_names(fields, number)
            assert float(fields[2 + 3 * number]) * resolution == pytest.approx(south, abs=0.6)
            assert float(fields[3 + 3 * number]) * resolution == pytest.approx(west, abs=0.6)


def test_the_grid_is_the_published_one(vigor_plan: Export, shared_data: Path) -> None:
    def steps(names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        degrees = np.array([name.removesuffix(".png").split("_")[1:] for name in names], float)
        return np.diff(np.unique(degrees[:, 0].round(9))), np.diff(np.unique(degrees[:, 1].round(9)))

    made = vigor_plan.annotations["splits/Seattle/satellite_list.txt"].decode().split()
    real = (shared_data / "vigor_labels" / "Seattle" / "satellite_list.txt").read_text().split()
    for mine, theirs in zip(steps(made), steps(real), strict=True):
        assert mine.max() == pytest.approx(theirs.max(), rel=2e-4)
        assert mine.min() == pytest.approx(mine.max(), rel=1e-5)
    lat = [name.split("_")[1] for name in made]
    assert lat == sorted(lat)
    assert len(made) == len(set(lat)) * len({name.split("_")[2] for name in made})


def test_every_photo_has_its_positive_in_the_central_quarter_and_three_others(vigor_plan: Export) -> None:
    for city in CITIES:
        known = set(vigor_plan.annotations[f"splits/{city}/satellite_list.txt"].decode().split())
        positives: Counter[str] = Counter()
        for fields in lines(vigor_plan, city, "pano_label_balanced"):
            assert len({fields[k] for k in (1, 4, 7, 10)} & known) == 4
            row, column = (np.array(fields[k::3][:4], float) for k in (2, 3))
            assert max(abs(row[0]), abs(column[0])) <= 161
            assert (np.maximum(np.abs(row), np.abs(column))[1:] > 159).all()
            assert (np.maximum(np.abs(row), np.abs(column)) <= 321).all()
            positives[fields[1]] += 1
        assert max(positives.values()) <= 2


def test_same_area_splits_share_tiles_and_no_photo(vigor_plan: Export) -> None:
    for city in CITIES:
        train, test, both = ({f[0] for f in lines(vigor_plan, city, name)} for name in LISTS)
        assert len(train) == len(test) == 20
        assert not train & test
        assert train | test == both
        split = {path: row["split"] for path, row in truth(vigor_plan).items()}
        assert all(split[f"{city}/panorama/{name}"] == "train" for name in train)


def test_cities_have_seeds_styles_and_places_of_their_own(vigor_plan: Export) -> None:
    assert len({city.seed for city in vigor_plan.cities}) == 4
    assert len({city.style for city in vigor_plan.cities}) == 4
    lat = [float(city.placement.to_latlon(0.0, 0.0)[0]) for city in vigor_plan.cities]
    assert min(abs(a - b) for a, b in itertools.combinations(lat, 2)) > 1


def test_truth_is_what_the_names_say(vigor_plan: Export) -> None:
    rows = truth(vigor_plan)
    assert set(rows) == {p.path for p in vigor_plan.pictures}
    for path, row in rows.items():
        name = path.split("/")[-1]
        lat, lon = (
            name.split(",")[1:3] if row["view"] == "panorama" else name.removesuffix(".png").split("_")[1:]
        )
        assert float(row["lat"]) == pytest.approx(float(lat), abs=2e-9)
        assert float(row["lon"]) == pytest.approx(float(lon), abs=2e-9)
        if row["view"] == "panorama":
            assert row["heading_deg"] == "0.0000"


def test_pictures_have_their_sizes_and_overlap_by_half(vigor_plan: Export) -> None:
    names = vigor_plan.annotations["splits/Seattle/satellite_list.txt"].decode().split()
    columns = len({name.split("_")[2] for name in names})
    middle = columns * (len(names) // columns // 2) + columns // 2
    photo = next(one.path for one in vigor_plan.pictures if one.path.startswith("Seattle/panorama/"))
    wanted = [f"Seattle/satellite/{names[k]}" for k in (middle, middle + 1, middle + columns)]
    files = rendered(vigor_plan, lambda path: path in {photo, *wanted})
    assert picture(files[photo]).shape == (32, 64, 3)
    one, east, north = (picture(files[path]).astype(float) for path in wanted)
    assert one.shape == (64, 64, 3)
    # 36.5 m of 64.5 m: the neighbour's picture is this one's, moved by 36.3 of 64 pixels.
    assert np.abs(one[:, 37:] - east[:, 1:28]).mean() < 0.35 * np.abs(one[:, 37:] - east[:, 27:0:-1]).mean()
    assert np.abs(one[:27] - north[37:]).mean() < 0.35 * np.abs(one[:27] - north[:36:-1]).mean()
