"""A view transform of one module: the northern half of the tile."""

from __future__ import annotations

from typing import Literal

import torch

from geoloc.geometry.warp import pixel_grid
from geoloc.models.views.transform import ViewTransform
from geoloc.recipe.model import ViewSection
from geoloc.recipe.registry import register


class Half(ViewSection):
    """The upper half, as it is."""

    title = "northern half"
    kind: Literal["half"] = "half"

    def output_px(self, tile_px: int) -> tuple[int, int]:
        """Half as high as the tile."""
        return tile_px // 2, tile_px


@register(Half)
class HalfTransform(ViewTransform):
    """Rows from the top to the middle."""

    def __init__(self, recipe: Half, side_px: int) -> None:
        super().__init__(side_px)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, 3, S, S] to float[B, 3, S // 2, S]."""
        return images[:, :, : self.side_px // 2]

    def grid(self, images: torch.Tensor) -> torch.Tensor:
        """Places [B, S // 2, S, 2]."""
        return pixel_grid(self.side_px, self.side_px)[: self.side_px // 2].expand(len(images), -1, -1, -1)
