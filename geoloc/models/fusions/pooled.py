"""Fusions of two finished embeddings, and the points alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.models.clouds.network import PointFeatures
from geoloc.models.fusions.network import Fusion, FusionSizes, PointPool
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


class _Pooled(Fusion[FusionSection]):
    """Both embeddings."""

    def __init__(self, recipe: FusionSection, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.head = sizes.head(sizes.map_channels, sizes.map_size)
        self.pool = PointPool(sizes.point_channels, sizes.channels, sizes.columns)

    def _both(
        self, features: torch.Tensor | None, points: PointFeatures
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(features), self.pool(points)


@register(AddFusion)
class AddNetwork(_Pooled):
    """Sum of the picture's and the points' embeddings."""

    def forward(self, features: torch.Tensor | None, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        picture, cloud = self._both(features, points)
        return picture + cloud


@register(ConcatFusion)
class ConcatNetwork(_Pooled):
    """Linear map, the same for all columns, of both embeddings side by side."""

    def __init__(self, recipe: FusionSection, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.project = nn.Conv1d(2 * sizes.channels, sizes.channels, 1)

    def forward(self, features: torch.Tensor | None, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        projected: torch.Tensor = self.project(torch.cat(self._both(features, points), dim=1))
        return projected
