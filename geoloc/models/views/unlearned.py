"""View transforms that learn nothing: the tile as it is, and its polar image."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field

from geoloc.geometry.orientation import aerial_orientation, polar_orientation
from geoloc.geometry.polar import aerial_to_polar, polar_offsets
from geoloc.geometry.warp import pixel_grid
from geoloc.models.views.transform import PosePx, ViewTransform
from geoloc.recipe.model import ViewSection
from geoloc.recipe.registry import PositiveFloat, PositiveInt, register


class SquareView(ViewSection):
    """The aerial tile as it is, north up: no transform."""

    title = "no transform"
    places_points = True
    size_keys = ("tile_px", "tile_px")
    kind: Literal["none"] = "none"

    def output_px(self, tile_px: int) -> tuple[int, int]:
        """The tile's own size."""
        return tile_px, tile_px


class PolarView(ViewSection):
    """Aerial tile to polar image; `radial_power` 1 spaces the rows evenly, above 1 densely near the centre."""

    title = "polar image"
    places_points = True
    azimuth_columns = True
    kind: Literal["polar"] = "polar"
    height_px: PositiveInt = 64
    width_px: PositiveInt = 256
    radial_power: PositiveFloat = 1.0
    sampling: Literal["paper"] | None = Field(
        None, description="paper: the published formula to the letter; else samples in the middle of pixels"
    )

    def describe(self) -> str:
        """The transform in a few words, with what differs from the defaults."""
        power = "" if self.radial_power == 1 else f", radius to the power {self.radial_power:g}"
        return self.title + (" (published formula)" if self.sampling == "paper" else "") + power


@register(SquareView)
class SquareTransform(ViewTransform):
    """Squares as they are."""

    def __init__(self, recipe: SquareView, side_px: int) -> None:
        super().__init__(side_px)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, 3, S, S], unchanged."""
        return images

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Places [B, S, S, 2] of the pixels of squares float[B, 3, S, S]."""
        return pixel_grid(*images.shape[-2:]).expand(len(images), -1, -1, -1)

    def place_points(self, right: torch.Tensor, forward: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Places [..., 2] of points of the ground; the square's top is forward."""
        return torch.stack([right, -forward], dim=-1)

    def ground_places(self, height: int, width: int) -> torch.Tensor:
        """Right and forward float64[height, width, 2] of pixels."""
        return pixel_grid(height, width) * torch.tensor([1.0, -1.0], dtype=torch.float64)

    def orientation(self, yaw_deg: torch.Tensor | None, scale: torch.Tensor | None) -> torch.Tensor:
        """Orientation maps float[B, 2, side_px, side_px] of pictures of a pose."""
        return aerial_orientation(self.side_px, yaw_deg=yaw_deg, scale=scale)


@register(PolarView)
class PolarTransform(ViewTransform):
    """Polar images whose top edge is the square's inscribed circle, sampled from the picture in one step."""

    def __init__(self, recipe: PolarView, side_px: int) -> None:
        super().__init__(side_px)
        self.recipe = recipe
        self.size = (recipe.height_px, recipe.width_px)
        self.sampling: Literal["centred", "paper"] = recipe.sampling or "centred"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, 3, S, S] to float[B, 3, height_px, width_px]."""
        return self.convert(images, {})

    def convert(self, images: torch.Tensor, pose_px: PosePx) -> torch.Tensor:
        """Pictures float[B, 3, S, S] of any side to float[B, 3, height_px, width_px] of a pose."""
        return aerial_to_polar(
            images,
            height_px=self.size[0],
            width_px=self.size[1],
            radius_px=self.side_px / 2,
            radial_power=self.recipe.radial_power,
            sampling=self.sampling,
            **pose_px,
        )

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Places [B, height_px, width_px, 2] in squares float[B, 3, S, S]."""
        radius, azimuth = polar_offsets(
            *self.size, radius_px=1.0, radial_power=self.recipe.radial_power, sampling=self.sampling
        )
        shift = 1 / images.shape[-1] if self.sampling == "paper" else 0.0
        right = radius[:, None] * torch.sin(azimuth)[None] + shift
        down = -radius[:, None] * torch.cos(azimuth)[None] + shift
        return torch.stack([right, down], dim=-1).expand(len(images), -1, -1, -1)

    def place_points(self, right: torch.Tensor, forward: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Places [..., 2] of points of the ground: azimuth to the right, the centre at the bottom."""
        share = torch.hypot(right, forward) ** (1 / self.recipe.radial_power)
        shift = (1 / size[0], 1 / size[1]) if self.sampling == "paper" else (0.0, 0.0)
        return torch.stack(
            [torch.atan2(right, forward) / math.pi + shift[1], 1 - 2 * share - shift[0]], dim=-1
        )

    def ground_places(self, height: int, width: int) -> torch.Tensor:
        """Right and forward float64[height, width, 2] of pixels."""
        radius, azimuth = polar_offsets(
            height, width, radius_px=1.0, radial_power=self.recipe.radial_power, sampling=self.sampling
        )
        return torch.stack(
            [radius[:, None] * torch.sin(azimuth)[None], radius[:, None] * torch.cos(azimuth)[None]], dim=-1
        )

    def orientation(self, yaw_deg: torch.Tensor | None, scale: torch.Tensor | None) -> torch.Tensor:
        """Orientation maps float[B, 2, height_px, width_px] of pictures of a pose."""
        power = self.recipe.radial_power
        return polar_orientation(*self.size, radial_power=power, yaw_deg=yaw_deg, scale=scale)
