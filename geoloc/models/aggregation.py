"""Aggregation: a feature map float[B, C, H, W] to float[B, channels, columns].

Heads that keep the azimuth give one column each share of the width; the others give one column for the whole map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.recipe.model import Aggregation, ColumnAttention, GemPool, HeightMean, MeanPool, SafaHeads


class HeightMeanHead(nn.Module):
    """Mean over the height, then one projection of the channels for every column."""

    def __init__(self, recipe: HeightMean, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.columns = recipe.columns
        self.project = nn.Conv1d(channels, recipe.channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, channels, columns]."""
        projected: torch.Tensor = self.project(features.mean(dim=2))
        return _fewer_columns(projected, self.columns)


class ColumnAttentionHead(nn.Module):
    """Per output channel a learned weight for every feature at every height, the same for all columns.

    SAFA (NeurIPS 2019) weighs positions of the whole map; here the weights are tied along the azimuth, so
    that a rolled image gives a rolled embedding and an unknown heading is searched without new features.
    """

    def __init__(self, recipe: ColumnAttention, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.columns = recipe.columns
        self.project = nn.Conv2d(channels, recipe.channels, (size[0], 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, channels, columns]."""
        return _fewer_columns(self.project(features)[:, :, 0], self.columns)


def _fewer_columns(features: torch.Tensor, columns: int) -> torch.Tensor:
    """Average neighbouring columns of float[B, C, W] until `columns` are left."""
    share = features.shape[-1] // columns
    return F.avg_pool1d(features, share) if share > 1 else features


class MeanHead(nn.Module):
    """The mean of the whole map."""

    def __init__(self, recipe: MeanPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C, 1]."""
        return features.mean(dim=(2, 3))[..., None]


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


def make_aggregation(recipe: Aggregation, channels: int, size: tuple[int, int]) -> nn.Module:
    """The head that a recipe names, for feature maps of `channels` and `size` (height, width)."""
    match recipe:
        case HeightMean():
            return HeightMeanHead(recipe, channels, size)
        case ColumnAttention():
            return ColumnAttentionHead(recipe, channels, size)
        case MeanPool():
            return MeanHead(recipe, channels, size)
        case GemPool():
            return GemHead(recipe, channels, size)
        case SafaHeads():
            return SafaHead(recipe, channels, size)
