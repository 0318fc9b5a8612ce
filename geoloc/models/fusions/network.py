"""What every fusion is, and how points are pooled to an embedding."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.models.clouds.network import PointFeatures
from geoloc.models.views.transform import ViewTransform
from geoloc.recipe.model import FusionSection

SectionT = TypeVar("SectionT", bound=FusionSection)


@dataclass(frozen=True)
class FusionSizes:
    """What a fusion is built for.

    `head` builds the recipe's aggregation of maps of some channels and size, to float[B, channels, columns]. `circle`
    says that the columns of the map are a whole circle of azimuths.
    """

    map_channels: int
    map_size: tuple[int, int]
    point_channels: int
    channels: int
    columns: int
    head: Callable[[int, tuple[int, int]], nn.Module]
    view: ViewTransform
    circle: bool


class Fusion(nn.Module, ABC, Generic[SectionT]):
    """A fusion; `recipe` is the section that built it.

    It is called with the feature map float[B, C, h, w] of the tile's picture (None where the fusion does not see it)
    and the features of the points. It gives float[B, channels, columns].
    """

    def __init__(self, recipe: SectionT, sizes: FusionSizes) -> None:
        super().__init__()
        self.recipe = recipe

    @abstractmethod
    def forward(self, features: torch.Tensor | None, points: PointFeatures) -> torch.Tensor:
        """Map and points to float[B, channels, columns]."""


class PictureFusion(Fusion[SectionT]):
    """A fusion that needs the tile's picture; its section has `sees_picture`."""

    def forward(self, features: torch.Tensor | None, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""
        assert features is not None  # a model builds a backbone for a section that sees pictures
        return self.fuse(features, points)

    @abstractmethod
    def fuse(self, features: torch.Tensor, points: PointFeatures) -> torch.Tensor:
        """Map float[B, C, h, w] and points to float[B, channels, columns]."""


class PointPool(nn.Module):
    """Points to float[B, channels, columns]: a linear map and the maximum over all points, or over each azimuth's.

    With more than one column, the maximum is over the points of each column's sector, and a layer of three
    neighbouring columns follows. Convention: column j looks along 360 (j + 0.5) / columns - 180 degrees, clockwise
    from north, as the columns of a panorama do. A sector without points is 0.
    """

    def __init__(self, inputs: int, channels: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.project = nn.Conv1d(inputs, channels, 1 if columns == 1 else 3)

    def forward(self, points: PointFeatures) -> torch.Tensor:
        """Features float[B, inputs, Q] to float[B, channels, columns]."""
        if self.columns == 1:
            whole: torch.Tensor = self.project(points.features).amax(2, keepdim=True)
            return whole
        azimuth = torch.atan2(points.places[:, 0], points.places[:, 1])
        column = ((azimuth / (2 * math.pi) + 0.5) * self.columns).long().clamp(0, self.columns - 1)
        batch, inputs, _ = points.features.shape
        sectors = points.features.new_zeros(batch, inputs, self.columns)
        index = column[:, None].expand_as(points.features)
        sectors = sectors.scatter_reduce(2, index, points.features, "amax", include_self=True)
        mixed: torch.Tensor = self.project(F.pad(sectors, (1, 1), mode="circular"))
        return mixed


def enlarge(features: torch.Tensor, factor: int, *, circle: bool) -> torch.Tensor:
    """A map float[B, C, h, w] enlarged to [B, C, factor h, factor w], bilinear; of a circle the ends are neighbours."""
    if factor == 1:
        return features
    if not circle:
        return F.interpolate(features, scale_factor=factor, mode="bilinear", align_corners=False)
    padded = F.pad(features, (1, 1, 0, 0), mode="circular")
    wide = F.interpolate(padded, scale_factor=factor, mode="bilinear", align_corners=False)
    return wide[..., factor:-factor]
