"""The bench of encoding on a small network: what it runs, what it counts and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from geoloc.bench.encode import AT_ONCE, CUT, FORWARD, RECODE, TABLE, EncodeBench, run
from geoloc.cli import main
from geoloc.core.errors import InputError
from tests.small_index import make_model, small_recipe
from tests.stages.ingest_inputs import make_sheets


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("model"))
    make_model(uri, small_recipe())
    return uri


def test_the_report_has_every_variant_and_bar(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    words = ["bench", "encode", "--model", model, "--rounds", "2", "--batch-size", "16"]
    assert main([*words, "--output", str(tmp_path / "report.json")]) == 0
    assert torch.get_num_threads() == threads
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["seconds"]) == {FORWARD, AT_ONCE, TABLE, CUT, RECODE}
    assert {len(times) for times in report["seconds"].values()} == {2}
    assert all(time_s > 0 for times in report["seconds"].values() for time_s in times)
    assert report["tiles"] >= 16
    assert [bar["limit"] for bar in report["bars"]] == [0.85, 0.85, 0.8]
    # 16 bytes of code, 128 float16 of embedding and the ids; the pictures are 64 x 64 JPEGs.
    assert 16 + 256 < report["code_bytes"] < report["picture_bytes"]
    text = capsys.readouterr().out
    assert "every 10 m" in text
    assert "encoding at once: the network's forward pass / time" in text


def test_own_imagery_without_a_tile_says_so(tmp_path: Path, model: str) -> None:
    recipe = small_recipe()
    wide = recipe.model_copy(update={"model": recipe.model.model_copy(update={"tile_m": 900.0})})
    make_model(str(tmp_path / "wide"), wide)
    imagery = [make_sheets(tmp_path / "sheets", 1)]
    with pytest.raises(InputError, match="no tile to measure with"):
        run(EncodeBench(imagery=imagery, model=str(tmp_path / "wide"), rounds=1, stride_m=100.0))
    assert run(EncodeBench(imagery=imagery, model=model, rounds=1, stride_m=20.0)).tiles > 16
