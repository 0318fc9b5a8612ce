"""One training step as a module: two views of every place, the embeddings of all workers, the losses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from geoloc.geometry.azimuth import best_turn_similarity, shown_columns, similarity
from geoloc.geometry.panorama import limit_view, shown_pixels, turn_panorama
from geoloc.losses.contrastive import make_pair_loss, masked, near_pairs
from geoloc.losses.hashing import orthogonality_loss, prefix_loss, quantisation_loss
from geoloc.losses.triplet import guidance_loss
from geoloc.models.geolocalizer import GeoLocalizer, flatten
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import to_unit
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import gather_rows
from geoloc.training.augment import PairDraw, change_light


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


@dataclass(frozen=True)
class _PairEmbeddings:
    """Unit embeddings of one worker's pairs; `aligned` are the queries turned to their known heading, for the codes.

    `shown` bool[B, columns]: which columns a query of limited view shows; None where all do.
    """

    queries: torch.Tensor
    references: torch.Tensor
    aligned: torch.Tensor
    shown: torch.Tensor | None
    drones: torch.Tensor | None
    guidance: torch.Tensor | None


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them takes ten times as long as in float32."""
    if device.type != "cpu":
        return True
    return any(present for name, present in torch.cpu.get_capabilities().items() if "bf16" in name)


class PairStep(nn.Module):
    """Losses of a batch of pairs for a model; its parameters are the model's and the pair loss's."""

    def __init__(self, model: GeoLocalizer, recipe: Recipe) -> None:
        super().__init__()
        self.pair_loss = make_pair_loss(recipe.loss)
        self.model = model
        self.recipe = recipe

    def forward(
        self, batch: PairBatch, draw: PairDraw, drone: Pose | None, generator: torch.Generator
    ) -> StepResult:
        """Loss over the pairs of all workers; `drone` is the pose of a second aerial view, for its own term."""
        own = self._embed(batch, draw, drone, generator)
        ignored = same_place_pairs(batch, self.recipe.training.negative_distance_m)
        queries, references = gather_rows(own.queries), gather_rows(own.references)
        aligned = gather_rows(own.aligned) if self.recipe.loss.heading == "unknown" else queries
        similarity = self._similarity(queries, references, own.shown)
        hashing = partial(hashing_term, self.model, self.recipe)
        loss = self.pair_loss(similarity, ignored) + hashing(aligned, references, ignored)
        if own.drones is not None:
            drones = gather_rows(own.drones)
            term = self.pair_loss(drones @ references.T, ignored) + hashing(drones, references, ignored)
            loss = loss + self.recipe.loss.aerial_weight * term
        if own.guidance is not None:
            loss = loss + (self.recipe.loss.guidance_weight or 0.0) * own.guidance
        with torch.no_grad():
            others = masked(similarity, ignored)
            first = others.argmax(1) == torch.arange(len(others), device=others.device)
            spread = references.std(0).norm()
        return StepResult(loss, first.float().mean(), spread)

    def _similarity(
        self, queries: torch.Tensor, references: torch.Tensor, shown: torch.Tensor | None
    ) -> torch.Tensor:
        """Cosines float[N, N] as photos will be searched: at the best turn, over the columns they show."""
        columns = self.recipe.model.columns
        if shown is not None:
            with torch.no_grad():
                shown = gather_rows(shown.float()) > 0
        if self.recipe.loss.heading == "unknown":
            return best_turn_similarity(queries, references, columns, shown)
        return similarity(queries, references, columns, shown)

    def _embed(
        self, batch: PairBatch, draw: PairDraw, drone: Pose | None, generator: torch.Generator
    ) -> _PairEmbeddings:
        light = self.recipe.training.augmentation.photometric
        turned = turn_panorama(batch.panoramas, draw.columns, draw.mirrored)
        shown = None
        if draw.first is not None and draw.kept is not None:
            turned = limit_view(turned, draw.first, draw.kept)
            if self.recipe.model.columns > 1:
                pixels = shown_pixels(draw.first, draw.kept, turned.shape[2])
                shown = shown_columns(pixels, self.recipe.model.columns)
        tiles = to_unit(batch.tiles)
        aerial = self.model.convert_view(tiles, draw.aerial)
        guidance = None
        if self.recipe.loss.guidance_weight is not None:
            guidance = guidance_loss(aerial, self.model.to_polar(tiles, draw.aerial))
        width = turned.shape[2]
        ground, above = draw.orientation_poses(width)
        images = [change_light(to_unit(turned), light, generator), change_light(aerial, light, generator)]
        views, poses = ["panorama", "aerial"], [ground, above]
        if drone is not None:
            images.append(change_light(self.model.convert_view(tiles, drone), light, generator))
            views.append("drone")
            poses.append(
                Pose(heading_deg=draw.heading_deg, mirrored=draw.mirrored) if draw.turned_apart else None
            )
        bfloat16 = self.recipe.training.bfloat16 and has_bfloat16(tiles.device)
        with torch.autocast(tiles.device.type, torch.bfloat16, enabled=bfloat16):
            columns = self.model.columns_of(images, views, poses)
        embedded = [flatten(each) for each in columns]
        aligned = embedded[0]
        if self.recipe.loss.heading == "unknown":
            aligned = flatten(_turn_back(columns[0], draw.relative_turn(width)))
        drones = embedded[2] if drone is not None else None
        return _PairEmbeddings(embedded[0], embedded[1], aligned, shown, drones, guidance)


def hashing_term(
    model: GeoLocalizer,
    recipe: Recipe,
    queries: torch.Tensor,
    references: torch.Tensor,
    ignored: torch.Tensor,
) -> torch.Tensor:
    """Weighted losses of the codes of unit embeddings float[N, D], row i of both showing one place.

    `ignored` bool[N, N] are no negatives. Without a weight the bits are still centred.
    """
    loss = recipe.loss
    if loss.hashing_weight == 0:
        with torch.no_grad():  # the bits of a random projection are centred all the same
            model.hash_head(torch.cat([queries, references]))
        return queries.new_zeros(())
    # One pass, so that the batch norm centres both views alike.
    codes, own = model.hash_head(torch.cat([queries, references])).chunk(2)
    similar = prefix_loss(
        codes, own, recipe.model.hash.prefixes, temperature=loss.hashing_temperature, ignored=ignored
    )
    sharp = (quantisation_loss(codes) + quantisation_loss(own)) / 2
    apart = orthogonality_loss(model.hash_head.project.weight)
    return loss.hashing_weight * (
        similar + loss.quantisation_weight * sharp + loss.orthogonality_weight * apart
    )


@torch.no_grad()
def same_place_pairs(batch: PairBatch, distance_m: float) -> torch.Tensor:
    """bool[N, N] over the pairs of all workers: whether two pairs show one place and so are no negatives.

    Two pairs show one place when they share a tile or their cameras are nearer than `distance_m` metres.
    """
    camera = gather_rows(torch.stack([batch.east_m, batch.north_m], 1))
    tile = gather_rows(batch.tile)
    return near_pairs(camera[:, 0], camera[:, 1], distance_m) | (tile[:, None] == tile[None])


def _turn_back(columns: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Columns float[B, channels, W] rolled to the right by the whole columns nearest to `turn` circles [B]."""
    width = columns.shape[-1]
    index = torch.arange(width, device=columns.device)[None] - (turn * width).round().long()[:, None]
    return columns.gather(-1, (index % width)[:, None].expand_as(columns))
