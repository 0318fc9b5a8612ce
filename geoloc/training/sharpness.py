"""Sharpness-aware minimisation: the gradient is taken where the loss is highest nearby.

SAM: Foret et al., ICLR 2021, equation 2. ASAM: Kwon et al., ICML 2021, equation 7, with T = |w|. Workers of a
data-parallel run climb alike, because their gradients are the mean over all workers before the climb.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from geoloc.recipe.training import Sharpness

_SMALLEST_NORM = 1e-12


class SharpnessAware:
    """Moves weights to the highest loss within the radius and back."""

    def __init__(self, recipe: Sharpness, parameters: Iterable[nn.Parameter]) -> None:
        self.recipe = recipe
        self._parameters = list(parameters)
        self._moved: list[tuple[nn.Parameter, torch.Tensor]] = []

    @torch.no_grad()
    def climb(self) -> None:
        """Move every weight that has a gradient g by rho T^2 g / |T g|, with T = |w| (ASAM) or 1 (SAM)."""
        climbing = [(weight, weight.grad) for weight in self._parameters if weight.grad is not None]
        if not climbing:
            return
        scales = [weight.abs() if self.recipe.adaptive else torch.ones_like(weight) for weight, _ in climbing]
        norms = [(scale * gradient).norm() for scale, (_, gradient) in zip(scales, climbing, strict=True)]
        factor = self.recipe.rho / torch.stack(norms).norm().clamp(min=_SMALLEST_NORM)
        self._moved = []
        for scale, (weight, gradient) in zip(scales, climbing, strict=True):
            before = weight.detach().clone()
            weight.add_(scale.square() * gradient * factor)
            self._moved.append((weight, before))

    @torch.no_grad()
    def descend(self) -> None:
        """Put the weights back where they were, exactly."""
        for weight, before in self._moved:
            weight.copy_(before)
        self._moved = []


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms keep their running statistics meanwhile: the second pass must not count its batch again."""
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    momenta = [each.momentum for each in norms]
    try:
        for each in norms:
            each.momentum = 0.0
        yield
    finally:
        for each, momentum in zip(norms, momenta, strict=True):
            each.momentum = momentum
