"""The bench of training on a small recipe: what it runs, what it counts and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geoloc.bench.train import TrainBench, TrainReport, _report, run
from geoloc.cli import main
from geoloc.core.errors import ConfigError
from geoloc.recipe.recipe import Recipe
from geoloc.training.step_times import PARTS


def test_bars_compare_the_slowest_workers_round_by_round(tiny: Recipe) -> None:
    shares = [dict.fromkeys(PARTS, 0.0) | {"data": data, "forward": 1 - data} for data in (0.05, 0.2, 0.08)]
    found = {"trainer": [1.0, 2.0, 1.0], "plain": [0.8, 1.9, 0.95], "shares": shares}
    report = _report(TrainBench(workers=2), tiny, found)
    ratio, data = report.bars
    assert ratio.value.median == pytest.approx(0.95)
    assert ratio.value.min == pytest.approx(0.8)
    assert ratio.met
    assert data.value.median == pytest.approx(0.08)
    assert data.met
    assert report.pairs == 8
    text = report.text()
    assert "trainer          8.0 pairs/s of each of 2 workers" in text
    assert "data 8.0%, forward 92.0%" in text
    assert TrainReport.model_validate_json(report.model_dump_json()) == report


def test_what_it_cannot_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match="'university1652' needs other data"):
        run(TrainBench(recipe="university1652"))
    with pytest.raises(ConfigError, match="A batch of 128 pairs cannot be shared by 3 workers"):
        run(TrainBench(workers=3))


@pytest.mark.slow
def test_workers_and_plain_loops_take_turns(
    tiny_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "bench",
        "train",
        "--recipe",
        tiny_path,
        "--rounds",
        "2",
        "--steps",
        "2",
        "--scratch",
        str(tmp_path),
    ]
    assert main([*words, "--output", str(tmp_path / "report.json")]) == 0
    report = TrainReport.model_validate_json((tmp_path / "report.json").read_text())
    assert len(report.trainer_s) == len(report.plain_s) == 2
    assert all(time_s > 0 for time_s in (*report.trainer_s, *report.plain_s))
    assert sum(report.shares.values()) == pytest.approx(1.0, abs=0.05)
    assert report.shares["communication"] > 0
    assert [bar.limit for bar in report.bars] == [0.9, 0.1]
    assert "a plain loop's time / its time" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["workers"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report.json",
        "tiny.yaml",
    ]  # no scratch is left
