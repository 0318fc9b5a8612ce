"""An aggregation head of one module: the largest value of each channel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.recipe.model import AggregationSection
from geoloc.recipe.registry import register


class Peak(AggregationSection):
    """The maximum over the whole map."""

    kind: Literal["peak"] = "peak"


@register(Peak)
class PeakHead(nn.Module):
    """The maximum over the whole map."""

    def __init__(self, recipe: Peak, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C, 1]."""
        return features.amax((2, 3))[..., None]
