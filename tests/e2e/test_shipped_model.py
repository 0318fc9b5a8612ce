"""How the model in the box is made and measured, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoloc import Localizer
from geoloc.core import geodesy, part_table
from geoloc.core.images import decode_image
from geoloc.demo import shipped_model
from geoloc.demo.photos_anywhere import LOOKS, Look, _taken, measure_anywhere
from geoloc.demo.shipped_model import RECORD_NAME, ShippedModelConfig
from geoloc.localization.query_photos import photo

from .conftest import RECIPE, SIZES

pytestmark = pytest.mark.timeout(900)


def test_a_look_says_no_more_than_it_may() -> None:
    panorama = np.random.default_rng(0).integers(0, 255, (64, 256, 3)).astype(np.uint8)
    known, unknown = (_taken(panorama, 30.0, look, 50.0, 1.0) for look in LOOKS[:2])
    assert (known.view, known.fov_deg, known.heading_deg, known.compass) == ("panorama", 360.0, 30.0, None)
    assert unknown.heading_deg is None
    compass = _taken(panorama, 30.0, Look("", 70.0, 20.0), 50.0, -0.5)
    assert (compass.view, compass.fov_deg, compass.compass) == ("street", 70.0, (70.0, 20.0))
    assert _taken(panorama, 30.0, Look("", 70.0), 50.0, 1.0).heading_deg is None


def test_figures_are_those_of_a_plain_count(demo: Any, demo_folder: str) -> None:
    index, queries = f"{demo_folder}/index", f"{demo_folder}/tables/anywhere/queries"
    figures = {one.name: one for one in measure_anywhere(index, queries)}
    assert list(figures) == [look.name for look in LOOKS]
    localizer, errors_m = Localizer.open(index), []
    for row in part_table.read(queries).to_pylist():
        one = photo(
            decode_image(row["image"]), view="panorama", fov_deg=360.0, heading_deg=row["heading_deg"] % 360.0
        )
        first = localizer.localize_batch([one])[0].hypotheses[0]
        errors_m.append(geodesy.distance_m(row["lat"], row["lon"], first.lat, first.lon))
    known = figures["panorama, north known"]
    assert known.photos == len(errors_m) == SIZES["anywhere-photos"]
    assert known.median_m == pytest.approx(float(np.median(errors_m)))
    assert known.within_10m == sum(error <= 10 for error in errors_m) / len(errors_m)


def test_a_circle_to_search_holds_the_truth_and_bounds_the_error(demo: Any, demo_folder: str) -> None:
    index, queries = f"{demo_folder}/index", f"{demo_folder}/tables/anywhere/queries"
    bounded = [one for one in measure_anywhere(index, queries) if "500 m" in one.name]
    assert len(bounded) == 2
    for one in bounded:
        assert one.median_m <= 1.5 * 500 + 64  # half the radius from the centre, and a tile's reach


@pytest.mark.slow
def test_the_model_is_made_and_measured(ray_local: None, tmp_path: Path) -> None:
    sizes = {name.replace("-", "_"): value for name, value in SIZES.items()}
    config = ShippedModelConfig(
        **{**sizes, "recipe": RECIPE, "workers": 1, "steps": 3},
        further_recipe=RECIPE,
        further_photos=48,
        further_steps=3,
    )
    done = shipped_model.run(config, str(tmp_path / "out"))
    record = json.loads((tmp_path / "out" / RECORD_NAME).read_text())
    assert record == json.loads(done.model_dump_json())
    assert done.model_uri == str(tmp_path / "out" / "model")
    assert {one.photos for one in done.figures} == {SIZES["anywhere-photos"]}
    again = shipped_model.run(config, str(tmp_path / "out"))
    assert again == done
