"""The model: branches per view, one embedding space, one hash head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.core.errors import ConfigError, ModelMismatch
from geoloc.geometry.polar import aerial_to_polar
from geoloc.models.cloud_branch import CloudBranchNetwork
from geoloc.models.hash_encoders.trained import ColumnHash, LinearHash, make_hash
from geoloc.models.orientation_maps import OrientationMaps, Pose
from geoloc.models.preprocessing import AERIAL_VIEWS, normalise
from geoloc.models.views.transform import PosePx, ViewTransform
from geoloc.recipe.model import Branches, Projection
from geoloc.recipe.recipe import ModelRecipe


class GeoLocalizer(nn.Module):
    """Embeds panoramas, street photos, aerial and drone pictures into one space.

    Each view goes through a branch (by default two: `panorama`, also for street photos, and `aerial`, also for
    drone photos), each a backbone and an aggregation head; with `shared_weights` the backbone is the same.
    Aerial pictures pass the recipe's view transform first. An embedding is [channels, columns] flattened and
    normalised; where the aggregation keeps them, the columns are azimuth with north in the middle.
    """

    def __init__(self, recipe: ModelRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.branches = recipe.branches or Branches()
        names = self.branches.names
        ground = (self.branches.panorama, self.branches.street)
        first = recipe.backbone.build(recipe.orientation)
        built: dict[str, Any] = {}
        for name in names:
            if name in ground or self._tiles_have_pictures:
                alike = recipe.shared_weights or name == names[0]
                section = recipe.backbone if name in ground else recipe.backbone_of_tiles
                built[name] = first if alike else section.build(recipe.orientation)
        sizes: dict[str, tuple[int, int]] = {
            name: backbone.map_size(*(recipe.panorama_px if name in ground else recipe.aerial_px))
            for name, backbone in built.items()
        }
        self.backbones = nn.ModuleDict(built)
        self.heads = nn.ModuleDict(
            {
                name: recipe.aggregation.build(recipe.backbone.channels, size)
                for name, size in sizes.items()
                if name in ground or recipe.cloud is None
            }
        )
        self.hash = make_hash(recipe)
        self._build_optional_parts(recipe, names, sizes)

    def _build_optional_parts(
        self, recipe: ModelRecipe, names: Sequence[str], sizes: Mapping[str, tuple[int, int]]
    ) -> None:
        """Build optional parts last, so that the random weights of the others do not depend on them."""
        self.projections = nn.ModuleDict()
        if recipe.projection is not None:
            first = _projection(recipe.projection, recipe.aggregated_channels)
            for name in names:
                alike = recipe.projection.shared or name == names[0]
                self.projections[name] = (
                    first if alike else _projection(recipe.projection, recipe.aggregated_channels)
                )
        self.transformer: ViewTransform = recipe.view.build(recipe.tile_px)
        self.maps = None
        if recipe.orientation is not None:
            self.maps = OrientationMaps(recipe, recipe.orientation, self.transformer.orientation)
        self.cloud = None
        if recipe.cloud is not None:
            size = sizes.get(self.branches.aerial, (1, recipe.columns))
            self.cloud = CloudBranchNetwork(
                recipe.cloud, recipe, self.transformer, recipe.backbone.channels, size
            )

    @property
    def _tiles_have_pictures(self) -> bool:
        """Whether the model sees the pictures of tiles, and not their points alone."""
        return self.recipe.cloud is None or self.recipe.cloud.fusion.sees_picture

    @property
    def hash_head(self) -> LinearHash | ColumnHash:
        """The head that is trained with the model; `ConfigError` where the recipe names a fitted encoder instead."""
        if self.hash is None:
            raise ConfigError(
                "The recipe names a hash encoder that is fitted after training (model.hash.encoder), so there is no "
                "head to train; leave the key out, and run `geoloc fit-codes` on the trained model."
            )
        return self.hash

    def convert_view(self, images: torch.Tensor, pose: Pose | None = None) -> torch.Tensor:
        """Aerial pictures float[B, 3, S, S] at the recipe's metres per pixel to what the aerial backbone sees."""
        return self.transformer.convert(images, self._pose_px(pose or Pose()))

    def to_polar(self, images: torch.Tensor, pose: Pose | None = None) -> torch.Tensor:
        """Plain polar images float[B, 3, height_px, width_px] of the field, which guide a learned transform.

        `images` float[B, 3, S, S] are aerial pictures at the recipe's metres per pixel.
        """
        height, width = self.recipe.aerial_px
        return aerial_to_polar(
            images,
            height_px=height,
            width_px=width,
            radius_px=self.recipe.tile_px / 2,
            **self._pose_px(pose or Pose()),
        )

    def _pose_px(self, pose: Pose) -> PosePx:
        scale = self.recipe.metres_per_pixel
        return {
            "east_px": None if pose.east_m is None else pose.east_m / scale,
            "north_px": None if pose.north_m is None else pose.north_m / scale,
            "heading_deg": pose.heading_deg,
            "scale": pose.scale,
            "mirrored": pose.mirrored,
        }

    def columns(
        self,
        images: torch.Tensor,
        view: str,
        pose: Pose | None = None,
        clouds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Panoramas or converted aerial pictures float[B, 3, H, W] in 0..1 to float32[B, channels, columns].

        `pose` gives the turn of each picture, for its orientation maps (None: north in the middle, or up). `clouds`
        float[B, P, 4] are the points of tiles, placed as their pictures; models with clouds need them.
        """
        return self.columns_of([images], [view], [pose], clouds)[0]

    def columns_of(
        self,
        batches: Sequence[torch.Tensor],
        views: Sequence[str],
        poses: Sequence[Pose | None] | None = None,
        clouds: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """`columns` of batches float[B, 3, H, W], one per view; a shared backbone takes pictures of one size together.

        Together is faster, and its batch norm then learns one statistic for all views. `clouds` float[B, P, 4] belong
        to the view `aerial`. Raises `ModelMismatch` where a model with clouds gets tiles without them.
        """
        self._check_clouds(views, clouds)
        branches = [self.branch_of(view) for view in views]
        poses = poses or [None] * len(batches)
        maps = [
            None if self.maps is None else self.maps(view, len(images), pose)
            for images, view, pose in zip(batches, views, poses, strict=True)
        ]
        parts: list[torch.Tensor | None]
        if self._go_together(batches):
            together = None if self.maps is None else torch.cat([each for each in maps if each is not None])
            features = self._features(torch.cat(list(batches)), branches[0], together)
            parts = list(torch.split(features, [len(images) for images in batches]))
        else:
            parts = [
                self._features(images, branch, each) if branch in self.backbones else None
                for images, branch, each in zip(batches, branches, maps, strict=True)
            ]
        return [
            self._aggregate(part, branch, clouds if view == "aerial" else None)
            for part, branch, view in zip(parts, branches, views, strict=True)
        ]

    def _go_together(self, batches: Sequence[torch.Tensor]) -> bool:
        alike = len(batches) > 1 and len({each.shape[1:] for each in batches}) == 1
        return alike and self.recipe.shared_weights and self._tiles_have_pictures

    def _check_clouds(self, views: Sequence[str], clouds: torch.Tensor | None) -> None:
        tiles = [view for view in views if view in AERIAL_VIEWS]
        if self.cloud is None or not tiles or (clouds is not None and tiles == ["aerial"]):
            return
        raise ModelMismatch(
            f"The model compares point clouds of tiles, and pictures of view {tiles[-1]!r} came without one; use tiles "
            "with points (data set map25d, or ingest from OSM), or a model without model.cloud."
        )

    def feature_map(self, images: torch.Tensor, view: str) -> torch.Tensor:
        """Pictures as in `columns`, of models without orientation maps, to the backbone's float[B, C, h, w]."""
        return self._features(images, self.branch_of(view), None)

    def aggregate(self, features: torch.Tensor, view: str) -> torch.Tensor:
        """A backbone's float[B, C, h, w] to float32[B, channels, columns]: the rest of `columns`."""
        return self._aggregate(features, self.branch_of(view))

    def _features(self, images: torch.Tensor, branch: str, maps: torch.Tensor | None) -> torch.Tensor:
        inputs = normalise(images, self.recipe.pixels).contiguous(memory_format=torch.channels_last)
        features: torch.Tensor = self.backbones[branch](inputs, maps)
        return features

    def _aggregate(
        self, features: torch.Tensor | None, branch: str, clouds: torch.Tensor | None = None
    ) -> torch.Tensor:
        columns: torch.Tensor
        if self.cloud is not None and clouds is not None:
            columns = self.cloud(features, clouds)
        else:
            columns = self.heads[branch](features)
        if branch in self.projections:
            columns = self.projections[branch](columns)
        return columns.float()

    def forward(self, images: torch.Tensor, view: str, pose: Pose | None = None) -> torch.Tensor:
        """Panoramas or converted aerial pictures float[B, 3, H, W] in 0..1 to unit embeddings float32[B, D]."""
        return flatten(self.columns(images, view, pose))

    def branch_of(self, view: str) -> str:
        """Name of the branch that a view goes through."""
        name: str = getattr(self.branches, view)
        return name


def _projection(section: Projection, inputs: int) -> nn.Module:
    """The map float[B, inputs, columns] to float[B, channels, columns] of a recipe."""
    linear = nn.Conv1d(inputs, section.channels, 1)
    return linear if section.norm is None else nn.Sequential(linear, nn.BatchNorm1d(section.channels))


def flatten(columns: torch.Tensor) -> torch.Tensor:
    """float[..., channels, columns] to unit embeddings float[..., D]."""
    return F.normalize(columns.flatten(-2), dim=-1)
