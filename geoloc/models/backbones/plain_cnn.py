"""The default backbone: a plain CNN over images whose width is a circle."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, inject
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import PositiveInt, register


class PlainCnn(BackboneSection):
    """Convolutions 3 x 3 with batch norm, `widths[i]` channels at `strides[i]`, then residual blocks."""

    kind: Literal["plain_cnn"] = "plain_cnn"
    widths: tuple[PositiveInt, ...] = (32, 64, 128, 128)
    strides: tuple[PositiveInt, ...] = (2, 2, 2, 1)
    residual_blocks: Annotated[int, Field(ge=0)] = 0
    words = ""
    injects_scales = True
    any_size = True

    @model_validator(mode="after")
    def _same_length(self) -> PlainCnn:
        if not self.widths or len(self.widths) != len(self.strides):
            raise ValueError(
                f"{len(self.widths)} widths for {len(self.strides)} strides; give one of each per layer"
            )
        return self

    @property
    def stride(self) -> int:
        """Pixels of the input per pixel of the feature map."""
        product = 1
        for stride in self.strides:
            product *= stride
        return product

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.widths[-1]

    @property
    def wraps(self) -> bool:
        """The width is always a circle."""
        return True

    def check_size(self, key: str, size_px: int) -> None:
        """Sides are multiples of the stride."""
        if size_px % self.stride:
            raise ValueError(f"{key} is {size_px}, not a multiple of the backbone's stride {self.stride}")


class ConvLayer(nn.Sequential):
    """Convolution (3 x 3, or 5 x 5 where the stride is above 2, so that no pixel is left out), batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        self.reach = 1 if stride <= 2 else 2
        super().__init__(
            nn.Conv2d(inputs, outputs, 2 * self.reach + 1, stride, padding=self.reach, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvLayer(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to the same shape."""
        return F.relu(images + self.norm(self.second(self.first(images))))


@register(PlainCnn)
class WrappedCnn(Backbone[PlainCnn]):
    """A plain CNN that treats the image's width as a circle.

    The input is extended on both sides by its own other end, as far as the receptive field reaches, and the
    feature map is cut back: rolling the input by k strides rolls the output by k columns exactly. For pictures
    whose width is no circle (aerial tiles without a transform) the ends see what is on the other side.
    """

    def __init__(self, recipe: PlainCnn, orientation: Orientation | None = None) -> None:
        super().__init__(recipe)
        self.scales = orientation is not None and orientation.scheme == "scales"
        layers: list[nn.Module] = []
        channels, step, reach = 3 + (MAP_CHANNELS if orientation is not None else 0), 1, 0
        for width, stride in zip(recipe.widths, recipe.strides, strict=True):
            layers.append(ConvLayer(channels, width, stride))
            channels, reach, step = width, reach + step, step * stride
            channels += MAP_CHANNELS if self.scales and len(layers) < len(recipe.widths) else 0
        for _ in range(recipe.residual_blocks):
            layers.append(ResidualBlock(channels))
            reach += 2 * step
        self.layers = nn.Sequential(*layers)
        self.injected = len(recipe.widths) if self.scales else 1
        self.wrap = -(-reach // step)  # columns of the feature map that the ends can reach

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, H / stride, W / stride]; H and W are multiples of the stride."""
        margin = self.wrap * self.stride
        padded = F.pad(images, (margin, margin, 0, 0), mode="circular")
        if maps is None:
            features: torch.Tensor = self.layers(padded)
        else:
            around = F.pad(maps, (margin, margin, 0, 0), mode="circular")
            features = padded
            for number, layer in enumerate(self.layers):
                features = layer(inject(features, around) if number < self.injected else features)
        return features[..., self.wrap : features.shape[-1] - self.wrap]
