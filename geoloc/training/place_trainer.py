"""Training by places: batches of P places with a tile and K photos of each (PK sampling)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from geoloc.core.arrays import IntArray
from geoloc.models.preprocessing import AERIAL_VIEWS
from geoloc.recipe.recipe import Recipe
from geoloc.training.augment import draw_light, taken, uniform
from geoloc.training.place_step import PlaceDraw, PlaceImages, PlaceStep
from geoloc.training.place_store import PlacePictures, PlaceStore, place_names
from geoloc.training.step import StepResult
from geoloc.training.step_times import TIMES
from geoloc.training.trainer import Trainer

_NAMED = 3


class PlaceTrainer(Trainer):
    """Trains on places; as one of several workers it computes its share of each batch."""

    def __init__(
        self,
        store: PlaceStore,
        recipe: Recipe,
        *,
        workers: int = 1,
        rank: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.store = store
        super().__init__(recipe, len(store), workers=workers, rank=rank, device=device)

    def _make_step(self) -> nn.Module:
        return PlaceStep(self.model, self.recipe, len(self.store))

    def _leaves_unused(self) -> bool:
        # Branches of views that are not in the batches get no gradient either.
        return True

    def names(self, rows: IntArray) -> list[str]:
        """The first of the places at rows int64[n] by their names."""
        return place_names(self.store.index, rows[:_NAMED])

    def _run(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        draws = self._draws(len(rows), generator)
        with TIMES.of("data"):
            batch = self.batch(rows)
        result: StepResult = self._step(batch, draws)
        return result

    def _counts(self) -> dict[str, int]:
        """Pictures of a place in a batch by view, in the order of `PlaceImages`."""
        photos = self.recipe.training.places.photos if self.recipe.training.places else {}
        return {"aerial": 1, **photos}

    def _draws(self, places: int, generator: torch.Generator) -> dict[str, PlaceDraw]:
        """The draws of this worker's pictures of each view, out of those of a whole batch of so many places."""
        return {
            view: taken(self._draw(places * count, view, generator), self._rows(count), self.device)
            for view, count in self._counts().items()
        }

    def _rows(self, count: int) -> slice:
        return slice(self.share.start * count, self.share.stop * count)

    def _draw(self, count: int, view: str, generator: torch.Generator) -> PlaceDraw:
        augmentation, sampling = self.recipe.training.augmentation, self.recipe.training.places
        assert sampling is not None
        mirrored = torch.rand(count, generator=generator) < (0.5 if augmentation.flip else 0.0)
        east = north = turn = torch.zeros(count)
        if view in AERIAL_VIEWS:
            reach_m = sampling.shift * self.recipe.model.tile_m
            east, north = (uniform((count,), -reach_m, reach_m, generator) for _ in range(2))
            if view == "aerial":
                turn = uniform((count,), -sampling.turn_deg, sampling.turn_deg, generator)
        light = draw_light(count, augmentation.photometric, generator)
        return PlaceDraw(mirrored, east, north, turn, light)

    def batch(self, rows: IntArray) -> PlaceImages:
        """This worker's pictures of a batch of places int64[P]: a tile and the wanted photos of each.

        Which photos is drawn for this step. Photos of a place are drawn without repetition while it has enough of them.
        """
        rng = np.random.default_rng((self.recipe.seed, self.steps_done, 0, 0x9A))
        pictures = {"aerial": self.store.tiles, **self.store.photos}
        of_view = {"aerial": self.store.index.tiles, **self.store.index.photos}
        images, places, headings_deg = {}, {}, {}
        for view, count in self._counts().items():
            number = _drawn(rng, of_view[view], rows, count).ravel()[self._rows(count)]
            images[view] = torch.from_numpy(pictures[view][number]).to(self.device)
            places[view] = torch.from_numpy(np.repeat(rows[self.share], count)).to(self.device)
            headings_deg[view] = torch.from_numpy(of_view[view].heading_deg[number]).to(self.device)
        return PlaceImages(images, places, headings_deg)


def _drawn(rng: np.random.Generator, pictures: PlacePictures, rows: IntArray, count: int) -> IntArray:
    """Numbers of `count` pictures of each place at rows int64[P], int64[P, count]; repeated where there are fewer."""
    chosen = []
    for row in rows:
        of_place = pictures.of(int(row))
        chosen.append(rng.choice(of_place, size=count, replace=len(of_place) < count))
    return np.stack(chosen)
