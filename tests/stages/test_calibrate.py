"""The stage that calibrates: on real photos of a small index, and what the index answers afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_index import SmallIndex, build

from geoloc.core import geodesy, storage
from geoloc.core.errors import ArtifactError
from geoloc.index.format.commit import current_snapshot
from geoloc.localization.calibration import load_calibration
from geoloc.localization.localizer import Localizer
from geoloc.localization.no_place import no_place_picture
from geoloc.stages.calibrate import CalibrateConfig, CalibrateInputs, CalibrateResult, run
from geoloc.stages.evaluate import EvaluateConfig, EvaluateInputs
from geoloc.stages.evaluate import run as evaluate

pytestmark = pytest.mark.usefixtures("ray_local", "parts_here_in_module")
CONFIG = CalibrateConfig(rerank=20, no_place=60, known_heading_only=True)
KIND = "panorama/heading_known"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    return build(tmp_path_factory.mktemp("calibrated"), count=200, seed=5)


@pytest.fixture(scope="module")
def fitted(ray_local: None, parts_here_in_module: None, small: SmallIndex) -> CalibrateResult:
    output = str(Path(small.index).parent / "fit")
    return run(CONFIG, CalibrateInputs(index=small.index, photos=[small.ingested]), output)


def test_the_calibration_lies_with_the_index_and_names_its_photos(
    small: SmallIndex, fitted: CalibrateResult
) -> None:
    assert fitted.sound
    assert fitted.query_kinds[KIND].photos >= 100
    assert fitted.query_kinds[KIND].strangers == {
        "hidden": fitted.query_kinds[KIND].photos,
        "no_place": fitted.query_kinds[KIND].strangers["no_place"],
    }
    stored = load_calibration(small.index, current_snapshot(small.index))
    assert stored is not None
    assert set(stored.query_kinds) == set(fitted.query_kinds)
    assert (stored.rerank, stored.tiles, stored.transferred) == (20, 200, False)
    assert stored.spacing_m == pytest.approx(100.0, rel=0.01)


def test_photos_of_the_area_are_located_and_others_are_not(
    small: SmallIndex, fitted: CalibrateResult
) -> None:
    localizer = Localizer.open(small.index, device="cpu")
    own = [
        localizer.localize(small.panoramas[k], view="panorama", heading_deg=0.0, rerank=20)
        for k in range(0, 200, 5)
    ]
    assert np.mean([fix.located for fix in own]) > 0.7
    for number, fix in zip(range(0, 200, 5), own, strict=True):
        if fix.located:
            error = geodesy.distance_m(fix.lat, fix.lon, small.lat[number], small.lon[number])
            assert error <= fix.radius_m or error > 50.0  # a wrong tile is 100 m away at least
    nowhere = [
        localizer.localize(no_place_picture(k, 32, 64, seed=9), view="panorama", heading_deg=0.0, rerank=20)
        for k in range(30)
    ]
    assert sum(fix.located for fix in nowhere) <= 1
    assert all(fix.calibrated for fix in own)


def test_it_is_reused_and_refused_like_every_stage(small: SmallIndex, fitted: CalibrateResult) -> None:
    inputs = CalibrateInputs(index=small.index, photos=[small.ingested])
    shutil.rmtree(Path(small.index) / "calibration")
    again = run(CONFIG, inputs, fitted.output)
    assert again.reused
    assert load_calibration(small.index, again.snapshot_id) is not None, "a reused fit is stored again"
    with pytest.raises(ArtifactError, match="--overwrite"):
        run(CONFIG.model_copy(update={"false_accepts": 0.1}), inputs, fitted.output)


def test_an_evaluation_measures_the_promise(
    small: SmallIndex, fitted: CalibrateResult, tmp_path: Path
) -> None:
    config = EvaluateConfig(rerank=20, report_queries=0)
    result = evaluate(config, EvaluateInputs(index=small.index, queries=small.ingested), str(tmp_path / "o"))
    row = next(row for row in result.coverage if row.protocol == KIND)
    assert row.inside_percent is not None
    assert row.inside_percent >= 85.0
    assert row.false_accept_percent is not None
    assert row.false_accept_percent <= 10.0
    assert "located with their surroundings hidden" in result.text()
    assert "What answers promise" in storage.read_text(str(tmp_path / "o" / "report.html"))


def test_too_few_photos_store_nothing_and_say_how_many_are_needed(tmp_path: Path) -> None:
    small = build(tmp_path, count=12)
    result = run(CONFIG, CalibrateInputs(index=small.index, photos=[small.ingested]), str(tmp_path / "fit"))
    assert not result.sound
    assert any("it needs 60" in sentence for sentence in result.not_calibrated)
    assert load_calibration(small.index, result.snapshot_id) is None
    assert json.loads((tmp_path / "fit" / "calibration.json").read_text())["calibration"]["query_kinds"] == {}


def test_a_shipped_calibration_starts_an_index_of_another_place(
    small: SmallIndex, fitted: CalibrateResult, tmp_path: Path
) -> None:
    model = str(tmp_path / "model")
    shutil.copytree(small.model, model)
    inputs = CalibrateInputs(index=small.index, photos=[small.ingested], ship=model)
    run(CONFIG, inputs, fitted.output)
    shipped = json.loads(Path(model, "calibration.json").read_text())
    assert shipped["transferred"]
    assert set(shipped["query_kinds"]) == set(fitted.query_kinds)
