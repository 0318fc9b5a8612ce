"""Convolutional transformer with layer-to-layer attention (L2LTR, NeurIPS 2021; extractor of the TGRS 2023 hashing).

A ResNetV2 with weight standardisation and group norm (as in BiT, ECCV 2020) gives a map at stride 16, whose places are
the tokens of a vision transformer. In each of its layers queries and values come from the layer's own input, keys from
the input of the layer before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from geoloc.models.backbones.network import MAP_CHANNELS, Backbone, inject
from geoloc.recipe.model import BackboneSection, Orientation
from geoloc.recipe.registry import PositiveInt, register

_NORM_EPS = 1e-6
_EXPANSION = 4  # channels of a unit's output, in those of its 3 x 3 convolution
_LARGEST_GROUPS = 32


class LayerToLayer(BackboneSection):
    """Residual units, then transformer layers; the defaults are those of R50-ViT-B_16."""

    any_size = True
    kind: Literal["layer_to_layer"] = "layer_to_layer"
    words = "layer-to-layer transformer, {layers} layers of {channels}"
    width: PositiveInt = Field(64, description="channels after the first convolution")
    units: tuple[PositiveInt, ...] = Field(
        (3, 4, 9), description="residual units of each stage; a stage after the first halves the map"
    )
    channels: PositiveInt = Field(768, description="length of a token")
    layers: PositiveInt = 12
    heads: PositiveInt = 12
    mlp: PositiveInt = Field(3072, description="hidden channels of a layer's two linear maps")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    grid: tuple[PositiveInt, PositiveInt] = Field(
        (8, 32), description="height and width of the learned positions; resampled for maps of another size"
    )
    output: Literal["class", "tokens"] = Field(
        "class", description="class: the class token alone, a map of 1 x 1; tokens: one token a place"
    )
    keys: Literal["before", "own"] = Field(
        "before", description="before: keys come from the layer before; own: plain self-attention"
    )

    @model_validator(mode="after")
    def _heads_share_the_token(self) -> LayerToLayer:
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels do not divide among {self.heads} heads")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the input per place of the map: 4 before the first stage, twice as many with every further one."""
        return int(4 * 2 ** (len(self.units) - 1))


class StandardisedConv(nn.Conv2d):
    """A convolution whose kernels are standardised: mean 0 and variance 1 over their inputs and places."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, C, H, W] to float[B, C', H', W']."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        weight = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return F.conv2d(images, weight, self.bias, self.stride, self.padding)


class ResidualUnit(nn.Module):
    """1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions with group norm, beside the input or a projection of it."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = _EXPANSION * width
        self.layers = nn.Sequential(
            StandardisedConv(inputs, width, 1, bias=False),
            _group_norm(width),
            nn.ReLU(),
            StandardisedConv(width, width, 3, stride, padding=1, bias=False),
            _group_norm(width),
            nn.ReLU(),
            StandardisedConv(width, outputs, 1, bias=False),
            _group_norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                StandardisedConv(inputs, outputs, 1, stride, bias=False),
                nn.GroupNorm(outputs, outputs, eps=_NORM_EPS),
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """float[B, inputs, H, W] to float[B, 4 width, H / stride, W / stride]."""
        return F.relu(self.layers(images) + self.shortcut(images))


class LayerToLayerAttention(nn.Module):
    """Multi-head attention with queries and values from one sequence and keys from another."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """`tokens` and `before` float[B, N, C] to float[B, N, C]: softmax(Q K' / sqrt(C / heads)) V."""
        query, key, value = (
            layer(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, source in ((self.query, tokens), (self.key, before), (self.value, tokens))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class TransformerLayer(nn.Module):
    """Attention and two linear maps, each after a norm and beside its input; keys have a norm of their own."""

    def __init__(self, recipe: LayerToLayer) -> None:
        super().__init__()
        channels = recipe.channels
        self.norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.key_norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.attention = LayerToLayerAttention(channels, recipe.heads, recipe.dropout)
        self.drop = nn.Dropout(recipe.dropout)
        self.mlp_norm = nn.LayerNorm(channels, eps=_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(channels, recipe.mlp),
            nn.GELU(),
            nn.Dropout(recipe.dropout),
            nn.Linear(recipe.mlp, channels),
            nn.Dropout(recipe.dropout),
        )

    def forward(self, tokens: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """`tokens` float[B, N, C] and the input of the layer before to float[B, N, C]."""
        tokens = tokens + self.drop(self.attention(self.norm(tokens), self.key_norm(before)))
        out: torch.Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return out


@register(LayerToLayer)
class LayerToLayerNetwork(Backbone[LayerToLayer]):
    """ResNetV2 stages, a linear map to tokens, a class token, learned positions and the transformer's layers."""

    def __init__(self, recipe: LayerToLayer, orientation: Orientation | None = None) -> None:
        super().__init__(recipe)
        inputs = 3 if orientation is None else 3 + MAP_CHANNELS
        self.stem = nn.Sequential(
            StandardisedConv(inputs, recipe.width, 7, 2, padding=3, bias=False),
            _group_norm(recipe.width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        self.stages, channels = _stages(recipe.width, recipe.units)
        self.tokens = nn.Conv2d(channels, recipe.channels, 1)
        self.class_token = nn.Parameter(torch.zeros(1, 1, recipe.channels))
        height, width = recipe.grid
        self.class_position = nn.Parameter(torch.zeros(1, 1, recipe.channels))
        self.positions = nn.Parameter(torch.empty(1, recipe.channels, height, width).normal_(0, 0.02))
        self.drop = nn.Dropout(recipe.dropout)
        self.layers = nn.ModuleList(TransformerLayer(recipe) for _ in range(recipe.layers))
        self.norm = nn.LayerNorm(recipe.channels, eps=_NORM_EPS)

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output of pictures of a size."""
        return (1, 1) if self.recipe.output == "class" else super().map_size(height, width)

    def forward(self, images: torch.Tensor, maps: torch.Tensor | None = None) -> torch.Tensor:
        """float[B, 3, H, W] to float[B, C, 1, 1], or float[B, C, H / stride, W / stride] of tokens."""
        places = self.tokens(self.stages(self.stem(images if maps is None else inject(images, maps))))
        positions: torch.Tensor = self.positions
        if places.shape[-2:] != positions.shape[-2:]:
            positions = F.interpolate(positions, places.shape[-2:], mode="bilinear", align_corners=False)
        sequence = (places + positions).flatten(2).transpose(1, 2)
        first = (self.class_token + self.class_position).expand(len(sequence), -1, -1)
        tokens = self.drop(torch.cat([first.to(sequence.dtype), sequence], dim=1))
        before = tokens  # the first layer's keys come from its own input
        for layer in self.layers:
            tokens, before = layer(tokens, before if self.recipe.keys == "before" else tokens), tokens
        tokens = self.norm(tokens)
        if self.recipe.output == "class":
            single: torch.Tensor = tokens[:, 0, :, None, None]
            return single
        out: torch.Tensor = tokens[:, 1:].transpose(1, 2).reshape(places.shape)
        return out


def _stages(width: int, units: Sequence[int]) -> tuple[nn.Sequential, int]:
    """The residual stages and the channels of their output."""
    blocks: list[nn.Module] = []
    channels = width
    for stage, count in enumerate(units):
        for unit in range(count):
            stride = 2 if stage and not unit else 1
            blocks.append(ResidualUnit(channels, width * 2**stage, stride))
            channels = _EXPANSION * width * 2**stage
    return nn.Sequential(*blocks), channels


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(_LARGEST_GROUPS, channels), channels, eps=_NORM_EPS)
