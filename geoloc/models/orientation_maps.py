"""How a picture is moved and turned, and the orientation maps that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from geoloc.geometry.orientation import ground_orientation
from geoloc.models.preprocessing import AERIAL_VIEWS
from geoloc.recipe.model import Orientation
from geoloc.recipe.recipe import ModelRecipe

# From yaw_deg [B] and scale [B] to maps float[B, 2, H, W].
AerialMaps = Callable[[torch.Tensor | None, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Pose:
    """How pictures are moved, turned, scaled and mirrored: one value per picture [B]; None leaves it as it is.

    Convention: east_m and north_m move the centre of an aerial view, heading_deg is clockwise from north and comes
    to the middle column (of a square: to the top), `scale` multiplies the ground radius, `mirrored` swaps left
    and right.
    """

    east_m: torch.Tensor | None = None
    north_m: torch.Tensor | None = None
    heading_deg: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    mirrored: torch.Tensor | None = None

    @property
    def yaw_deg(self) -> torch.Tensor | None:
        """Heading [B] of the picture's middle in the mirrored world, where east is west."""
        if self.heading_deg is None or self.mirrored is None:
            return self.heading_deg
        return torch.where(self.mirrored, -self.heading_deg, self.heading_deg)


class OrientationMaps(nn.Module):
    """The maps of a model's inputs: kept for pictures with north in the middle, computed for others."""

    ground: torch.Tensor
    above: torch.Tensor

    def __init__(self, recipe: ModelRecipe, orientation: Orientation, aerial_maps: AerialMaps) -> None:
        super().__init__()
        self.recipe = recipe
        self.aerial_maps = aerial_maps
        self.sampling = orientation.sampling
        self.register_buffer("ground", self._compute("panorama", Pose()), persistent=False)
        self.register_buffer("above", self._compute("aerial", Pose()), persistent=False)

    def forward(self, view: str, count: int, pose: Pose | None = None) -> torch.Tensor:
        """Maps float[count, 2, H, W] of pictures of a view and a pose."""
        if pose is None or (pose.heading_deg is None and pose.scale is None):
            kept = self.above if view in AERIAL_VIEWS else self.ground
            return kept.expand(count, -1, -1, -1)
        return self._compute(view, pose).to(self.ground.device).expand(count, -1, -1, -1)

    def _compute(self, view: str, pose: Pose) -> torch.Tensor:
        if view not in AERIAL_VIEWS:
            height, width = self.recipe.panorama_px
            return ground_orientation(
                height,
                width,
                elevation_deg=self.recipe.elevation_deg,
                yaw_deg=pose.yaw_deg,
                sampling=self.sampling,
            )
        return self.aerial_maps(pose.yaw_deg, pose.scale)
