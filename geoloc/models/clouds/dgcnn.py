"""DGCNN (Wang et al., ACM Transactions on Graphics 2019): edges to the nearest points in feature space."""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import nn

from geoloc.models.clouds.network import (
    CloudNetwork,
    PointFeatures,
    edge_layers,
    gather_points,
    nearest,
    point_layers,
)
from geoloc.recipe.model import CloudEncoderSection
from geoloc.recipe.registry import PositiveInt, register

_SLOPE = 0.2


class DgcnnSection(CloudEncoderSection):
    """Edge convolutions of `widths` over `neighbours` points; their outputs together through a layer of `channels`."""

    words = "DGCNN of {neighbours} neighbours"
    kind: Literal["dgcnn"] = "dgcnn"
    widths: tuple[PositiveInt, ...] = (64, 64, 128, 256)
    neighbours: PositiveInt = 20
    channels: PositiveInt = 512

    def bytes_per_cloud(self, points: int) -> int:
        """The edges of the widest layer (inputs are pairs of points), or the distances of all pairs."""
        inputs = [56, *(2 * width for width in self.widths[:-1])]
        edges = points * self.neighbours * max(*inputs, *self.widths)
        return 4 * max(edges, points * points, points * sum(self.widths), points * self.channels)


@register(DgcnnSection)
class Dgcnn(CloudNetwork[DgcnnSection]):
    """The graph of each layer is found anew among the features that enter it, as published."""

    def __init__(self, recipe: DgcnnSection, inputs: int) -> None:
        super().__init__(recipe, inputs)
        widths = [inputs, *recipe.widths]
        self.edges = nn.ModuleList(
            edge_layers([2 * before, after], slope=_SLOPE) for before, after in itertools.pairwise(widths)
        )
        self.last = point_layers([sum(recipe.widths), recipe.channels], slope=_SLOPE)

    def forward(self, clouds: torch.Tensor) -> PointFeatures:
        """Clouds float[B, inputs, P] to features float[B, channels, P]."""
        features, outputs = clouds, []
        for layers in self.edges:
            with torch.no_grad():
                rows = nearest(features, features, self.recipe.neighbours)[1]
            around = gather_points(features, rows)
            own = features[..., None].expand_as(around)
            features = layers(torch.cat([around - own, own], dim=1)).amax(3)
            outputs.append(features)
        return PointFeatures(clouds[:, :3], self.last(torch.cat(outputs, dim=1)))
