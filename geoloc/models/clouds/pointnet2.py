"""PointNet++ with one scale of groups (Qi et al., NeurIPS 2017): points, groups of points, groups of those."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import nn

from geoloc.core.semantics import CLASSES
from geoloc.models.clouds.network import (
    CloudNetwork,
    PointFeatures,
    edge_layers,
    farthest_rows,
    gather_points,
    nearest,
    point_layers,
)
from geoloc.recipe.model import CloudEncoderSection
from geoloc.recipe.registry import PositiveFloat, PositiveInt, Section, register

_CLASS_CHANNELS = len(CLASSES)


class GroupLevel(Section):
    """`points` centres; each sees up to `neighbours` points within `radius` halves of the field, through `widths`."""

    points: PositiveInt
    radius: PositiveFloat
    neighbours: PositiveInt
    widths: tuple[PositiveInt, ...]


_LEVELS = (
    GroupLevel(points=512, radius=0.2, neighbours=32, widths=(64, 64, 128)),
    GroupLevel(points=128, radius=0.4, neighbours=64, widths=(128, 128, 256)),
)


class PointNet2Section(CloudEncoderSection):
    """Levels of farthest points and their groups, then a layer of `channels`. The defaults are the published ones."""

    words = "PointNet++"
    kind: Literal["pointnet2"] = "pointnet2"
    levels: tuple[GroupLevel, ...] = _LEVELS
    channels: PositiveInt = 512

    @model_validator(mode="after")
    def _fewer_points(self) -> PointNet2Section:
        counts = [level.points for level in self.levels]
        if not counts or counts != sorted(counts, reverse=True):
            raise ValueError(
                f"levels have {counts} points; give one or more, each with no more than the last"
            )
        return self

    def bytes_per_cloud(self, points: int) -> int:
        """The widest layer of all groups, or the distances of all points from all centres."""
        before, channels = points, _CLASS_CHANNELS
        sizes = [points * (channels + 3)]
        for level in self.levels:
            width = max(channels + 3, *level.widths)
            sizes += [level.points * level.neighbours * width, level.points * before]
            before, channels = level.points, level.widths[-1]
        return 4 * max(*sizes, before * self.channels)


@register(PointNet2Section)
class PointNet2(CloudNetwork[PointNet2Section]):
    """Groups are the nearest points; those beyond the radius are replaced by the centre's nearest point."""

    def __init__(self, recipe: PointNet2Section, inputs: int) -> None:
        super().__init__(recipe, inputs)
        levels: list[nn.Module] = []
        channels = inputs - 3
        for level in recipe.levels:
            levels.append(edge_layers([channels + 3, *level.widths]))
            channels = level.widths[-1]
        self.levels = nn.ModuleList(levels)
        self.last = point_layers([channels + 3, recipe.channels])

    def forward(self, clouds: torch.Tensor) -> PointFeatures:
        """Clouds float[B, inputs, P] to features float[B, channels, Q] of the last level's centres."""
        places, features = clouds[:, :3], clouds[:, 3:]
        for level, layers in zip(self.recipe.levels, self.levels, strict=True):
            count = min(level.points, places.shape[2])
            centres = gather_points(places, farthest_rows(places, count))
            squared, rows = nearest(places, centres, level.neighbours)
            rows = torch.where(squared <= level.radius**2, rows, rows[..., :1])
            around = (gather_points(places, rows) - centres[..., None]) / level.radius
            groups = torch.cat([around, gather_points(features, rows)], dim=1)
            places, features = centres, layers(groups).amax(3)
        return PointFeatures(places, self.last(torch.cat([places, features], dim=1)))
