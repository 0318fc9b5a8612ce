"""The encoder of OriCNN (Lending Orientation to Neural Networks, CVPR 2019)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, inject
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import PositiveInt, register


class OriCnnEncoder(BackboneSection):
    """The encoder of OriCNN (CVPR 2019): 4 x 4 convolutions of stride 2; the last maps put together."""

    kind: Literal["oricnn"] = "oricnn"
    widths: tuple[PositiveInt, ...] = (64, 128, 256, 512, 512, 512, 512)
    maps: PositiveInt = Field(3, description="how many of the last maps are resampled to the last one's grid")
    injects_scales = True
    any_size = True

    @model_validator(mode="after")
    def _enough_layers(self) -> OriCnnEncoder:
        if self.maps > len(self.widths):
            raise ValueError(f"{self.maps} maps of {len(self.widths)} layers; give at most one map per layer")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map; a rest counts as one more."""
        return int(2 ** len(self.widths))

    @property
    def channels(self) -> int:
        """Channels of the maps together."""
        return sum(self.widths[-self.maps :])

    def check_size(self, key: str, size_px: int) -> None:
        """Any size: the network pads."""


@register(OriCnnEncoder)
class OriCnn(Backbone[OriCnnEncoder]):
    """OriCNN's encoder: 4 x 4 convolutions of stride 2 with the padding `SAME`.

    From the second on with LeakyReLU (0.2) before and batch norm after it. The last maps are resampled to the
    last one's grid (bilinear) and put together. Weights start as published: convolutions N(0, 0.02), gains
    N(1, 0.02). Unlike the released code, batch norm uses its running statistics when it does not train: an
    embedding does not depend on its batch.
    """

    def __init__(self, recipe: OriCnnEncoder, orientation: Orientation | None = None) -> None:
        super().__init__(recipe)
        self.scales = orientation is not None and orientation.scheme == "scales"
        self.maps = recipe.maps
        extra = MAP_CHANNELS if orientation is not None else 0
        inputs = [3, *recipe.widths[:-1]]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(size + (extra if self.scales or number == 0 else 0), width, 4, 2, bias=False)
            for number, (size, width) in enumerate(zip(inputs, recipe.widths, strict=True))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-5) for width in recipe.widths[1:])
        for convolution in self.convolutions:
            nn.init.normal_(convolution.weight, 0.0, 0.02)  # type: ignore[arg-type]
        for norm in self.norms:
            nn.init.normal_(norm.weight, 1.0, 0.02)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, H', W'], H' = ceil(H / stride)."""
        features, kept = images, []
        for number, convolution in enumerate(self.convolutions):
            if number > 0:
                features = F.leaky_relu(features, 0.2)
            if maps is not None and (self.scales or number == 0):
                features = inject(features, maps)
            features = convolution(_pad_same(features))
            if number > 0:
                features = self.norms[number - 1](features)
            kept.append(features)
        size = kept[-1].shape[-2:]
        return torch.cat(
            [F.interpolate(each, size, mode="bilinear") for each in kept[-self.maps : -1]] + kept[-1:], 1
        )


def _pad_same(images: torch.Tensor) -> torch.Tensor:
    """Zeros as `SAME` puts them for 4 x 4 and stride 2: the output is ceil(size / 2); a rest goes right and below."""
    height, width = images.shape[-2:]
    down, right = height % 2, width % 2
    return F.pad(images, (1, 1 + right, 1, 1 + down))
