"""A small transformer of points: offset attention (PCT, Guo et al., Computational Visual Media 2021)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.models.clouds.network import CloudNetwork, PointFeatures, point_layers
from geoloc.recipe.model import CloudEncoderSection
from geoloc.recipe.registry import PositiveInt, register

_SLOPE = 0.2


class TransformerSection(CloudEncoderSection):
    """Two layers of points to `width`, `layers` of attention, their outputs together through `channels`."""

    words = "transformer of {layers} layers"
    kind: Literal["transformer"] = "transformer"
    width: PositiveInt = 128
    layers: PositiveInt = 4
    channels: PositiveInt = 512

    def bytes_per_cloud(self, points: int) -> int:
        """The attention of all pairs of points, or the outputs of all layers."""
        return 4 * points * max(points, self.width * self.layers, self.channels)


class OffsetAttention(nn.Module):
    """x + layers(x - attention(x)): what a point differs by from what it attends to (PCT, equation 8)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Conv1d(width, max(1, width // 4), 1, bias=False)
        self.value = nn.Conv1d(width, width, 1)
        self.after = point_layers([width, width])

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """float[B, C, P] to the same shape; queries and keys share their weights, as published."""
        query = self.query(points).transpose(1, 2)
        value = self.value(points).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, query, value).transpose(1, 2)
        changed: torch.Tensor = points + self.after(points - attended)
        return changed


@register(TransformerSection)
class CloudTransformer(CloudNetwork[TransformerSection]):
    """Attention of every point to all others; places enter with the other numbers of a point."""

    def __init__(self, recipe: TransformerSection, inputs: int) -> None:
        super().__init__(recipe, inputs)
        self.first = point_layers([inputs, recipe.width, recipe.width])
        self.attention = nn.ModuleList(OffsetAttention(recipe.width) for _ in range(recipe.layers))
        self.last = point_layers([recipe.width * recipe.layers, recipe.channels], slope=_SLOPE)

    def forward(self, clouds: torch.Tensor) -> PointFeatures:
        """Clouds float[B, inputs, P] to features float[B, channels, P]."""
        features, outputs = self.first(clouds), []
        for layer in self.attention:
            features = layer(features)
            outputs.append(features)
        return PointFeatures(clouds[:, :3], self.last(torch.cat(outputs, dim=1)))
