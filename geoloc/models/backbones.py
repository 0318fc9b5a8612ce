"""Convolutional backbones: over images whose width wraps around, and OriCNN's encoder.

Every backbone is called with images float[B, C, H, W] and, where the recipe injects orientation, with their maps
float[B, 2, H, W]; it has `channels` and `stride` of its feature map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.recipe.model import OriCnnEncoder, Orientation, PlainCnn

MAP_CHANNELS = 2


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
    feature map is cut back: rolling the input by k strides rolls the output by k columns exactly. For pictures
    whose width is no circle (aerial tiles without a transform) the ends see what is on the other side.
    """

    def __init__(self, recipe: PlainCnn, orientation: Orientation | None = None) -> None:
        super().__init__()
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
        self.channels = channels
        self.stride = step
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

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of pictures of a size."""
        return height // self.stride, width // self.stride


class OriCnn(nn.Module):
    """OriCNN's encoder: 4 x 4 convolutions of stride 2 with the padding `SAME`.

    From the second on with LeakyReLU (0.2) before and batch norm after it. The last maps are resampled to the
    last one's grid (bilinear) and put together. Weights start as published: convolutions N(0, 0.02), gains
    N(1, 0.02). Unlike the released code, batch norm uses its running statistics when it does not train: an
    embedding does not depend on its batch.
    """

    def __init__(self, recipe: OriCnnEncoder, orientation: Orientation | None = None) -> None:
        super().__init__()
        self.scales = orientation is not None and orientation.scheme == "scales"
        self.maps = recipe.maps
        self.channels, self.stride = recipe.channels, recipe.stride
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

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of pictures of a size."""
        return -(-height // self.stride), -(-width // self.stride)


def _pad_same(images: torch.Tensor) -> torch.Tensor:
    """Zeros as `SAME` puts them for 4 x 4 and stride 2: the output is ceil(size / 2); a rest goes right and below."""
    height, width = images.shape[-2:]
    down, right = height % 2, width % 2
    return F.pad(images, (1, 1 + right, 1, 1 + down))


def inject(features: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Features float[B, C, h, w] with the maps float[B, 2, H, W] resized to them as two more channels.

    Sizes are changed by taking the nearest value: a mean over the jump of the yaw from +1 to -1 would be north
    where the picture looks south.
    """
    if maps.shape[-2:] != features.shape[-2:]:
        maps = F.interpolate(maps, features.shape[-2:], mode="nearest-exact")
    return torch.cat([features, maps.to(features.dtype)], dim=1)
