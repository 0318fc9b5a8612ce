"""SAFA (Shi et al., NeurIPS 2019): spatial-aware feature aggregation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.recipe.model import AggregationSection
from geoloc.recipe.registry import PositiveInt, register


class SafaHeads(AggregationSection):
    """SAFA (NeurIPS 2019): per head a learned map of positions, from the mean or maximum over channels."""

    words = "SAFA with {heads} heads"
    kind: Literal["safa"] = "safa"
    heads: PositiveInt = 8
    pool: Literal["mean", "max"] = "max"

    def output_channels(self, channels: int) -> int:
        """Every head gives each channel once."""
        return channels * self.heads


@register(SafaHeads)
class SafaHead(nn.Module):
    """SAFA (Shi et al., NeurIPS 2019): weighted sums of the positions, the weights predicted from the map itself.

    Per head two linear maps, HW to HW // 2 and back, with biases and nothing between them, of the maximum (as
    in the PyTorch versions) or the mean (as published) over the channels. Starts as published: N(0, 0.005),
    biases 0.1.
    """

    def __init__(self, recipe: SafaHeads, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.pool = recipe.pool
        positions = size[0] * size[1]
        inner = max(1, positions // 2)
        self.down = nn.Parameter(torch.empty(positions, inner, recipe.heads).normal_(0, 0.005))
        self.down_bias = nn.Parameter(torch.full((inner, recipe.heads), 0.1))
        self.up = nn.Parameter(torch.empty(inner, positions, recipe.heads).normal_(0, 0.005))
        self.up_bias = nn.Parameter(torch.full((positions, recipe.heads), 0.1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C * heads, 1], channel by channel."""
        flat = features.flatten(2)
        mask = flat.amax(1) if self.pool == "max" else flat.mean(1)
        inner = torch.einsum("bp,pqh->bqh", mask, self.down) + self.down_bias
        weights = torch.einsum("bqh,qph->bph", inner, self.up) + self.up_bias
        pooled: torch.Tensor = torch.einsum("bcp,bph->bch", flat, weights)
        return pooled.flatten(1)[..., None]
