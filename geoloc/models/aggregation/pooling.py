"""Means over the whole feature map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.recipe.model import AggregationSection
from geoloc.recipe.registry import PositiveFloat, register


class MeanPool(AggregationSection):
    """Global average of the feature map."""

    words = "global mean"
    kind: Literal["gap"] = "gap"


class GemPool(AggregationSection):
    """Generalised mean: (mean of max(x, eps)^p)^(1 / p), p fixed or learned per branch."""

    words = "GeM"
    kind: Literal["gem"] = "gem"
    p: PositiveFloat = 3.0
    learnt: bool = False
    eps: PositiveFloat = 1e-6


@register(MeanPool)
class MeanHead(nn.Module):
    """The mean of the whole map."""

    def __init__(self, recipe: MeanPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C, 1]."""
        return features.mean(dim=(2, 3))[..., None]


@register(GemPool)
class GemHead(nn.Module):
    """Generalised mean: (mean of max(x, eps)^p)^(1 / p); p = 3 fixed in OriCNN."""

    def __init__(self, recipe: GemPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.eps = recipe.eps
        self.p: nn.Parameter | float = nn.Parameter(torch.tensor(recipe.p)) if recipe.learnt else recipe.p

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float32[B, C, 1]; powers are taken in float32."""
        powers = features.float().clamp(min=self.eps) ** self.p
        pooled: torch.Tensor = powers.mean(dim=(2, 3)) ** (1 / self.p)
        return pooled[..., None]
