"""What every encoder of point clouds is, and the layers that they share.

Convention: clouds are float[B, 3 + K, P], whose first three rows are right, forward and height in units of half the
field. Only these places decide which points are neighbours.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from geoloc.recipe.model import CloudEncoderSection

SectionT = TypeVar("SectionT", bound=CloudEncoderSection)


@dataclass(frozen=True)
class PointFeatures:
    """Features float[B, C, Q] of points at `places` float[B, 3, Q], which may be fewer than the cloud has."""

    places: torch.Tensor
    features: torch.Tensor


class CloudNetwork(nn.Module, ABC, Generic[SectionT]):
    """An encoder of clouds; `recipe` is the section that built it, `inputs` the numbers of a point.

    It is called with clouds float[B, inputs, P] and gives `PointFeatures` with the section's `channels`. No
    intermediate tensor is larger than `recipe.bytes_per_cloud(P)` bytes a cloud in float32.
    """

    def __init__(self, recipe: SectionT, inputs: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.inputs = inputs

    @abstractmethod
    def forward(self, clouds: torch.Tensor) -> PointFeatures:
        """Clouds float[B, inputs, P] to features of points."""


def point_layers(widths: Sequence[int], *, slope: float = 0.0) -> nn.Sequential:
    """The same linear maps of every point, each with batch norm and a rectifier: float[B, C, P] to float[B, D, P]."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs)]
        layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    return nn.Sequential(*layers)


def edge_layers(widths: Sequence[int], *, slope: float = 0.0) -> nn.Sequential:
    """`point_layers` of groups of points: float[B, C, Q, k] to float[B, D, Q, k]."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    return nn.Sequential(*layers)


def nearest(places: torch.Tensor, centres: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` points nearest to each centre: squared distances float[B, Q, k] and rows int64[B, Q, k].

    `places` float[B, D, P], `centres` float[B, D, Q]; k is at most P. Memory: B * P * Q numbers.
    """
    squared = torch.cdist(centres.transpose(1, 2), places.transpose(1, 2)).square()
    found, rows = squared.topk(min(count, places.shape[2]), dim=2, largest=False)
    return found, rows


def gather_points(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Columns of float[B, C, P] at rows int64[B, ...]: float[B, C, ...]."""
    batch, channels, _ = values.shape
    flat = rows.reshape(batch, 1, -1).expand(-1, channels, -1)
    return values.gather(2, flat).reshape(batch, channels, *rows.shape[1:])


def farthest_rows(places: torch.Tensor, count: int) -> torch.Tensor:
    """Farthest-point sampling of a batch float[B, 3, P]: rows int64[B, count], from the first point on.

    Clouds that come in farthest-point order give their first points; others give those of
    `geometry.clouds.farthest_points`. Memory: B * P numbers.
    """
    batch, _, points = places.shape
    rows = torch.zeros(batch, count, dtype=torch.int64, device=places.device)
    closest = torch.full((batch, points), torch.inf, device=places.device, dtype=places.dtype)
    for number in range(1, count):
        last = places.gather(2, rows[:, None, number - 1, None].expand(-1, 3, -1))
        closest = torch.minimum(closest, (places - last).square().sum(1))
        rows[:, number] = closest.argmax(1)
    return rows
