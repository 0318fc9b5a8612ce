from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from geoloc.core.errors import ConfigError
from geoloc.recipe.recipe import Recipe
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, load_pairs
from geoloc.training.pair_trainer import PairTrainer
from tests.training.test_step import changed, noise


@pytest.fixture(scope="module")
def store(ingested: str, tiny: Recipe) -> PairStore:
    return load_pairs(ingested, read_index(ingested), tiny)


class Still(nn.Module):
    """A norm whose rows do not depend on each other, in place of a batch norm; with dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.drop = nn.Dropout(0.2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = self.drop(images * self.weight[:, None, None])
        return scaled


def without_batch_norms(trainer: PairTrainer) -> PairTrainer:
    for module in [*trainer.model.backbones.modules(), *trainer.model.transformer.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, Still(child.num_features))
    return trainer


def gradients(
    store: PairStore, recipe: Recipe, chunk: int | None, *, dropout: bool
) -> dict[str, torch.Tensor]:
    recipe = changed(recipe, training={"batch_norm": "workers", "bfloat16": False})
    if chunk is not None:
        recipe = changed(recipe, training={"chunk": chunk})
    trainer = without_batch_norms(PairTrainer(store, recipe))
    for each in trainer.model.modules():
        if isinstance(each, nn.Dropout) and not dropout:
            each.p = 0.0
    result = trainer.step(0.0)
    found = {
        name: value.grad.clone()
        for name, value in trainer.module.named_parameters()
        if value.grad is not None
    }
    return found | {"loss": result.loss.detach(), "accuracy": result.accuracy}


@pytest.mark.parametrize("chunk", [16, 5, 1])
@pytest.mark.parametrize(
    "loss", [{"aerial_weight": 0.5}, {"heading": "unknown"}, {"two_views": {}, "aerial_weight": 0.0}]
)
def test_chunks_have_the_gradients_of_the_whole_batch(
    store: PairStore, tiny: Recipe, loss: dict[str, Any], chunk: int
) -> None:
    recipe = changed(tiny, loss=loss)
    whole = gradients(store, recipe, None, dropout=False)
    cached = gradients(store, recipe, chunk, dropout=False)
    assert whole.keys() == cached.keys()
    assert "pair_loss.log_scale" in whole
    assert "model.hash.project.weight" in whole
    for name, expected in whole.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(cached[name], expected, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name)


def test_the_guidance_of_a_learned_view_is_cached_too() -> None:
    recipe = Recipe.load("stn-affine-l1-small").with_overrides(batch_size=4, steps=10)
    store = noise(recipe)
    whole = gradients(store, recipe, None, dropout=False)
    cached = gradients(store, recipe, 3, dropout=False)
    for name, expected in whole.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(cached[name], expected, rtol=1e-2, atol=1e-3 * scale + 1e-6, msg=name)


def test_layers_that_draw_draw_the_same_in_both_passes(store: PairStore, tiny: Recipe) -> None:
    """The loss falls along the gradient by as much as the gradient says; with other draws it would not."""
    recipe = changed(tiny, training={"batch_norm": "workers", "bfloat16": False, "chunk": 4})
    trainer = without_batch_norms(PairTrainer(store, recipe))
    trainer.model.train()
    rows = next(trainer._batches_from(0))
    first = float(trainer._backward(rows).loss.detach())
    slopes = [(each, each.grad.clone()) for each in trainer.module.parameters() if each.grad is not None]
    length = sum(float(slope.square().sum()) for _, slope in slopes)
    distance = 1e-3 / length**0.5
    with torch.no_grad():
        for each, slope in slopes:
            each -= distance * slope
    second = float(trainer._backward(rows).loss.detach())
    assert first - second == pytest.approx(distance * length, rel=0.1)


def test_batch_norms_must_be_accepted(store: PairStore, tiny: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"has 2 batch norms \(backbones\..*training.batch_norm: workers"):
        PairTrainer(store, changed(tiny, training={"chunk": 4}))
