"""A loss of one module: other pairs are pushed below their own by a margin."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from geoloc.losses.pair_loss import PairLoss
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import PairLossSection


class Margin(PairLossSection):
    """Hinge of the cosines."""

    kind: Literal["margin"] = "margin"
    margin: PositiveFloat = 0.5


@register(Margin)
class MarginLoss(PairLoss):
    """Mean of max(0, margin + other - own) over all other pairs that count."""

    def __init__(self, recipe: Margin) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, similarity: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        """Cosines float[N, N] to a scalar; `ignored` bool[N, N] do not count."""
        hinge = F.relu(self.recipe.margin + similarity - similarity.diagonal()[:, None])
        counts = ~ignored & ~torch.eye(len(similarity), dtype=torch.bool)
        return (hinge * counts).sum() / counts.sum().clamp(min=1)
