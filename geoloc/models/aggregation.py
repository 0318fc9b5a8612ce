"""Aggregation: a feature map float[B, C, H, W] to float[B, channels, columns], the azimuth kept along the columns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.recipe import ColumnAttention, HeightMean


class HeightMeanHead(nn.Module):
    """Mean over the height, then one projection of the channels for every column."""

    def __init__(self, recipe: HeightMean, channels: int, height: int) -> None:
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

    def __init__(self, recipe: ColumnAttention, channels: int, height: int) -> None:
        super().__init__()
        self.columns = recipe.columns
        self.project = nn.Conv2d(channels, recipe.channels, (height, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, channels, columns]."""
        return _fewer_columns(self.project(features)[:, :, 0], self.columns)


def _fewer_columns(features: torch.Tensor, columns: int) -> torch.Tensor:
    """Average neighbouring columns of float[B, C, W] until `columns` are left."""
    share = features.shape[-1] // columns
    return F.avg_pool1d(features, share) if share > 1 else features


def make_aggregation(recipe: HeightMean | ColumnAttention, channels: int, height: int) -> nn.Module:
    """The head that a recipe names, for feature maps of `channels` and `height`."""
    if isinstance(recipe, HeightMean):
        return HeightMeanHead(recipe, channels, height)
    return ColumnAttentionHead(recipe, channels, height)
