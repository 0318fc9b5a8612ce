from __future__ import annotations

import pytest
import torch

from geoloc.models.store import weights_of
from geoloc.recipe.recipe import Recipe
from geoloc.training.compiled import compile_backbones
from geoloc.training.pair_trainer import PairTrainer
from tests.training.test_step import noise


def steps(recipe: Recipe, backend: str | None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of three steps from the same weights and draws, and the weights after them."""
    trainer = PairTrainer(noise(recipe), recipe)
    if backend is not None:
        compile_backbones(trainer.model, backend=backend)
    losses = [float(trainer.step(step / 10).loss.detach()) for step in range(3)]
    return losses, {name: value.clone() for name, value in weights_of(trainer.model).items()}


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_backbones_train_as_plain_ones_do(tiny: Recipe, backend: str) -> None:
    """`eager` traces the networks as every back end does, and runs what it traced without a C++ compiler."""
    torch._dynamo.reset()
    recipe = tiny.with_overrides(batch_size=8, bfloat16=False)
    plain, compiled = steps(recipe, None), steps(recipe, backend)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # something was compiled
    assert compiled[0] == pytest.approx(plain[0], rel=1e-4)
    assert list(compiled[1]) == list(plain[1])  # a model that trained compiled is read by one that is not
    for name, value in plain[1].items():
        torch.testing.assert_close(compiled[1][name], value, rtol=1e-2, atol=1e-3, msg=name)
