from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from geoloc.synthetic.layouts import university1652
from geoloc.synthetic.layouts.view_images import Export
from geoloc.synthetic.world.raster import City

from .conftest import picture, rendered, truth


def tree(export: Export) -> dict[str, dict[str, list[str]]]:
    """File names by folder and building, read from the paths alone."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in (p.path for p in export.pictures):
        parts = path.split("/")
        if len(parts) == 4:
            found.setdefault("/".join(parts[:2]), {}).setdefault(parts[2], []).append(parts[3])
    return found


def test_folders_are_the_published_ones(university_plan: Export) -> None:
    found = tree(university_plan)
    test = {
        f"test/{kind}_{view}" for kind in ("query", "gallery") for view in ("drone", "satellite", "street")
    }
    assert set(found) == test | {f"train/{view}" for view in ("drone", "satellite", "street", "google")}
    train, query, gallery = (
        set(found[name]) for name in ("train/drone", "test/query_drone", "test/gallery_drone")
    )
    assert (len(train), len(query), len(gallery)) == (6, 5, 8)
    assert query < gallery
    assert not train & gallery
    assert all(len(label) == 4 and label.isdecimal() for label in train | gallery)
    assert set(found["test/gallery_satellite"]) == gallery
    assert set(found["test/query_satellite"]) == set(found["test/query_street"]) == query
    assert query <= set(found["test/gallery_street"]) <= gallery
    assert set(found["train/google"]) == {label for label in train if int(label) % 2}


def test_files_are_named_as_published(university_plan: Export) -> None:
    found = tree(university_plan)
    for name, labels in found.items():
        for label, files in labels.items():
            if name.endswith("drone"):
                assert files == ["image-01.jpeg", "image-02.jpeg", "image-03.jpeg"]
            elif name.endswith("satellite"):
                assert files == [f"{label}.jpg"]
            else:
                assert all(file.removesuffix(".jpg").isdecimal() for file in files)


def test_the_published_size_is_the_default() -> None:
    spec = university1652.UniversitySpec()
    assert (spec.train, spec.test, spec.test + spec.extra, spec.drone_views) == (701, 701, 951, 54)
    tiny = university1652.plan(university1652.UniversitySpec(train=1, test=1, extra=1))
    assert Counter(p.path.rsplit("/", 1)[0] for p in tiny.pictures if p.view == "drone").popitem()[1] == 54
    assert {(p.width_px, p.height_px) for p in tiny.pictures} == {(512, 512)}
    assert not any("160k" in p.path for p in tiny.pictures)


def test_drones_circle_the_building_that_the_tile_shows(university_plan: Export) -> None:
    rows = truth(university_plan)
    centre = {
        r["place"]: (float(r["x_m"]), float(r["y_m"]), r["city"])
        for r in rows.values()
        if r["view"] == "aerial"
    }
    for path, row in rows.items():
        if row["view"] not in ("drone", "street") or not row["place"] or "160k" in path:
            continue
        x, y, city = centre[row["place"]]
        assert row["city"] == city
        east, north = x - float(row["x_m"]), y - float(row["y_m"])
        turn = np.degrees(np.arctan2(east, north)) - float(row["heading_deg"])
        assert (turn + 180) % 360 == pytest.approx(180, abs=0.1)
        if row["view"] == "drone":
            assert float(row["pitch_deg"]) == pytest.approx(-45)
            assert np.hypot(east, north) == pytest.approx(float(row["altitude_m"]), abs=0.02)
        else:
            assert 6 < np.hypot(east, north) < 120


def test_universities_of_training_and_test_are_in_different_cities(university_plan: Export) -> None:
    city = {True: set(), False: set()}
    for row in truth(university_plan).values():
        city[row["split"] == "train"].add(row["city"])
    assert not city[True] & city[False]
    assert len({c.seed for c in university_plan.cities}) == len(university_plan.cities)


def test_neighbouring_universities_stand_apart() -> None:
    spec = university1652.UniversitySpec(train=100, test=1, extra=1, drone_views=1)
    places = np.array(
        [(p.x, p.y) for p in university1652.plan(spec).pictures if p.path.startswith("train/satellite")]
    )
    city = np.array(
        [p.city for p in university1652.plan(spec).pictures if p.path.startswith("train/satellite")]
    )
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    same = city[:, None] == city[None]
    assert apart[same & (apart > 0)].min() >= 45
    first = places[city == 0]
    cluster = first[:, 0] < first[:23, 0].max() + 1
    assert cluster.sum() < len(first)
    assert first[~cluster, 0].min() - first[cluster, 0].max() > 400


def test_the_160k_folders_hold_masked_names(university_plan: Export) -> None:
    rows = truth(university_plan)
    gallery = [row for path, row in rows.items() if path.startswith("test/gallery_satellite_160k/")]
    drones = [row for path, row in rows.items() if path.startswith("test/query_drone_160k/")]
    assert (len(gallery), len(drones)) == (9, 5 * 3)
    assert all(row["place"] for row in drones)
    assert not any(row["place"] for row in gallery)
    for row in (*gallery, *drones):
        assert not row["place"] or row["place"] not in row["path"].split("/")[-1]
        assert row["path"].count("/") == 2
    known = [(float(r["x_m"]), float(r["y_m"])) for r in rows.values() if r["split"] == "gallery"]
    for row in gallery:
        assert min(np.hypot(float(row["x_m"]) - x, float(row["y_m"]) - y) for x, y in known) > 100


def test_a_challenge_has_the_gallery_among_the_distractors() -> None:
    spec = university1652.UniversitySpec(
        train=1, test=2, extra=1, distractors=4, drone_views=1, masked_gallery=True
    )
    rows = [row for path, row in truth(university1652.plan(spec)).items() if "gallery_satellite_160k" in path]
    assert sorted(bool(row["place"]) for row in rows) == [False] * 4 + [True] * 3


def test_buildings_stand_in_both_epochs_that_are_pictured() -> None:
    spec = university1652.UniversitySpec(train=30, test=2, extra=1, drone_views=1, photo_epoch=1)
    export = university1652.plan(spec)
    assert {(p.view, p.epoch) for p in export.pictures} == {("aerial", 0), ("drone", 1), ("street", 1)}
    places = {(p.city, p.x, p.y) for p in export.pictures if p.path.startswith("train/satellite")}
    for number, x, y in places:
        source = export.cities[number]
        for epoch in (0, 1):
            city = City(source.seed, source.style, epoch)
            rows = [city.block(i, j).buildings for i, j in city.network.blocks_in((x, y, x, y))]
            assert ((np.concatenate(rows)["x"] == x) & (np.concatenate(rows)["y"] == y)).any()
    alone = university1652.plan(university1652.UniversitySpec(train=30, test=2, extra=1, drone_views=1))
    before = {(p.city, p.x, p.y) for p in alone.pictures if p.path.startswith("train/satellite")}
    assert places != before  # some were pulled down in between


@pytest.mark.slow
def test_pictures_show_the_building(university_plan: Export) -> None:
    label = sorted(tree(university_plan)["test/query_drone"])[0]
    files = rendered(university_plan, lambda path: f"/{label}/" in path)
    shown = {path: picture(data) for path, data in files.items() if path.endswith((".jpg", ".jpeg"))}
    assert {image.shape for image in shown.values()} == {(32, 32, 3)}
    for path, data in files.items():
        if path.startswith("test/query_") and path.endswith("g"):
            assert files[path.replace("query_", "gallery_")] == data
