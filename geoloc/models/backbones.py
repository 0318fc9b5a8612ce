"""Convolutional backbones over images whose width wraps around."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.recipe import PlainCnn


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


class WrappedCnn(nn.Module):
    """A plain CNN that treats the image's width as a circle.

    The input is extended on both sides by its own other end, as far as the receptive field reaches, and the
    feature map is cut back: rolling the input by k strides rolls the output by k columns exactly.
    """

    def __init__(self, recipe: PlainCnn) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, step, reach = 3, 1, 0
        for width, stride in zip(recipe.widths, recipe.strides, strict=True):
            layers.append(ConvLayer(channels, width, stride))
            channels, reach, step = width, reach + step, step * stride
        for _ in range(recipe.residual_blocks):
            layers.append(ResidualBlock(channels))
            reach += 2 * step
        self.layers = nn.Sequential(*layers)
        self.channels = channels
        self.stride = step
        self.wrap = -(-reach // step)  # columns of the feature map that the ends can reach

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, H / stride, W / stride]; H and W are multiples of the stride."""
        margin = self.wrap * self.stride
        features: torch.Tensor = self.layers(F.pad(images, (margin, margin, 0, 0), mode="circular"))
        return features[..., self.wrap : features.shape[-1] - self.wrap]
