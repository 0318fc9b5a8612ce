from __future__ import annotations

import io

import numpy as np
import pytest
from pyproj import Geod, Transformer
from scipy.io import loadmat

from geoloc.synthetic.layouts import cvact
from geoloc.synthetic.layouts.view_images import Export

from .conftest import picture, rendered, truth

SETS = {"train": ("trainSet", "trainInd"), "val": ("valSet", "valInd"), "val_all": ("valSetAll", "valInd")}


@pytest.fixture(scope="module")
def mat(cvact_plan: Export) -> dict[str, np.ndarray]:
    return loadmat(io.BytesIO(cvact_plan.annotations["ACT_data.mat"]))


def members(mat: dict[str, np.ndarray], name: str) -> np.ndarray:
    group, field = SETS[name]
    return mat[group][field][0][0].ravel().astype(int) - 1


def test_the_mat_file_reads_in_both_published_ways(mat: dict[str, np.ndarray]) -> None:
    for group, field in SETS.values():
        by_name, by_position = mat[group][field][0][0], mat[group][0][0][1]
        assert by_name.shape == (by_name.size, 1)
        assert np.array_equal(by_name, by_position)
        assert by_name.min() >= 1
    assert [len(members(mat, name)) for name in SETS] == [24, 8, 60]
    assert mat["panoIds"].shape == (84,)
    assert {len(name) for name in mat["panoIds"]} == {22}
    assert len(set(mat["panoIds"])) == 84
    assert mat["utm"].shape == (84, 2)
    assert mat["utm"].dtype == np.float64


def test_indices_count_from_one_and_cover_everything(mat: dict[str, np.ndarray]) -> None:
    train, later = members(mat, "train"), members(mat, "val_all")
    assert sorted([*train, *later]) == list(range(84))
    assert set(members(mat, "val")) <= set(later)
    assert members(mat, "val").tolist() == later[:8].tolist()


def test_utm_is_the_truth_in_zone_55_south(cvact_plan: Export, mat: dict[str, np.ndarray]) -> None:
    rows = {row["place"]: row for row in truth(cvact_plan).values() if row["view"] == "panorama"}
    to_degrees = Transformer.from_crs("EPSG:32755", "EPSG:4326", always_xy=True)
    for name, (easting, northing) in zip(mat["panoIds"], mat["utm"], strict=True):
        if name in rows:
            lon, lat = to_degrees.transform(easting, northing)
            assert (lat, lon) == pytest.approx((float(rows[name]["lat"]), float(rows[name]["lon"])), abs=2e-9)
    placed = [k for k, name in enumerate(mat["panoIds"]) if name in rows]
    city = np.array(
        [(float(rows[mat["panoIds"][k]]["x_m"]), float(rows[mat["panoIds"][k]]["y_m"])) for k in placed]
    )
    utm = mat["utm"][placed]
    assert np.linalg.norm(utm - utm[0], axis=1) == pytest.approx(
        np.linalg.norm(city - city[0], axis=1), abs=2e-3
    )


def test_a_step_north_in_the_pictures_is_a_step_north_on_earth(
    mat: dict[str, np.ndarray], cvact_plan: Export
) -> None:
    row = next(iter(truth(cvact_plan).values()))
    placement = cvact_plan.cities[0].placement
    x, y = float(row["x_m"]), float(row["y_m"])
    lat, lon = placement.to_latlon([x, x], [y, y + 100])
    azimuth, _, metres = Geod(ellps="WGS84").inv(lon[0], lat[0], lon[1], lat[1])
    assert azimuth == pytest.approx(0, abs=0.05)
    assert metres == pytest.approx(100, rel=1e-3)


def test_equal_data_give_equal_bytes(cvact_plan: Export) -> None:
    data = cvact_plan.annotations["ACT_data.mat"]
    assert data.startswith(b"MATLAB 5.0 MAT-file")
    spec = cvact.CvactSpec(train=24, validation=8, test=60)
    assert cvact.plan(spec).annotations["ACT_data.mat"] == data


def test_pictures_lie_where_readers_look_and_some_are_missing(
    cvact_plan: Export, mat: dict[str, np.ndarray]
) -> None:
    paths = {p.path for p in cvact_plan.pictures}
    missing = set(cvact_plan.details["missing"])
    assert 1 <= len(missing) < 20
    for name, folder in (
        ("train", "ANU_data_small"),
        ("val", "ANU_data_small"),
        ("val_all", "ANU_data_test"),
    ):
        for pano in mat["panoIds"][members(mat, name)]:
            there = pano not in missing
            assert (f"{folder}/satview_polish/{pano}_satView_polish.jpg" in paths) == there
            assert (f"{folder}/streetview/{pano}_grdView.jpg" in paths) == there
    assert len(paths) == 2 * sum(
        pano not in missing for s in SETS for pano in mat["panoIds"][members(mat, s)]
    )


def test_places_of_the_test_set_are_close_and_far_from_training(mat: dict[str, np.ndarray]) -> None:
    utm = mat["utm"]
    train, later = utm[members(mat, "train")], utm[members(mat, "val_all")]
    assert np.linalg.norm(train[:, None] - later[None], axis=-1).min() > 2 * 130
    apart = np.linalg.norm(later[:, None] - later[None], axis=-1) + 1e9 * np.eye(len(later))
    assert 2.4 < apart.min() < 5


def test_both_folders_hold_the_same_picture_of_a_validation_place(
    cvact_plan: Export, mat: dict[str, np.ndarray]
) -> None:
    missing = set(cvact_plan.details["missing"])
    name = next(p for p in mat["panoIds"][members(mat, "val")] if p not in missing)
    files = rendered(cvact_plan, lambda path: name in path)
    assert picture(files[f"ANU_data_small/satview_polish/{name}_satView_polish.jpg"]).shape == (48, 48, 3)
    assert picture(files[f"ANU_data_small/streetview/{name}_grdView.jpg"]).shape == (32, 64, 3)
    for kind in (f"satview_polish/{name}_satView_polish.jpg", f"streetview/{name}_grdView.jpg"):
        assert files[f"ANU_data_small/{kind}"] == files[f"ANU_data_test/{kind}"]
    full = cvact.plan(cvact.CvactSpec(train=2, validation=1, test=2)).pictures
    assert {(p.view, p.width_px, p.height_px) for p in full} == {
        ("aerial", 1200, 1200),
        ("panorama", 1664, 832),
    }
