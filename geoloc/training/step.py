"""One training step as a module: two looks at every place, embeddings of all workers, the losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from geoloc.losses.contrastive import near_pairs, pair_logits, symmetric_info_nce
from geoloc.losses.hashing import orthogonality_loss, prefix_loss, quantisation_loss
from geoloc.models.bearings import Pose
from geoloc.models.geolocalizer import GeoLocalizer, flatten, initial_log_scale
from geoloc.models.preprocessing import to_unit
from geoloc.recipe import Recipe
from geoloc.training.augment import PairDraw, change_light
from geoloc.training.gather import gather_rows
from geoloc.views.panorama import turn_panorama

_LARGEST_LOG_SCALE = 4.6  # a temperature of 0.01: beyond, InfoNCE only sharpens what it already separates


@dataclass(frozen=True)
class PairBatch:
    """One worker's pairs of a step, before augmentation.

    `tiles` uint8[B, s, s, 3], `panoramas` uint8[B, h, w, 3], `east_m`, `north_m` [B] the cameras in one metric
    frame (NaN: unknown), `tile` int64[B] a number per tile.
    """

    tiles: torch.Tensor
    panoramas: torch.Tensor
    east_m: torch.Tensor
    north_m: torch.Tensor
    tile: torch.Tensor


@dataclass(frozen=True)
class StepResult:
    """Loss of a step and what to watch: the share of queries whose own tile came first, the batch's spread."""

    loss: torch.Tensor
    accuracy: torch.Tensor
    spread: torch.Tensor


class PairStep(nn.Module):
    """Losses of a batch of pairs for a model; its parameters are the model's and the temperature."""

    def __init__(self, model: GeoLocalizer, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.log_scale = initial_log_scale(recipe.loss.temperature)

    def forward(
        self, batch: PairBatch, draw: PairDraw, drone: Pose | None, generator: torch.Generator
    ) -> StepResult:
        """Loss over the pairs of all workers; `drone` is the pose of a second aerial look, for its own term."""
        queries, references, drones = self._embed(batch, draw, drone, generator)
        ignored = self._ignored(batch)
        scale = self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()
        smoothing = self.recipe.loss.label_smoothing
        queries, references = gather_rows(queries), gather_rows(references)
        logits = pair_logits(queries, references, scale, ignored)
        loss = symmetric_info_nce(logits, label_smoothing=smoothing, ignored=ignored)
        loss = loss + self._hashing(queries, references, ignored)
        if drones is not None:
            drones = gather_rows(drones)
            aerial = pair_logits(drones, references, scale, ignored)
            term = symmetric_info_nce(aerial, label_smoothing=smoothing, ignored=ignored)
            loss = loss + self.recipe.loss.aerial_weight * (term + self._hashing(drones, references, ignored))
        own = torch.arange(len(logits), device=logits.device)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == own).float().mean()
            spread = references.std(0).norm()
        return StepResult(loss, accuracy, spread)

    def _embed(
        self, batch: PairBatch, draw: PairDraw, drone: Pose | None, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        light = self.recipe.training.augmentation.photometric
        turned = to_unit(turn_panorama(batch.panoramas, draw.columns, draw.mirrored))
        tiles = to_unit(batch.tiles)
        polar = self.model.convert_view(tiles, draw.aerial)
        looks = [change_light(turned, light, generator), change_light(polar, light, generator)]
        views = ["panorama", "aerial"]
        if drone is not None:
            looks.append(change_light(self.model.convert_view(tiles, drone), light, generator))
            views.append("drone")
        with torch.autocast(tiles.device.type, torch.bfloat16, enabled=self.recipe.training.bfloat16):
            columns = self.model.columns_of(looks, views)
        embedded = [flatten(look) for look in columns]
        return embedded[0], embedded[1], embedded[2] if drone is not None else None

    def _ignored(self, batch: PairBatch) -> torch.Tensor:
        """bool[N, N] over all workers: pairs of different photos that show one place, so no negatives."""
        with torch.no_grad():
            where = gather_rows(torch.stack([batch.east_m, batch.north_m], 1))
            tile = gather_rows(batch.tile)
            near = near_pairs(where[:, 0], where[:, 1], self.recipe.training.negative_distance_m)
            return near | (tile[:, None] == tile[None])

    def _hashing(
        self, queries: torch.Tensor, references: torch.Tensor, ignored: torch.Tensor
    ) -> torch.Tensor:
        loss = self.recipe.loss
        if loss.hashing_weight == 0:
            return queries.new_zeros(())
        # One pass, so that the batch norm centres both views alike.
        codes, own = self.model.hash(torch.cat([queries, references])).chunk(2)
        similar = prefix_loss(
            codes, own, self.recipe.model.hash.prefixes, temperature=loss.hashing_temperature, ignored=ignored
        )
        sharp = (quantisation_loss(codes) + quantisation_loss(own)) / 2
        apart = orthogonality_loss(self.model.hash.project.weight)
        return loss.hashing_weight * (
            similar + loss.quantisation_weight * sharp + loss.orthogonality_weight * apart
        )
