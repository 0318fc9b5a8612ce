from __future__ import annotations

import numpy as np
import pytest

from geoloc.synthetic.layouts import cvusa, labels
from geoloc.synthetic.layouts.render import make_city
from geoloc.synthetic.layouts.view_images import Export
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.panorama import trace
from geoloc.synthetic.world.view_conditions import photo_look

from .conftest import Files, picture, rendered, table, truth


@pytest.fixture(scope="module")
def files(cvusa_plan: Export) -> Files:
    first = {"0000001", "0000002", "0000003"}
    return rendered(cvusa_plan, lambda path: path.split("/")[-1].split(".")[0] in first)


def test_split_files_name_aerial_panorama_and_annotation(cvusa_plan: Export) -> None:
    names: dict[str, set[str]] = {}
    for split, count in (("train", 30), ("val", 12)):
        rows = table(cvusa_plan.annotations[f"splits/{split}-19zl.csv"])
        assert len(rows) == count
        names[split] = {row[0].removeprefix("bingmap/19/").removesuffix(".jpg") for row in rows}
        for aerial, panorama, annotation in rows:
            number = aerial.removeprefix("bingmap/19/").removesuffix(".jpg")
            assert (len(number), number.isdecimal()) == (7, True)
            assert panorama == f"streetview/panos/{number}.jpg"
            assert annotation == f"streetview/annotations/{number}.png"
    assert names["train"] | names["val"] == {f"{k:07d}" for k in range(1, 43)}
    paths = {p.path for p in cvusa_plan.pictures}
    rows = [r for s in ("train", "val") for r in table(cvusa_plan.annotations[f"splits/{s}-19zl.csv"])]
    assert {path for row in rows for path in row} == paths


def test_row_n_of_the_locations_is_the_pair_with_id_n(cvusa_plan: Export) -> None:
    rows = truth(cvusa_plan)
    for number, row in enumerate(table(cvusa_plan.annotations["split_locations/all.csv"]), start=1):
        assert len(row) == 5
        assert row[:2] == row[2:4]
        exact = rows[f"streetview/panos/{number:07d}.jpg"]
        assert [float(v) for v in row[2:4]] == pytest.approx(
            [float(exact["lat"]), float(exact["lon"])], abs=1e-8
        )
        assert exact["heading_deg"] == "0.0000"
        aerial = rows[f"bingmap/19/{number:07d}.jpg"]
        assert (aerial["x_m"], aerial["y_m"], aerial["split"]) == (exact["x_m"], exact["y_m"], exact["split"])


def test_training_and_validation_never_see_the_same_place(cvusa_plan: Export) -> None:
    place = {s: np.array([(p.x, p.y) for p in cvusa_plan.pictures if p.split == s]) for s in ("train", "val")}
    apart = np.linalg.norm(place["train"][:, None] - place["val"][None], axis=-1)
    assert apart.min() > 2 * 130 + cvusa_plan.details["tile_m"] / np.sqrt(2)


def test_ids_say_nothing_about_the_place(cvusa_plan: Export) -> None:
    x = np.array([p.x for p in cvusa_plan.pictures if p.view == "panorama"])
    assert abs(np.corrcoef(np.arange(len(x)), x)[0, 1]) < 0.4


def test_pictures_have_the_form_of_the_published_ones(cvusa_plan: Export, files: Files) -> None:
    assert cvusa_plan.details["tile_m"] == pytest.approx(158.4, rel=0.005)
    aerial = picture(files["bingmap/19/0000001.jpg"])
    photo = picture(files["streetview/panos/0000001.jpg"])
    classes = picture(files["streetview/annotations/0000001.png"])
    assert (aerial.shape, photo.shape, classes.shape) == ((60, 60, 3), (28, 154, 3), (28, 154))
    full = cvusa.plan(cvusa.CvusaSpec(train=2, validation=2)).pictures
    assert {(p.view, p.width_px, p.height_px) for p in full} == {
        ("aerial", 750, 750), ("panorama", 1232, 224), ("labels", 1232, 224),
    }  # fmt: skip


def test_annotations_say_what_the_panorama_shows(cvusa_plan: Export, files: Files) -> None:
    city = make_city(cvusa_plan.cities[0])
    for one in [p for p in cvusa_plan.pictures if p.view == "panorama" and p.path in files]:
        classes = picture(files[one.path.replace("panos", "annotations").replace(".jpg", ".png")])
        assert set(np.unique(classes)) <= set(range(5))
        window = city.window((one.x - 132, one.y - 132, one.x + 132, one.y + 132))
        camera = Camera(one.height_px, one.width_px, one.top_deg, one.bottom_deg, supersampling=1)
        _, depth = trace(window, (one.x, one.y), photo_look(city.seed, *one.key), camera, one.heading_deg)
        assert (np.isinf(depth) == (classes == labels.SKY)).mean() > 0.95
        assert (classes[-4:] == labels.HARD).mean() > 0.4
        assert len(np.unique(classes)) >= 3
