"""Point to pixel (`3to2`, Zhou et al., arXiv 2308.05993): every pixel takes the features of the points around it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.models.clouds.network import PointFeatures, gather_points, nearest
from geoloc.models.fusions.network import FusionSizes, PictureFusion, enlarge
from geoloc.recipe.model import FusionSection
from geoloc.recipe.registry import PositiveInt, register

_NEAR = 1e-4  # squared halves of the field that are added to distances: a pixel on a point weighs finitely


class PointToPixel(FusionSection):
    """Means of the nearest points' features, weighted by 1 / squared distance on the ground (PointNet++)."""

    words = "points to pixels"
    places_points = True
    kind: Literal["3to2"] = "3to2"
    neighbours: PositiveInt = 4
    upsample: PositiveInt = 4


@register(PointToPixel)
class PointToPixelFusion(PictureFusion[PointToPixel]):
    """The enlarged map beside the points' features, through a layer of pixels, then the recipe's aggregation."""

    ground: torch.Tensor

    def __init__(self, recipe: PointToPixel, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.circle = sizes.circle
        height, width = (recipe.upsample * side for side in sizes.map_size)
        ground = sizes.view.ground_places(height, width).float().reshape(-1, 2).T
        self.register_buffer("ground", ground.contiguous(), persistent=False)
        self.mix = nn.Sequential(
            nn.Conv2d(sizes.map_channels + sizes.point_channels, sizes.map_channels, 1, bias=False),
            nn.BatchNorm2d(sizes.map_channels),
            nn.ReLU(),
        )
        self.head = sizes.head(sizes.map_channels, (height, width))

    def fuse(self, features: torch.Tensor, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        wide = enlarge(features, self.recipe.upsample, circle=self.circle)
        with torch.no_grad():
            centres = self.ground[None].expand(len(wide), -1, -1)
            squared, rows = nearest(points.places[:, :2], centres, self.recipe.neighbours)
            weights = 1 / (squared + _NEAR)
            weights = weights / weights.sum(2, keepdim=True)
        around = (gather_points(points.features, rows) * weights[:, None]).sum(3)
        both = torch.cat([wide, around.reshape(len(wide), -1, *wide.shape[-2:]).to(wide.dtype)], dim=1)
        pooled: torch.Tensor = self.head(self.mix(both))
        return pooled
