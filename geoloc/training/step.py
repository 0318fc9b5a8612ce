"""One training step as a module: two views of every place, the embeddings of all workers, the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from geoloc.geometry.azimuth import best_turn_similarity, shown_columns, similarity
from geoloc.geometry.panorama import limit_rows, limit_view, shown_pixels, turn_panorama
from geoloc.losses.contrastive import make_pair_loss, masked, near_pairs
from geoloc.losses.hashing import orthogonality_loss, prefix_loss, quantisation_loss
from geoloc.losses.triplet import guidance_loss
from geoloc.models.geolocalizer import GeoLocalizer, flatten
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import to_unit
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import TwoViews
from geoloc.training.all_gather import gather_rows
from geoloc.training.augment import LightDraw, PairDraw, change_light, erase, taken
from geoloc.training.cloud_store import vary_clouds


@dataclass(frozen=True)
class PairBatch:
    """One worker's pairs of a step, before augmentation.

    `tiles` uint8[B, s, s, 3], `panoramas` uint8[B, h, w, 3], `east_m`, `north_m` [B] the cameras in one metric
    frame (NaN: unknown), `tile` int64[B] a number per tile. `clouds` float32[B, pool, 4] are the tiles' points.
    """

    tiles: torch.Tensor
    panoramas: torch.Tensor
    east_m: torch.Tensor
    north_m: torch.Tensor
    tile: torch.Tensor
    clouds: torch.Tensor | None = None

    def repeated(self, copies: int) -> PairBatch:
        """The same pairs `copies` times, one copy after the other."""
        if copies == 1:
            return self
        return self._changed(lambda values: torch.cat([values] * copies))

    def rows(self, rows: slice) -> PairBatch:
        """Some of the pairs."""
        return self._changed(lambda values: values[rows])

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PairBatch:
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in vars(self).items()
        }
        return PairBatch(**changed)


@dataclass(frozen=True)
class PairInputs:
    """What a step computes the embeddings of: views of pairs, and what is drawn for them.

    `batch` has a row for each view: all `pairs` once, or with `loss.two_views` twice, one copy after the other. `draw`,
    the pose `drone` of a second aerial view for its own term, and `lights` (those of the photos, the aerial views and
    the drone looks) are of these rows; `seeds` int64[views] draw what is erased of photos and changed in clouds.
    """

    batch: PairBatch
    pairs: int
    draw: PairDraw
    drone: Pose | None
    lights: Sequence[LightDraw | None]
    seeds: torch.Tensor

    @property
    def views(self) -> int:
        """How many rows there are."""
        return len(self.draw.columns)

    def rows(self, rows: slice) -> PairInputs:
        """Some of the views, for their embeddings alone."""
        device = self.batch.tile.device
        return PairInputs(
            self.batch.rows(rows),
            self.pairs,
            taken(self.draw, rows, device),
            taken(self.drone, rows, device),
            [taken(light, rows, device) for light in self.lights],
            self.seeds[rows],
        )


@dataclass(frozen=True)
class StepResult:
    """Loss of a step and what to watch: the share of queries whose own tile came first, the batch's spread.

    `finite` bool[B]: items of the whole batch (pairs or places) whose embeddings are finite.
    """

    loss: torch.Tensor
    accuracy: torch.Tensor
    spread: torch.Tensor
    finite: torch.Tensor


@dataclass(frozen=True)
class PairEmbeddings:
    """Unit embeddings of one worker's views; `aligned` are the queries turned to their known heading, for the codes.

    `shown` bool[B, columns]: which columns a query of limited view shows; None where all do. `aligned` is None where
    queries are aligned as they are. `guidance` float[B]: how far a learned view is from the polar image.
    """

    queries: torch.Tensor
    references: torch.Tensor
    aligned: torch.Tensor | None
    shown: torch.Tensor | None
    drones: torch.Tensor | None
    guidance: torch.Tensor | None

    @classmethod
    def joined(cls, parts: Sequence[PairEmbeddings]) -> PairEmbeddings:
        """The rows of all parts, in order."""
        columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(cls)}
        joined: dict[str, Any] = {
            name: None if rows[0] is None else torch.cat(rows) for name, rows in columns.items()
        }
        return cls(**joined)

    def leaves(self) -> list[torch.Tensor]:
        """What the loss has a gradient for, float[B, ...] each."""
        all_of = (self.queries, self.references, self.aligned, self.drones, self.guidance)
        return [each for each in all_of if each is not None]


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

    def forward(self, inputs: PairInputs) -> StepResult:
        """Loss over the pairs of all workers."""
        return self.loss(inputs, self.embed(inputs))

    def loss(self, inputs: PairInputs, own: PairEmbeddings) -> StepResult:
        """Loss over the pairs of all workers, from the embeddings of this worker's views."""
        pairs = inputs.batch.rows(slice(0, inputs.pairs))
        ignored = same_place_pairs(pairs, self.recipe.training.negative_distance_m)
        if self.recipe.loss.two_views is not None:
            return self._two_views(own, ignored, self.recipe.loss.two_views)
        queries, references = gather_rows(own.queries), gather_rows(own.references)
        aligned = queries if own.aligned is None else gather_rows(own.aligned)
        similarity = self._similarity(queries, references, own.shown)
        hashing = partial(hashing_term, self.model, self.recipe)
        loss = self.pair_loss(similarity, ignored) + hashing(aligned, references, ignored)
        if own.drones is not None:
            drones = gather_rows(own.drones)
            term = self.pair_loss(drones @ references.T, ignored) + hashing(drones, references, ignored)
            loss = loss + self.recipe.loss.aerial_weight * term
        if own.guidance is not None:
            guidance = gather_rows(own.guidance).mean()
            loss = loss + (self.recipe.loss.guidance_weight or 0.0) * guidance
        return _result(loss, similarity, queries, references, ignored)

    def _two_views(self, own: PairEmbeddings, ignored: torch.Tensor, weights: TwoViews) -> StepResult:
        """The multi-term loss of 2.5D maps: photo against tile by their means, and each against its other view."""
        photos = [gather_rows(each) for each in own.queries.chunk(2)]
        tiles = [gather_rows(each) for each in own.references.chunk(2)]
        queries, references = (
            F.normalize(photos[0] + photos[1], dim=1),
            F.normalize(tiles[0] + tiles[1], dim=1),
        )
        similarity = queries @ references.T
        loss = weights.cross * self.pair_loss(similarity, ignored)
        loss = loss + weights.references * self.pair_loss(tiles[0] @ tiles[1].T, ignored)
        loss = loss + weights.queries * self.pair_loss(photos[0] @ photos[1].T, ignored)
        loss = loss + hashing_term(self.model, self.recipe, queries, references, ignored)
        return _result(loss, similarity, queries, references, ignored)

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

    def _clouds(self, batch: PairBatch, draw: PairDraw, seeds: torch.Tensor) -> torch.Tensor | None:
        """The tiles' points under the pose of their pictures, float[B, P, 4]; None for a model without clouds."""
        section = self.recipe.model.cloud
        if section is None or batch.clouds is None:
            return None
        half_m, changes = self.recipe.model.tile_m / 2, self.recipe.training.augmentation.cloud
        return vary_clouds(batch.clouds, draw.aerial, half_m, section.points, changes, seeds)

    def embed(self, inputs: PairInputs) -> PairEmbeddings:
        """The embeddings of this worker's views."""
        batch, draw, drone, lights = inputs.batch, inputs.draw, inputs.drone, inputs.lights
        turned = turn_panorama(batch.panoramas, draw.columns, draw.mirrored)
        shown = None
        if draw.first is not None and draw.kept is not None:
            turned = limit_view(turned, draw.first, draw.kept)
            if draw.top is not None and draw.bottom is not None:
                turned = limit_rows(turned, draw.top, draw.bottom)
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
        images = [change_light(to_unit(turned), lights[0]), change_light(aerial, lights[1])]
        if (share := self.recipe.training.augmentation.erasing) is not None:
            images[0] = erase(images[0], share, inputs.seeds)
        views, poses = ["panorama", "aerial"], [ground, above]
        if drone is not None:
            images.append(change_light(self.model.convert_view(tiles, drone), lights[2]))
            views.append("drone")
            poses.append(
                Pose(heading_deg=draw.heading_deg, mirrored=draw.mirrored) if draw.turned_apart else None
            )
        bfloat16 = self.recipe.training.bfloat16 and has_bfloat16(tiles.device)
        with torch.autocast(tiles.device.type, torch.bfloat16, enabled=bfloat16):
            columns = self.model.columns_of(images, views, poses, self._clouds(batch, draw, inputs.seeds))
        embedded = [flatten(each) for each in columns]
        aligned = None
        if self.recipe.loss.heading == "unknown":
            aligned = flatten(_turn_back(columns[0], draw.relative_turn(width)))
        drones = embedded[2] if drone is not None else None
        return PairEmbeddings(embedded[0], embedded[1], aligned, shown, drones, guidance)


def _result(
    loss: torch.Tensor,
    similarity: torch.Tensor,
    queries: torch.Tensor,
    references: torch.Tensor,
    ignored: torch.Tensor,
) -> StepResult:
    """The loss with what to watch, from cosines float[N, N] and embeddings float[N, D] of all workers."""
    with torch.no_grad():
        others = masked(similarity, ignored)
        first = others.argmax(1) == torch.arange(len(others), device=others.device)
        spread = references.std(0).norm()
        finite = torch.isfinite(queries).all(1) & torch.isfinite(references).all(1)
    return StepResult(loss, first.float().mean(), spread, finite)


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
