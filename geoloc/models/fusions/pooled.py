"""Fusions of two finished embeddings, and the points alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.models.clouds.network import PointFeatures
from geoloc.models.fusions.network import Fusion, FusionSizes, PictureFusion, PointPool
from geoloc.recipe.model import FusionSection
from geoloc.recipe.registry import register


class PointsAlone(FusionSection):
    """The points, without the tile's picture."""

    words = "points alone"
    sees_picture = False
    kind: Literal["points"] = "points"


class ConcatFusion(FusionSection):
    """Both embeddings side by side through a linear map."""

    words = "picture and points side by side"
    kind: Literal["concat"] = "concat"


class AddFusion(FusionSection):
    """The sum of both embeddings."""

    words = "picture plus points"
    kind: Literal["add"] = "add"


@register(PointsAlone)
class PointsFusion(Fusion[PointsAlone]):
    """The pooled points."""

    def __init__(self, recipe: PointsAlone, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.pool = PointPool(sizes.point_channels, sizes.channels, sizes.columns)

    def forward(self, features: torch.Tensor | None, points: PointFeatures) -> torch.Tensor:
        """Points to float[B, channels, columns]."""
        pooled: torch.Tensor = self.pool(points)
        return pooled


class _Pooled(PictureFusion[FusionSection]):
    """A head for the picture and a pool for the points, each to float[B, channels, columns]."""

    def __init__(self, recipe: FusionSection, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.head = sizes.head(sizes.map_channels, sizes.map_size)
        self.pool = PointPool(sizes.point_channels, sizes.channels, sizes.columns)


@register(AddFusion)
class AddNetwork(_Pooled):
    """Sum of the picture's and the points' embeddings."""

    def fuse(self, features: torch.Tensor, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        added: torch.Tensor = self.head(features) + self.pool(points)
        return added


@register(ConcatFusion)
class ConcatNetwork(_Pooled):
    """Linear map, the same for all columns, of both embeddings side by side."""

    def __init__(self, recipe: FusionSection, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.project = nn.Conv1d(2 * sizes.channels, sizes.channels, 1)

    def fuse(self, features: torch.Tensor, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        both = torch.cat([self.head(features), self.pool(points)], dim=1)
        projected: torch.Tensor = self.project(both)
        return projected
