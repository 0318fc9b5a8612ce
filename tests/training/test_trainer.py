from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from geoloc.core.errors import TrainingDiverged
from geoloc.recipe.recipe import Recipe
from geoloc.training.optimizer import learning_rate
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, load_pairs
from geoloc.training.pair_trainer import PairTrainer


@pytest.fixture(scope="module")
def store(ingested: str, tiny: Recipe) -> PairStore:
    return load_pairs(ingested, read_index(ingested), tiny)


def test_the_tiny_model_learns_its_pairs(store: PairStore, tiny: Recipe) -> None:
    trainer = PairTrainer(store, tiny)
    results = [trainer.step(step / 40) for step in range(40)]
    first = np.mean([float(result.accuracy) for result in results[:2]])
    last = np.mean([float(result.accuracy) for result in results[-5:]])
    assert first < 0.5
    assert last > 0.9
    assert float(results[-1].loss.detach()) < 0.5 * float(results[0].loss.detach())


def test_a_resumed_run_goes_on_as_it_would_have(store: PairStore, tiny: Recipe) -> None:
    whole, part = PairTrainer(store, tiny), PairTrainer(store, tiny)
    for step in range(6):
        expected = whole.step(step / 40)
        if step < 3:
            part.step(step / 40)
    resumed = PairTrainer(store, tiny)
    resumed.restore(part.state())
    assert resumed.steps_done == 3
    for step in range(3, 6):
        got = resumed.step(step / 40)
    assert float(got.loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=1e-6)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_a_broken_batch_is_named_before_it_reaches_a_weight(
    store: PairStore, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = PairTrainer(store, tiny)
    rows = next(trainer._batches_from(0))
    before = [value.clone() for value in trainer.model.parameters()]
    shown = trainer.model.columns_of

    def broken(*views: Any) -> Any:
        photos, *others = shown(*views)
        return [torch.where(torch.arange(len(photos)).view(-1, 1, 1) == 5, torch.nan, photos), *others]

    monkeypatch.setattr(trainer.model, "columns_of", broken)
    name = f"q{rows[5]:04d} and t{rows[5]:04d}"
    with pytest.raises(TrainingDiverged, match=rf"of 1 of 16 items .* \(rows {rows[5]}: {name}\)"):
        trainer.step(0.0)
    for value, old in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(value, old)


def test_a_gradient_that_is_not_finite_reaches_no_weight(store: PairStore, tiny: Recipe) -> None:
    trainer = PairTrainer(store, tiny)
    parameter = next(trainer.model.parameters())
    parameter.register_hook(lambda gradient: gradient * torch.inf)
    before = parameter.detach().clone()
    with pytest.raises(TrainingDiverged, match=r"The gradient became (nan|inf) at step 0"):
        trainer.step(0.0)
    assert torch.equal(parameter.detach(), before)


def test_the_aerial_term_is_part_of_the_loss(store: PairStore, tiny: Recipe) -> None:
    weighed = tiny.model_copy(update={"loss": tiny.loss.model_copy(update={"aerial_weight": 1.0})})
    plain = float(PairTrainer(store, tiny).step(0.0).loss.detach())
    both = float(PairTrainer(store, weighed).step(0.0).loss.detach())
    assert both > plain + 0.5


def test_neighbours_sampler_trains(store: PairStore, tiny: Recipe) -> None:
    trainer = PairTrainer(store, tiny.with_overrides(sampler="neighbours"))
    assert np.isfinite(float(trainer.step(0.0).loss.detach()))


def test_a_broken_run_stops_with_one_sentence(store: PairStore, tiny: Recipe) -> None:
    trainer = PairTrainer(store, tiny)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match=r"The loss became nan at step 0; the batch has 16 items \(rows \d"
    ):
        trainer.step(0.0)
    dead = PairTrainer(store, tiny)
    with torch.no_grad():
        dead.model.heads["aerial"].project.weight.zero_()  # type: ignore[union-attr, operator]
    with pytest.raises(TrainingDiverged, match="All embeddings became equal at step 0"):
        dead.step(0.0)


def test_learning_rate_rises_then_falls(tiny: Recipe) -> None:
    rates = [learning_rate(share / 100, tiny.training) for share in range(101)]
    peak = int(np.argmax(rates))
    assert peak == 10
    assert rates[peak] == pytest.approx(tiny.training.learning_rate)
    assert rates[0] < 0.05 * rates[peak]
    assert rates[-1] < 0.01 * rates[peak]
    assert all(np.diff(rates[:11]) > 0)
    assert all(np.diff(rates[10:]) < 0)


def test_the_first_step_is_the_one_it_always_was(store: PairStore, tiny: Recipe) -> None:
    """New parts of recipes draw nothing and change nothing where a recipe does not name them."""
    weighed = tiny.model_copy(update={"loss": tiny.loss.model_copy(update={"aerial_weight": 0.5})})
    assert weighed.fingerprint() == "0e3bbb8b5b65438efb4dac06066f12e68b1da95217e845c51e75d7a37fcd1729"
    loss = float(PairTrainer(store, weighed).step(0.0).loss.detach())
    assert loss == pytest.approx(7.8123, rel=5e-3)  # bfloat16 differs between machines


@pytest.mark.parametrize(
    ("instruction", "present"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)]
)
def test_bfloat16_is_used_only_where_the_cpu_has_it(
    store: PairStore, tiny: Recipe, monkeypatch: pytest.MonkeyPatch, instruction: str, present: bool
) -> None:
    """Emulated it takes ten times as long as float32."""
    narrow = tiny.model_copy(update={"training": tiny.training.model_copy(update={"bfloat16": True})})
    full = tiny.model_copy(update={"training": tiny.training.model_copy(update={"bfloat16": False})})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False, instruction: True})
    losses = [float(PairTrainer(store, recipe).step(0.0).loss.detach()) for recipe in (narrow, full)]
    assert (losses[0] != losses[1]) == present
