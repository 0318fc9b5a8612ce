"""What `geoloc index inspect` says of the calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_index import SmallIndex, build

from geoloc.core import storage
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.manifest import read_manifest
from geoloc.localization.calibration import (
    Calibration,
    KindCalibration,
    calibration_uri,
    save_calibration,
    ship_calibration,
)
from geoloc.localization.calibration_fit import fit_kind
from geoloc.localization.cluster import ClusterSettings
from geoloc.localization.evidence import NAMES, PlaceEvidence
from geoloc.localization.hypotheses import Places
from geoloc.localization.judgement import describe_index, judge_places
from geoloc.localization.locator import Locator

from .judged import training


@pytest.fixture(scope="module")
def fit() -> KindCalibration:
    return fit_kind(training(200), ClusterSettings())


def of(index: str, fit: KindCalibration, **changes: object) -> Calibration:
    snapshot_id = current_snapshot(index)
    manifest = read_manifest(index, snapshot_id)
    fields = {
        "snapshot_id": snapshot_id,
        "model_id": manifest.model.model_id,
        "rerank": 100,
        "bits": manifest.bits,
        "tiles": manifest.count,
        "spacing_m": 100.0,
        "query_kinds": {"panorama/heading_known": fit},
    }
    return Calibration.model_validate(fields | changes)


def test_inspection_names_the_kinds_and_what_changed(tmp_path: Path, fit: KindCalibration) -> None:
    index = build(tmp_path, count=9).index
    assert describe_index(index).calibrated_kinds == []
    save_calibration(index, of(index, fit))
    assert describe_index(index).calibrated_kinds == ["panorama/heading_known"]
    assert describe_index(index).calibration_notes == []
    save_calibration(index, of(index, fit, tiles=900, model_id="other"))
    notes = describe_index(index).calibration_notes
    assert ["belongs to model other" in notes[0], "fitted on 900 tiles" in notes[1]] == [True, True]
    storage.write_bytes(calibration_uri(index, current_snapshot(index)), b"nothing")
    assert "is not a calibration" in describe_index(index).calibration_notes[0]


def test_a_calibration_that_lies_in_the_model_is_taken_and_marked(
    tmp_path: Path, fit: KindCalibration
) -> None:
    first: SmallIndex = build(tmp_path / "first", count=9)
    ship_calibration(first.model, of(first.index, fit))

    def with_shipped(root: Path) -> str:
        """An index whose model directory has the calibration, as `index build` copies it."""
        import small_index

        original = small_index.make_model

        def shipped(uri: str, recipe: object) -> object:
            encoder = original(uri, recipe)  # type: ignore[arg-type]
            storage.copy_file(f"{first.model}/calibration.json", f"{uri}/calibration.json")
            return encoder

        small_index.make_model = shipped  # type: ignore[assignment]
        try:
            return build(root, count=16, seed=4).index
        finally:
            small_index.make_model = original

    index = with_shipped(tmp_path / "second")
    locator = Locator.open(index)
    assert locator.calibration is not None
    assert any("came with the model" in note for note in locator.notes)
    assert describe_index(index).calibrated_kinds == ["panorama/heading_known"]


def test_weights_sum_to_one_at_most_and_nothing_is_located_without_a_place(fit: KindCalibration) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(2, 2, (40, 5, len(NAMES)))
    features[:10] = np.nan
    evidence = PlaceEvidence(features, np.full((40, 5), 10.0), rng.normal(2, 2, (40, 5, 2)))
    empty = np.zeros((40, 5))
    places = Places(
        empty, empty, empty.astype(np.int64), empty.astype(np.int64), empty, np.zeros((40, 5, 3), bool)
    )
    judged = judge_places(fit, places, evidence)
    assert (judged.weight.sum(axis=1) <= 1 + 1e-9).all()
    assert (judged.weight >= 0).all()
    assert not judged.located[:10].any()
    assert (judged.weight[:10] == 0).all()
