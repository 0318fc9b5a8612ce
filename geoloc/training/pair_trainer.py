"""Training by pairs of a photo and a tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.models.orientation_maps import Pose
from geoloc.recipe.recipe import Recipe
from geoloc.training.augment import PairDraw, draw_drone, draw_pairs
from geoloc.training.pair_store import PairStore
from geoloc.training.sampler import neighbour_batches
from geoloc.training.step import PairBatch, PairStep, StepResult
from geoloc.training.trainer import Trainer

_Draw = TypeVar("_Draw", PairDraw, Pose | None)


class PairTrainer(Trainer):
    """Trains on one worker's pairs."""

    def __init__(
        self,
        store: PairStore,
        recipe: Recipe,
        *,
        workers: int = 1,
        rank: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.store = store
        super().__init__(recipe, len(store), workers=workers, rank=rank, device=device)

    def _make_step(self) -> nn.Module:
        self._pair_step = PairStep(self.model, self.recipe)
        return self._pair_step

    def _batches_from(self, start: int) -> Iterator[IntArray]:
        if self.recipe.training.sampler == "neighbours":
            index = self.store.index
            return neighbour_batches(index.east_m, index.north_m, self.batch_size, self._seed(), start=start)
        return super()._batches_from(start)

    def _run(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        training, index = self.recipe.training, self.store.index
        batch = self._batch(rows)
        draw = draw_pairs(
            torch.from_numpy(index.camera_east_m[rows]).float(),
            torch.from_numpy(index.camera_north_m[rows]).float(),
            training.augmentation,
            width_px=self.recipe.model.panorama_px[1],
            reach_m=self.store.reach_m,
            generator=generator,
        )
        drone = None
        if self.recipe.loss.aerial_weight > 0 and self.steps_done % self.recipe.loss.aerial_every == 0:
            drone = draw_drone(draw, training.augmentation, reach_m=self.store.reach_m, generator=generator)
        self._pair_step.pair_loss.epoch = self.epoch
        result: StepResult = self._step(batch, self._on_device(draw), self._on_device(drone), generator)
        return result

    def _batch(self, rows: IntArray) -> PairBatch:
        index = self.store.index

        def floats(values: FloatArray) -> torch.Tensor:
            return torch.from_numpy(values[rows]).float().to(self.device)

        tiles = self.store.tile_of[rows]
        return PairBatch(
            tiles=torch.from_numpy(self.store.tiles[tiles]).to(self.device),
            panoramas=torch.from_numpy(self.store.panoramas[rows]).to(self.device),
            east_m=floats(index.east_m),
            north_m=floats(index.north_m),
            tile=torch.from_numpy(index.tile_number[rows]).to(self.device),
        )

    def _on_device(self, draw: _Draw) -> _Draw:
        """The draw with its tensors on this trainer's device. Draws are made on the CPU, the same for every device."""
        if draw is None:
            return draw
        moved: dict[str, Any] = {
            name: value.to(self.device)
            for name, value in vars(draw).items()
            if isinstance(value, torch.Tensor)
        }
        return replace(draw, **moved)
