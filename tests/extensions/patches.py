"""A backbone of one module: every patch of the picture through one linear map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, inject
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import PositiveInt, register


class Patches(BackboneSection):
    """Patches of `stride` pixels to `channels` numbers."""

    words = "patches of {stride}"
    kind: Literal["patches"] = "patches"
    channels: PositiveInt = 8
    stride: PositiveInt = 4

    @property
    def wraps(self) -> bool:
        """Patches see nothing beyond themselves, so they roll with the picture."""
        return True


@register(Patches)
class PatchNetwork(Backbone[Patches]):
    """One convolution without overlap."""

    def __init__(self, recipe: Patches, orientation: Orientation | None) -> None:
        super().__init__(recipe)
        inputs = 3 if orientation is None else 3 + MAP_CHANNELS
        self.patches = nn.Conv2d(inputs, recipe.channels, recipe.stride, recipe.stride)

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, H / stride, W / stride]."""
        return self.patches(images if maps is None else inject(images, maps))
