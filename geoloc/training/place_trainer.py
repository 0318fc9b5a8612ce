"""Training by places: batches of P places with a tile and K photos of each (PK sampling)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geoloc.core.arrays import IntArray
from geoloc.recipe.recipe import Recipe
from geoloc.training.place_step import PlaceImages, PlaceStep
from geoloc.training.place_store import PlaceStore
from geoloc.training.step import StepResult
from geoloc.training.trainer import Trainer


class PlaceTrainer(Trainer):
    """Trains on one worker's places; `places` is the number of places of all workers."""

    def __init__(
        self,
        store: PlaceStore,
        recipe: Recipe,
        *,
        places: int,
        workers: int = 1,
        rank: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.store = store
        self._places = places
        super().__init__(recipe, len(store), workers=workers, rank=rank, device=device)

    def _make_step(self) -> nn.Module:
        return PlaceStep(self.model, self.recipe, self._places)

    def _leaves_unused(self) -> bool:
        # Branches of views that are not in the batches get no gradient either.
        return True

    def _run(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        result: StepResult = self._step(self.batch(rows), generator)
        return result

    def batch(self, rows: IntArray) -> PlaceImages:
        """Pictures of the places at rows int64[P]: a tile and the wanted photos of each, drawn for this step.

        Photos of a place are drawn without repetition while it has enough of them.
        """
        rng = np.random.default_rng((self.recipe.seed, self.steps_done, self.rank, 0x9A))
        number = self.store.index.number
        chosen = {"aerial": _drawn(rng, self.store.tile_rows, rows, 1)}
        for view, count in (
            self.recipe.training.places.photos if self.recipe.training.places else {}
        ).items():
            chosen[view] = _drawn(rng, self.store.photo_rows[view], rows, count)
        pictures = {"aerial": self.store.tiles, **self.store.photos}

        def tensor(values: npt.NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(values).to(self.device)

        return PlaceImages(
            {view: tensor(pictures[view][each.ravel()]) for view, each in chosen.items()},
            {view: tensor(np.repeat(number[rows], each.shape[1])) for view, each in chosen.items()},
            {view: tensor(self.store.headings_deg[view][each.ravel()]) for view, each in chosen.items()},
        )


def _drawn(rng: np.random.Generator, of_place: list[IntArray], rows: IntArray, count: int) -> IntArray:
    """`count` pictures of each place at rows int64[P], int64[P, count]; repeated only where there are fewer."""
    return np.stack(
        [rng.choice(of_place[row], size=count, replace=len(of_place[row]) < count) for row in rows]
    )
