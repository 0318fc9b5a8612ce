from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from geoloc.recipe.recipe import Recipe
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.weight_average import WeightAverage, other_weights
from tests.training.test_step import changed, noise


def test_the_average_follows_its_formula() -> None:
    module = nn.Linear(1, 1, bias=False)
    average = WeightAverage(module, 0.5)
    expected = float(module.weight.detach())
    for step in range(1, 12):
        with torch.no_grad():
            module.weight.fill_(float(step))
        average.update()
        past = min(0.5, (1 + step) / (10 + step))
        expected = past * expected + (1 - past) * step
        assert float(average.state["weight"]) == pytest.approx(expected, rel=1e-6)


def test_counters_are_taken_over_and_weights_come_back() -> None:
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.9)
    module(torch.randn(8, 2))
    average.update()
    assert int(average.state["num_batches_tracked"]) == 1
    own = module.running_mean.clone()
    with other_weights(module, average.state):
        assert torch.equal(module.running_mean, average.state["running_mean"])
        assert not torch.equal(module.running_mean, own)
    assert torch.equal(module.running_mean, own)
    with other_weights(module, None):
        assert torch.equal(module.running_mean, own)


def test_a_resumed_run_has_the_average_it_would_have_had(tiny: Recipe) -> None:
    recipe = changed(tiny, training={"weight_average": 0.9, "batch_size": 8})
    store = noise(recipe)
    whole = PairTrainer(store, recipe)
    for step in range(4):
        if step == 2:
            state = whole.state()
        whole.step(step / 10)
    resumed = PairTrainer(store, recipe)
    resumed.restore(state)
    for step in (2, 3):
        resumed.step(step / 10)
    assert whole.weights is not None
    assert resumed.weights is not None
    for name, value in whole.weights.items():
        np.testing.assert_allclose(resumed.weights[name], value, rtol=1e-5, atol=1e-6)
    assert any(
        not torch.equal(whole.weights[name], value) for name, value in whole.module.state_dict().items()
    )
    assert PairTrainer(store, changed(recipe, training={"weight_average": None})).weights is None
