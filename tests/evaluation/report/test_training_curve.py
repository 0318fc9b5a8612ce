from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from geoloc.evaluation.report.plots import training_curve
from geoloc.evaluation.report.report import _training
from geoloc.models.store import read_log

LOG = [{"step": step, "loss": 6.0 / step, "batch_accuracy": 1 - 1 / step} for step in (1, 2, 4)]


def colours(data: bytes) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
    return {tuple(int(value) for value in pixel) for pixel in np.unique(pixels, axis=0)}


def test_curves_are_drawn_for_what_a_log_has() -> None:
    measured = [*LOG, {"step": 4.0, "validation_recall_1": 50.0}, {"step": 6.0, "validation_recall_1": 70.0}]
    blue, orange, green = (31, 119, 180), (255, 127, 14), (44, 160, 44)
    assert {blue, orange} <= colours(training_curve(LOG))
    assert green not in colours(training_curve(LOG))
    assert {blue, orange, green} <= colours(training_curve(measured))


def test_a_report_of_a_model_without_a_log_has_no_curve(tmp_path: Path) -> None:
    assert read_log(str(tmp_path)) == []
    assert _training([]) == _training(LOG[:1]) == ""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    section = _training(read_log(str(tmp_path)))
    assert section.startswith("<h2>How the model was trained</h2>")
    assert "data:image/png;base64," in section
