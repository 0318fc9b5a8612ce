"""Heads that keep the azimuth: each column of the output is a share of the map's width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.recipe.model import AggregationSection
from geoloc.recipe.registry import PositiveInt, register


class ColumnSection(AggregationSection):
    """What heads that keep the azimuth have in common."""

    keeps_azimuth = True

    if TYPE_CHECKING:
        columns: int
        channels: int

    @property
    def output_columns(self) -> int:
        """Columns of the output."""
        return self.columns

    def output_channels(self, channels: int) -> int:
        """Channels of the output, whatever the feature map has."""
        return self.channels


class HeightMean(ColumnSection):
    """Mean over the height of the feature map, one projection for all columns: keeps the azimuth."""

    words = "{columns} mean columns of {channels}"
    kind: Literal["height_mean"] = "height_mean"
    columns: PositiveInt = 32
    channels: PositiveInt = 16


class ColumnAttention(ColumnSection):
    """Learned weights over the height, per output channel and view (SAFA per column): keeps the azimuth."""

    words = "{columns} columns of {channels}"
    kind: Literal["column_attention"] = "column_attention"
    columns: PositiveInt = 32
    channels: PositiveInt = 16


@register(HeightMean)
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


@register(ColumnAttention)
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
