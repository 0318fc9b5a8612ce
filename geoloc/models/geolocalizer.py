"""The model: branches per view, one embedding space, one hash head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.models.aggregation import make_aggregation
from geoloc.models.backbones import WrappedCnn
from geoloc.models.hashing import LinearHash
from geoloc.models.preprocessing import AERIAL_VIEWS, input_size, normalise
from geoloc.recipe import ModelRecipe
from geoloc.views.polar import aerial_to_polar


@dataclass(frozen=True)
class Pose:
    """How an aerial picture is looked at, one value per picture [B]; None leaves it as it is.

    Convention: east_m and north_m move the centre of the look, heading_deg is clockwise from north and comes
    to the middle column, `scale` multiplies the ground radius, `mirrored` swaps left and right.
    """

    east_m: torch.Tensor | None = None
    north_m: torch.Tensor | None = None
    heading_deg: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    mirrored: torch.Tensor | None = None


class GeoLocalizer(nn.Module):
    """Embeds panoramas and aerial pictures into one space.

    Two branches, `panorama` (also street photos) and `aerial` (also drone photos), each a backbone and an
    aggregation head; with `shared_weights` the backbone is the same. An embedding is [channels, columns]
    flattened and normalised, the columns being azimuth with north in the middle.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        panorama = WrappedCnn(recipe.backbone)
        aerial = panorama if recipe.shared_weights else WrappedCnn(recipe.backbone)
        self.backbones = nn.ModuleDict({"panorama": panorama, "aerial": aerial})
        heights = {"panorama": recipe.panorama_px[0], "aerial": recipe.view.height_px}
        self.heads = nn.ModuleDict(
            {
                branch: make_aggregation(recipe.aggregation, panorama.channels, height // panorama.stride)
                for branch, height in heights.items()
            }
        )
        self.hash = LinearHash(recipe.hash, recipe.embedding_dim)

    def to_polar(self, images: torch.Tensor, pose: Pose | None = None) -> torch.Tensor:
        """Aerial pictures float[B, 3, S, S] at the recipe's metres per pixel to polar images of its field."""
        pose = pose or Pose()
        scale = self.recipe.metres_per_pixel
        return aerial_to_polar(
            images,
            height_px=self.recipe.view.height_px,
            width_px=self.recipe.view.width_px,
            radius_px=self.recipe.tile_px / 2,
            radial_power=self.recipe.view.radial_power,
            east_px=None if pose.east_m is None else pose.east_m / scale,
            north_px=None if pose.north_m is None else pose.north_m / scale,
            heading_deg=pose.heading_deg,
            scale=pose.scale,
            mirrored=pose.mirrored,
        )

    def columns(self, images: torch.Tensor, view: str) -> torch.Tensor:
        """Panoramas or polar images float[B, 3, H, W] in 0..1 to unnormalised float32[B, channels, columns]."""
        branch = _branch(view)
        inputs = normalise(images).contiguous(memory_format=torch.channels_last)
        features: torch.Tensor = self.heads[branch](self.backbones[branch](inputs))
        return features.float()

    def columns_of(self, looks: Sequence[torch.Tensor], views: Sequence[str]) -> list[torch.Tensor]:
        """`columns` of several batches, one per view; a shared backbone takes pictures of one size together.

        Together is faster, and its batch norm then learns one statistic for all views.
        """
        if not self.recipe.shared_weights or len({look.shape[1:] for look in looks}) > 1:
            return [self.columns(look, view) for look, view in zip(looks, views, strict=True)]
        inputs = normalise(torch.cat(list(looks))).contiguous(memory_format=torch.channels_last)
        features = self.backbones["panorama"](inputs).split([len(look) for look in looks])
        return [self.heads[_branch(view)](part).float() for part, view in zip(features, views, strict=True)]

    def forward(self, images: torch.Tensor, view: str) -> torch.Tensor:
        """Panoramas or polar images float[B, 3, H, W] in 0..1 to unit embeddings float32[B, D]."""
        return flatten(self.columns(images, view))

    def expected_size(self, view: str) -> tuple[int, int]:
        """Height and width of pictures of a view before the polar transform."""
        return input_size(self.recipe, view)


def _branch(view: str) -> str:
    return "aerial" if view in AERIAL_VIEWS else "panorama"


def flatten(columns: torch.Tensor) -> torch.Tensor:
    """float[..., channels, columns] to unit embeddings float[..., D]."""
    return F.normalize(columns.flatten(-2), dim=-1)


def initial_log_scale(temperature: float) -> nn.Parameter:
    """The learnable logarithm of 1 / temperature."""
    return nn.Parameter(torch.tensor(math.log(1 / temperature)))
