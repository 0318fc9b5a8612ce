"""A calibration as a file: stored without surprises, old ones refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.localization.calibration import (
    Calibration,
    KindCalibration,
    OldCalibration,
    calibration_uri,
    load_calibration,
    query_kind,
    save_calibration,
    ship_calibration,
)
from geoloc.localization.calibration_fit import fit_kind
from geoloc.localization.cluster import ClusterSettings

from .judged import judged, training

NAME = query_kind("panorama", True)


@pytest.fixture(scope="module")
def fit() -> KindCalibration:
    return fit_kind(training(), ClusterSettings())


def of(snapshot_id: str, **kinds: KindCalibration) -> Calibration:
    return Calibration(
        snapshot_id=snapshot_id,
        model_id="m",
        rerank=100,
        bits=64,
        tiles=5,
        spacing_m=None,
        origin=None,
        transferred=False,
        query_kinds=kinds,
    )


def test_saved_and_loaded_it_gives_the_same_numbers(tmp_path: Path, fit: KindCalibration) -> None:
    saved = of("a" * 32, **{NAME: fit})
    save_calibration(str(tmp_path), saved)
    loaded = load_calibration(str(tmp_path), "a" * 32)
    assert loaded == saved
    assert loaded is not None
    new = judged(50, 3)
    one, other = (each.judge(new.features, new.spacing_m) for each in (loaded.query_kinds[NAME], fit))
    for name in ("log_odds", "located", "radius_m", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert load_calibration(str(tmp_path), "b" * 32) is None


def test_a_broken_or_foreign_file_is_named(tmp_path: Path) -> None:
    uri = str(tmp_path)
    saved = save_calibration(uri, of("a" * 32))
    content = json.loads((tmp_path / "calibration" / f"{'a' * 32}.json").read_text())
    (tmp_path / "calibration" / f"{'b' * 32}.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="belongs to snapshot"):
        load_calibration(uri, "b" * 32)
    assert saved == calibration_uri(uri, "a" * 32)
    for broken in ("{}", "no json", "[]"):
        (tmp_path / "calibration" / f"{'a' * 32}.json").write_text(broken)
        with pytest.raises(CorruptArtifact, match="is not a calibration"):
            load_calibration(uri, "a" * 32)


def test_a_calibration_of_the_first_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    old = {"format_version": 1, "snapshot_id": "a" * 32, "coverage": 0.9, "rerank": 100, "protocols": {}}
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / f"{'a' * 32}.json").write_text(json.dumps(old))
    with pytest.raises(OldCalibration, match=r"format 1, .*geoloc calibrate"):
        load_calibration(str(tmp_path), "a" * 32)


def test_a_falling_curve_is_no_calibration(tmp_path: Path, fit: KindCalibration) -> None:
    content = of("a" * 32, **{NAME: fit}).model_dump(mode="json")
    content["query_kinds"][NAME]["odds"]["heights"][0] = content["query_kinds"][NAME]["odds"]["heights"][0][
        ::-1
    ]
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / f"{'a' * 32}.json").write_text(json.dumps(content))
    with pytest.raises(CorruptArtifact):
        load_calibration(str(tmp_path), "a" * 32)


def test_a_shipped_calibration_is_marked(tmp_path: Path) -> None:
    uri = ship_calibration(str(tmp_path), of("a" * 32))
    shipped = json.loads(Path(uri).read_text())
    assert (shipped["transferred"], shipped["origin"]) == (True, "a" * 32)
