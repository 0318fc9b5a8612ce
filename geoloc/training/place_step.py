"""One training step by places: pictures of P places in K views, embeddings of all workers, the sum of the losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from geoloc.losses.places.place_loss import PlaceBatch
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import AERIAL_VIEWS, to_unit
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import gather_rows
from geoloc.training.augment import LightDraw, change_light
from geoloc.training.step import StepResult, has_bfloat16, hashing_term

VIEWS = ("aerial", "drone", "street")
"""Views in the order of their numbers in a `PlaceBatch`."""


@dataclass(frozen=True)
class PlaceImages:
    """One worker's pictures of a step by view, before augmentation: uint8[B, h, w, 3] and their places int64[B].

    `headings_deg` float[B]: what lies at a photo's top (or in its middle), clockwise from north; NaN where unknown.
    """

    images: Mapping[str, torch.Tensor]
    places: Mapping[str, torch.Tensor]
    headings_deg: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PlaceDraw:
    """What is drawn for the pictures of one view: mirroring bool[B], shift and turn float[B], light.

    Convention: as `Pose`; only aerial pictures are shifted, only tiles are turned.
    """

    mirrored: torch.Tensor
    east_m: torch.Tensor
    north_m: torch.Tensor
    turn_deg: torch.Tensor
    light: LightDraw | None


class PlaceStep(nn.Module):
    """Losses of a batch of places for a model; its parameters are the model's and the losses' (classifiers)."""

    def __init__(self, model: GeoLocalizer, recipe: Recipe, places: int) -> None:
        super().__init__()
        self.sections = recipe.loss.places or ()
        self.losses = nn.ModuleList(
            section.build(recipe.model.embedding_dim, places) for section in self.sections
        )
        self.model = model
        self.recipe = recipe

    def forward(self, batch: PlaceImages, draws: Mapping[str, PlaceDraw]) -> StepResult:
        """Loss over the pictures of all workers; `draws` are those of the views."""
        gathered = self._embed(batch, draws)
        loss = gathered.bottleneck.new_zeros(())
        for section, each in zip(self.sections, self.losses, strict=True):
            loss = loss + section.weight * each(gathered)
        unit, tiles = gathered.unit, gathered.view == 0
        photo_place, tile_place = gathered.place[~tiles], gathered.place[tiles]
        own = (photo_place[:, None] == tile_place[None]).float().argmax(1)
        same = photo_place[:, None] == photo_place[None]
        loss = loss + hashing_term(self.model, self.recipe, unit[~tiles], unit[tiles][own], same)
        with torch.no_grad():
            nearest = (unit[~tiles] @ unit[tiles].T).argmax(1)
            first = tile_place[nearest] == photo_place
            whole = torch.isfinite(gathered.bottleneck).all(1)
            finite = torch.stack([whole[gathered.place == place].all() for place in tile_place])
        return StepResult(loss, first.float().mean(), unit[tiles].detach().std(0).norm(), finite)

    def _embed(self, batch: PlaceImages, draws: Mapping[str, PlaceDraw]) -> PlaceBatch:
        """The embeddings of all workers, view by view, so that their order does not depend on the number of workers."""
        views = [view for view in VIEWS if view in batch.images]
        drawn = [
            self._augmented(batch.images[view], view, batch.headings_deg[view], draws[view]) for view in views
        ]
        images, headings = zip(*drawn, strict=True)
        device = images[0].device
        bfloat16 = self.recipe.training.bfloat16 and has_bfloat16(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            columns = self.model.columns_of(images, views)
        bottleneck = torch.cat([gather_rows(each.flatten(1)) for each in columns])
        with torch.no_grad():
            places = [gather_rows(batch.places[view]) for view in views]
            view = torch.cat(
                [torch.full_like(each, VIEWS.index(name)) for name, each in zip(views, places, strict=True)]
            )
            heading = torch.cat([gather_rows(each) for each in headings])
        return PlaceBatch(bottleneck, torch.cat(places), view, heading)

    def _augmented(
        self, images: torch.Tensor, view: str, heading_deg: torch.Tensor, draw: PlaceDraw
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures uint8[B, h, w, 3] turned, shifted and mirrored, in other light, and their headings float[B].

        Tiles alone are turned. A mirrored picture has no heading: no turn brings it onto the others.
        """
        pictures = to_unit(images)
        if view in AERIAL_VIEWS:
            pose = Pose(draw.east_m, draw.north_m, mirrored=draw.mirrored)
            if view == "aerial":
                pose, heading_deg = replace(pose, heading_deg=draw.turn_deg), heading_deg + draw.turn_deg
            pictures = self.model.convert_view(pictures, pose)
        else:
            pictures = torch.where(draw.mirrored[:, None, None, None], pictures.flip(3), pictures)
        heading_deg = heading_deg.masked_fill(draw.mirrored, torch.nan)
        return change_light(pictures, draw.light), heading_deg
