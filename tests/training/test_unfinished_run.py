from __future__ import annotations

import json
from pathlib import Path

import pytest

from geoloc.core.errors import ArtifactError, TrainingDiverged
from geoloc.training.unfinished_run import UnfinishedRun, differences


def test_differences_are_named_with_both_values() -> None:
    before = {"seed": 1, "training": {"steps": 5, "drops": [[0.5, 0.1]]}, "same": [1, 2]}
    now = {"seed": 2, "training": {"steps": 5, "largest_gradient": 1.0}, "same": (1, 2)}
    assert differences(before, now) == (
        "seed was 1 and is 2, training.drops was [[0.5, 0.1]] and is absent, "
        "training.largest_gradient was absent and is 1.0"
    )
    assert differences(before, before) == ""
    many = differences({}, {f"key{number:02d}": number for number in range(11)})
    assert many.endswith("key07 was absent and is 7, and 3 more")


def test_a_run_goes_on_with_its_own_settings_only(tmp_path: Path) -> None:
    record = UnfinishedRun(str(tmp_path / "checkpoints"))
    record.begin({"recipe": {"seed": 1}}, overwrite=False)
    record.note_spent(7, 3.0, 2.0)
    record.begin({"recipe": {"seed": 1}}, overwrite=False)
    spent = record.spent()
    assert (spent.step, spent.wall_s, spent.cpu_s) == (7, 3.0, 2.0)
    with pytest.raises(ArtifactError, match=r"unfinished training that differs: recipe\.seed was 1 and is 2"):
        record.begin({"recipe": {"seed": 2}}, overwrite=False)
    assert record.spent() == spent
    record.begin({"recipe": {"seed": 2}}, overwrite=True)
    assert record.spent().step == 0
    assert json.loads((tmp_path / "checkpoints" / "run.json").read_text()) == {"recipe": {"seed": 2}}


def test_why_a_run_gave_up_is_kept_until_it_begins_again(tmp_path: Path) -> None:
    record = UnfinishedRun(str(tmp_path / "checkpoints"))
    record.begin({}, overwrite=False)
    record.raise_failure()
    record.note_failure(TrainingDiverged("The loss became nan."))
    with pytest.raises(TrainingDiverged, match="The loss became nan"):
        record.raise_failure()
    record.begin({}, overwrite=False)
    record.raise_failure()
