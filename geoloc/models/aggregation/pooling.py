"""Means over the whole feature map."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from geoloc.recipe.model import AggregationSection
from geoloc.recipe.registry import PositiveFloat, register


class MeanPool(AggregationSection):
    """Global average of the feature map."""

    words = "global mean"
    any_size = True
    kind: Literal["gap"] = "gap"


class MaxPool(AggregationSection):
    """Global maximum of the feature map."""

    words = "global maximum"
    any_size = True
    kind: Literal["max"] = "max"


class MeanMaxPool(AggregationSection):
    """Global average and global maximum side by side (`avg+max` of University-1652's baseline)."""

    words = "global mean and maximum"
    any_size = True
    kind: Literal["avg_max"] = "avg_max"

    def output_channels(self, channels: int) -> int:
        """The averages, then the maxima."""
        return 2 * channels


class GemPool(AggregationSection):
    """Generalised mean: (mean of max(x, eps)^p)^(1 / p), p fixed or learned per branch, one or one a channel."""

    words = "GeM"
    any_size = True
    kind: Literal["gem"] = "gem"
    p: PositiveFloat = 3.0
    learnt: bool | Literal["channels"] = Field(
        False, description="true: one exponent is learned; channels: one for each channel"
    )
    eps: PositiveFloat = 1e-6


@register(MeanPool)
class MeanHead(nn.Module):
    """The mean of the whole map."""

    def __init__(self, recipe: MeanPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C, 1]."""
        return features.mean(dim=(2, 3))[..., None]


@register(MaxPool)
class MaxHead(nn.Module):
    """The maximum of the whole map."""

    def __init__(self, recipe: MaxPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C, 1]."""
        return features.amax(dim=(2, 3))[..., None]


@register(MeanMaxPool)
class MeanMaxHead(nn.Module):
    """The mean and the maximum of the whole map."""

    def __init__(self, recipe: MeanMaxPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, 2 C, 1]."""
        return torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)[..., None]


@register(GemPool)
class GemHead(nn.Module):
    """Generalised mean: (mean of max(x, eps)^p)^(1 / p); p = 3 fixed in OriCNN."""

    def __init__(self, recipe: GemPool, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.eps = recipe.eps
        shape = (channels, 1, 1) if recipe.learnt == "channels" else ()
        self.p: nn.Parameter | float = (
            nn.Parameter(torch.full(shape, recipe.p)) if recipe.learnt else recipe.p
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float32[B, C, 1]; powers are taken in float32."""
        powers = features.float().clamp(min=self.eps) ** self.p
        pooled: torch.Tensor = powers.mean(dim=(2, 3), keepdim=True) ** (1 / self.p)
        return pooled[..., 0]
