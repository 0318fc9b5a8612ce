"""The points of tiles in a model: what they become, and how they join the tile's picture."""

from __future__ import annotations

import torch
from torch import nn

from geoloc.geometry.clouds import cloud_features
from geoloc.models.fusions.network import Fusion, FusionSizes
from geoloc.models.views.transform import ViewTransform
from geoloc.recipe.model import CloudBranch
from geoloc.recipe.recipe import ModelRecipe

_EVALUATION_BYTES = 256 * 2**20


class CloudBranchNetwork(nn.Module):
    """An encoder of clouds and a fusion.

    Memory in evaluation: clouds go through together as far as the largest tensor of the encoder stays within 256 MiB
    (`CloudEncoderSection.bytes_per_cloud`), at least one by one. Training holds what the backward pass needs.
    """

    def __init__(
        self,
        section: CloudBranch,
        recipe: ModelRecipe,
        view: ViewTransform,
        map_channels: int,
        map_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.section = section
        self.half_m = recipe.tile_m / 2
        self.encoder = section.encoder.build(section.inputs)
        sizes = FusionSizes(
            map_channels=map_channels,
            map_size=map_size,
            point_channels=section.encoder.channels,
            channels=recipe.aggregated_channels,
            columns=recipe.columns,
            head=recipe.aggregation.build,
            view=view,
            circle=recipe.view.azimuth_columns,
        )
        self.fusion: Fusion[CloudBranch] = section.fusion.build(sizes)  # type: ignore[type-var]

    @property
    def clouds_at_once(self) -> int:
        """Clouds that go through together in evaluation."""
        return max(1, _EVALUATION_BYTES // self.section.encoder.bytes_per_cloud(self.section.points))

    def forward(self, features: torch.Tensor | None, clouds: torch.Tensor) -> torch.Tensor:
        """Feature maps float[B, C, h, w] and placed clouds float[B, P, 4] to float[B, channels, columns].

        Convention: clouds are those of `geometry.clouds.place_clouds`, under the pose of the pictures.
        """
        if self.training:
            return self._fuse(features, clouds)
        step = self.clouds_at_once
        parts = [
            self._fuse(
                None if features is None else features[start : start + step], clouds[start : start + step]
            )
            for start in range(0, len(clouds), step)
        ]
        return torch.cat(parts)

    def _fuse(self, features: torch.Tensor | None, clouds: torch.Tensor) -> torch.Tensor:
        inputs = cloud_features(clouds, self.half_m, semantics=self.section.semantics)
        fused: torch.Tensor = self.fusion(features, self.encoder(inputs))
        return fused
