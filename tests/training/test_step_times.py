from __future__ import annotations

import pytest

from geoloc.recipe.recipe import Recipe
from geoloc.training import step_times
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.step_times import PARTS, TIMES, StepTimes
from tests.training.test_step import noise


def test_a_part_inside_another_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 12.0, 15.0, 16.0, 20.0, 24.0])
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: next(clock))
    times = StepTimes()
    with times.of("forward"), times.of("data"):  # 2 s of forward, 3 s of data, 1 s of forward
        pass
    with times.of("backward"):  # 4 s; the 4 s between count for nothing
        pass
    none = {"communication": 0.0, "optimizer": 0.0, "mining": 0.0}
    assert times.shares() == pytest.approx({"data": 0.3, "forward": 0.3, "backward": 0.4, **none})
    assert set(times.shares().values()) == {0.0}


def test_a_step_has_all_parts_of_one_worker(tiny: Recipe) -> None:
    recipe = tiny.with_overrides(batch_size=8)
    trainer = PairTrainer(noise(recipe), recipe)
    TIMES.shares()
    trainer.step(0.0)
    shares = TIMES.shares()
    assert tuple(shares) == PARTS
    assert {part for part, share in shares.items() if share > 0} == {
        "data",
        "forward",
        "backward",
        "optimizer",
    }
    assert sum(shares.values()) == pytest.approx(1.0)
