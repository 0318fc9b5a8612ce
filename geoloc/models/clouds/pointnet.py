"""PointNet (Qi et al., CVPR 2017): the same layers for every point, and the maximum over all of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.models.clouds.network import CloudNetwork, PointFeatures, point_layers
from geoloc.recipe.model import CloudEncoderSection
from geoloc.recipe.registry import PositiveInt, register


class PointNetSection(CloudEncoderSection):
    """Layers of `widths`, the maximum over the points joined to each, then a layer of `channels`.

    The published network's learned rotations are left out: clouds are turned to north, or to the heading.
    """

    words = "PointNet"
    kind: Literal["pointnet"] = "pointnet"
    widths: tuple[PositiveInt, ...] = (64, 64, 128, 1024)
    channels: PositiveInt = 512

    def bytes_per_cloud(self, points: int) -> int:
        """The widest layer of all points."""
        return 4 * points * max(*self.widths, self.widths[0] + self.widths[-1], self.channels)


@register(PointNetSection)
class PointNet(CloudNetwork[PointNetSection]):
    """Local features of the first layer beside the maximum of the last (the segmentation network's order)."""

    def __init__(self, recipe: PointNetSection, inputs: int) -> None:
        super().__init__(recipe, inputs)
        self.first = point_layers([inputs, recipe.widths[0]])
        self.rest: nn.Module = point_layers(recipe.widths)
        self.last = point_layers([recipe.widths[0] + recipe.widths[-1], recipe.channels])

    def forward(self, clouds: torch.Tensor) -> PointFeatures:
        """Clouds float[B, inputs, P] to features float[B, channels, P]."""
        local = self.first(clouds)
        whole = self.rest(local).amax(2, keepdim=True).expand(-1, -1, clouds.shape[2])
        return PointFeatures(clouds[:, :3], self.last(torch.cat([local, whole], dim=1)))
