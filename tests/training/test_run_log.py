from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from geoloc.core.errors import ConfigError
from geoloc.training import run_log
from geoloc.training.run_log import RunLog, check_tensorboard, log_every, time_left


def test_lines_of_one_step_are_joined() -> None:
    log = RunLog()
    log.add({"step": 3, "loss": 2.0})
    log.add({"step": 6, "loss": 1.0})
    log.add({"step": 6, "validation_recall_1": 50.0})
    assert log.lines == [{"step": 3, "loss": 2.0}, {"step": 6, "loss": 1.0, "validation_recall_1": 50.0}]


def test_a_long_run_has_about_as_many_lines_as_a_short_one() -> None:
    assert [log_every(steps) for steps in (1, 199, 650, 100_000)] == [1, 1, 3, 500]
    assert [time_left(seconds) for seconds in (3, 89, 100, 3600, 9000)] == [
        "3 s left", "89 s left", "2 min left", "60 min left", "2.5 h left"
    ]  # fmt: skip


def test_without_tensorboard_its_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'geoloc\[tensorboard\]'"):
        check_tensorboard()


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed"
)
def test_scalars_come_back_from_tensorboards_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(str(tmp_path))
    for step in (1, 2):
        log.add({"step": step, "loss": step / 2})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(1, 0.5), (2, 1.0)]
