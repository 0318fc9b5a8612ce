from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from geoloc.core.errors import ConfigError
from geoloc.recipe.recipe import Recipe
from geoloc.training.optimizer import layers_of
from geoloc.training.pair_trainer import PairTrainer
from tests.training.test_step import changed, noise


def rates_of(trainer: PairTrainer) -> dict[str, float]:
    rates = {
        id(parameter): group["rate"]
        for group in trainer._optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: rates[id(parameter)] for name, parameter in trainer.module.named_parameters()}


def test_layers_are_the_blocks_of_a_network_from_the_picture_on() -> None:
    network = torchvision.models.resnet18()
    blocks = [block for stage in (1, 2, 3, 4) for block in network.get_submodule(f"layer{stage}")]
    assert list(layers_of(network)) == [network.conv1, network.bn1, *blocks, network.fc]
    assert list(layers_of(nn.Sequential(network))) == list(layers_of(network))  # a wrapper adds nothing
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert list(layers_of(nn.ModuleList([plain]))) == [plain]


def test_layers_nearer_the_picture_learn_more_slowly(tiny: Recipe) -> None:
    recipe = changed(tiny, training={"layer_rate": 0.5, "optimizer": {"kind": "adamw", "backbone_rate": 0.1}})
    rates = rates_of(PairTrainer(noise(recipe), recipe))
    backbone = [rate for name, rate in rates.items() if "backbones" in name]
    assert backbone == sorted(backbone)
    assert sorted(set(backbone)) == pytest.approx([0.1 * 0.25, 0.1 * 0.5])
    others = {rate for name, rate in rates.items() if "backbones" not in name and "hash" not in name}
    assert others == {1.0}


def test_localisation_networks_have_a_rate_of_their_own() -> None:
    recipe = changed(Recipe.load("stn-affine-small"), training={"batch_size": 4, "localisation_rate": 0.1})
    trainer = PairTrainer(noise(recipe), recipe)
    trainer.step(0.0)
    rates = rates_of(trainer)
    localising = {name for name, rate in rates.items() if rate == 0.1}
    assert localising == {name for name in rates if "transformer.localise" in name} != set()
    with pytest.raises(ConfigError, match=r"localisation_rate needs a learned view such as affine or tps"):
        Recipe.load("geoloc").with_overrides(localisation_rate=0.1)


def test_every_parameter_is_in_one_group(tiny: Recipe) -> None:
    recipe = changed(tiny, training={"layer_rate": 0.8})
    trainer = PairTrainer(noise(recipe), recipe)
    grouped = [id(each) for group in trainer._optimizer.param_groups for each in group["params"]]
    assert sorted(grouped) == sorted(id(each) for each in trainer.module.parameters())
    assert isinstance(trainer._optimizer, torch.optim.AdamW)
