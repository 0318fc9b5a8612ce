"""Pixel to point (`2to3`, Zhou et al., arXiv 2308.05993): every point takes the picture's features at its place."""

from __future__ import annotations

from typing import Literal

import torch

from geoloc.geometry.warp import sample
from geoloc.models.clouds.network import PointFeatures, point_layers
from geoloc.models.fusions.network import FusionSizes, PictureFusion, PointPool, enlarge
from geoloc.recipe.model import FusionSection
from geoloc.recipe.registry import PositiveInt, register

_SLOPE = 0.2
_LAYERS = 3


class PixelToPoint(FusionSection):
    """Three layers of what the points see of the picture, beside their own features."""

    words = "pixels to points"
    places_points = True
    kind: Literal["2to3"] = "2to3"
    upsample: PositiveInt = 4
    channels: PositiveInt = 512


@register(PixelToPoint)
class PixelToPointFusion(PictureFusion[PixelToPoint]):
    """The map is enlarged, sampled at the points (bilinear, 0 outside), then pooled with the points' features.

    The published code places points with aligned corners; here places are those of `geometry.warp`.
    """

    def __init__(self, recipe: PixelToPoint, sizes: FusionSizes) -> None:
        super().__init__(recipe, sizes)
        self.view = [sizes.view]  # in a list, so that its weights are not counted twice
        self.circle = sizes.circle
        self.layers = point_layers([sizes.map_channels, *[recipe.channels] * _LAYERS], slope=_SLOPE)
        self.pool = PointPool(recipe.channels + sizes.point_channels, sizes.channels, sizes.columns)

    def fuse(self, features: torch.Tensor, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        wide = enlarge(features, self.recipe.upsample, circle=self.circle).float()
        height, width = wide.shape[-2:]
        places = self.view[0].place_points(points.places[:, 0], points.places[:, 1], (height, width))
        if self.circle:
            wide = torch.cat([wide[..., -1:], wide, wide[..., :1]], dim=-1)
            around = (places[..., 0] + 1) % 2 - 1
            places = torch.stack([around * (width / (width + 2)), places[..., 1]], dim=-1)
        seen = sample(wide, places[:, None].to(wide.dtype))[:, :, 0]
        joined = torch.cat([self.layers(seen), points.features], dim=1)
        pooled: torch.Tensor = self.pool(PointFeatures(points.places, joined))
        return pooled
