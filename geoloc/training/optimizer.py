"""The optimizer of a recipe: its schedule, and groups of parameters with learning rates of their own."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.training import TrainingRecipe


def learning_rate(progress: float, recipe: TrainingRecipe) -> float:
    """Learning rate at a share `progress` (0 to 1) of the run: cosine up during `warm_up`, cosine down to almost 0.

    A recipe of schedule `constant` keeps its rate, times the factors of the `drops` that it has reached.
    """
    peak, floor = recipe.learning_rate, recipe.learning_rate / 1000
    if recipe.schedule == "constant":
        return peak * math.prod(factor for share, factor in recipe.drops or () if progress >= share)
    if progress < recipe.warm_up:
        start = peak / 25
        return start + (peak - start) * (1 - math.cos(math.pi * progress / recipe.warm_up)) / 2
    rest = min(1.0, (progress - recipe.warm_up) / max(1e-9, 1 - recipe.warm_up))
    return floor + (peak - floor) * (1 + math.cos(math.pi * rest)) / 2


def make_optimizer(step: nn.Module, model: GeoLocalizer, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over a step's parameters; `rate` of a group multiplies the common learning rate."""
    named = recipe.optimizer
    groups = _groups(step, model, recipe)
    if named is None:
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    if named.kind == "sgd":
        momentum = 0.9 if named.momentum is None else named.momentum
        return torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=recipe.weight_decay,
        )
    kind = torch.optim.Adam if named.kind == "adam" else torch.optim.AdamW
    return kind(
        groups,
        lr=recipe.learning_rate,
        betas=named.betas,
        eps=named.eps,
        weight_decay=recipe.weight_decay,
    )


def _groups(step: nn.Module, model: GeoLocalizer, recipe: TrainingRecipe) -> list[dict[str, Any]]:
    """Groups of parameters: the common ones, the hash head, then those whose rate differs."""
    codes = list(model.hash_head.parameters())
    rates = _rates(model, recipe)
    apart: dict[float, list[nn.Parameter]] = defaultdict(list)
    common: list[nn.Parameter] = []
    held = {id(parameter) for parameter in codes}
    for parameter in step.parameters():
        if id(parameter) in rates:
            apart[rates[id(parameter)]].append(parameter)
        elif id(parameter) not in held:
            common.append(parameter)
    return [
        {"params": common, "rate": 1.0},
        {"params": codes, "rate": recipe.hash_rate, "weight_decay": 0.0},
        *({"params": parameters, "rate": rate} for rate, parameters in apart.items()),
    ]


def _rates(model: GeoLocalizer, recipe: TrainingRecipe) -> dict[int, float]:
    """Factors of the learning rate by the `id` of a parameter, for those that have one of their own."""
    rates: dict[int, float] = {}
    named = recipe.optimizer
    backbone = None if named is None else named.backbone_rate
    if backbone is not None or recipe.layer_rate is not None:
        for network in model.backbones.values():
            layers = list(layers_of(network))
            for number, layer in enumerate(layers):
                factor = (recipe.layer_rate or 1.0) ** (len(layers) - number)
                for parameter in layer.parameters():
                    rates[id(parameter)] = (backbone or 1.0) * factor
    if recipe.localisation_rate is not None:
        for parameter in model.transformer.parameters():
            rates[id(parameter)] = recipe.localisation_rate
    return rates


def layers_of(network: nn.Module) -> Iterator[nn.Module]:
    """The layers of a backbone with parameters, from the picture on: its parts, and those of its lists of blocks."""
    parts = [part for part in network.children() if next(part.parameters(), None) is not None]
    for part in parts:
        listed = len(parts) == 1 or isinstance(part, nn.Sequential | nn.ModuleList)
        if listed and any(next(block.children(), None) is not None for block in part.children()):
            yield from layers_of(part)
        else:
            yield part
