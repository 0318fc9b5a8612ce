"""Training by pairs of a photo and a tile."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from geoloc.core.arrays import FloatArray, Int32Array, IntArray
from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.core.progress import say
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import HardNegatives
from geoloc.training.augment import (
    draw_drone,
    draw_light,
    draw_pairs,
    draw_seeds,
    draw_twice,
    roll_apart,
    taken,
)
from geoloc.training.gradient_cache import backward_in_chunks
from geoloc.training.mining import Miner
from geoloc.training.neighbours import NeighbourLists
from geoloc.training.pair_index import pair_names
from geoloc.training.pair_store import PairStore
from geoloc.training.sampler import hard_batches
from geoloc.training.step import PairBatch, PairInputs, PairStep, StepResult
from geoloc.training.step_times import TIMES
from geoloc.training.trainer import Trainer


class PairTrainer(Trainer):
    """Trains on pairs; as one of several workers it computes its share of each batch."""

    def __init__(
        self,
        store: PairStore,
        recipe: Recipe,
        *,
        workers: int = 1,
        rank: int = 0,
        device: torch.device | None = None,
        lists: NeighbourLists | None = None,
    ) -> None:
        """`lists` keeps the neighbours that hard batches are made of; None keeps them in this process."""
        self.store = store
        self.lists = lists or NeighbourLists()
        super().__init__(recipe, len(store), workers=workers, rank=rank, device=device)

    def _make_step(self) -> nn.Module:
        if self.recipe.training.chunk is not None:
            self._refuse_batch_norms()
        self._pair_step = PairStep(self.model, self.recipe)
        return self._pair_step

    def _refuse_batch_norms(self) -> None:
        """Gradient caching is exact for networks whose rows do not depend on each other."""
        norms = [
            name
            for name, each in self.model.named_modules()
            if isinstance(each, _BatchNorm) and not name.startswith("hash.")
        ]
        if norms and self.recipe.training.batch_norm is None:
            raise ConfigError(
                f"training.chunk is {self.recipe.training.chunk}, and the model has {len(norms)} batch norms "
                f"({norms[0]}), which would see a chunk and not the batch; give training.batch_norm: workers to accept "
                "that, leave training.chunk out, or name a backbone without batch norms, such as ConvNeXt."
            )

    def _batches_from(self, start: int) -> Iterator[IntArray]:
        training = self.recipe.training
        if training.sampler == "random":
            return super()._batches_from(start)
        return hard_batches(
            self.store.index,
            self._candidates,
            self._hard,
            size=self.batch_size,
            distance_m=training.negative_distance_m,
            seed=self._seed(),
            start=start,
        )

    @property
    def _hard(self) -> HardNegatives:
        return self.recipe.training.hard_negatives or HardNegatives()

    def _candidates(self, epoch: int) -> Int32Array:
        """The candidates of an epoch (from 0): near on the ground, later like the model's mistakes."""
        training, hard, index = self.recipe.training, self._hard, self.store.index
        number = epoch // hard.mine_every if training.sampler == "similarity" else 0
        if number > 0:
            return self._mined(number, epoch)
        if training.sampler == "similarity" and not index.has_positions:
            # Random batches until there is a first mining.
            return np.broadcast_to(np.int32(-1), (len(index), 1))
        return self.lists.geographic(index, hard.candidates, training.negative_distance_m)

    def _mined(self, number: int, epoch: int) -> Int32Array:
        """The lists of a mining; mined now, by all workers, at the first step that needs them."""
        found = self.lists.mined(number)
        if found is not None:
            return found
        first_step = number * self._hard.mine_every * (self.count // self.batch_size)
        if self.steps_done != first_step:
            raise ArtifactError(
                f"The run needs the similar pairs that were mined at step {first_step:,}, and its folder no longer has "
                "them; pass --overwrite to train from the start."
            )
        started = time.monotonic()
        miner = Miner(self.model, self.recipe, self.store, self.workers, self.rank, self.device)
        with TIMES.of("mining"):
            miner.mine(self.lists, self._hard.candidates, number)
        if self.rank == 0:
            seconds = time.monotonic() - started
            say(f"train: mined the pairs most like each of {self.count:,} in {seconds:.0f} s")
        found = self.lists.mined(number)
        assert found is not None
        return found

    def names(self, rows: IntArray) -> list[str]:
        """The first of the pairs at rows int64[n] by their names."""
        return pair_names(self.store.uri, self.store.index, rows.tolist()) if self.store.uri else []

    def _run(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        inputs = self.inputs(rows, generator)
        result: StepResult = self._step(inputs)
        return result

    def _backward_of(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        if (chunk := self.recipe.training.chunk) is None:
            return super()._backward_of(rows, generator)
        with TIMES.of("backward"):
            return backward_in_chunks(self._pair_step, self.inputs(rows, generator), chunk)

    def _averages_gradients(self) -> bool:
        return self.recipe.training.chunk is not None

    def inputs(self, rows: IntArray, generator: torch.Generator) -> PairInputs:
        """This worker's share of the pairs at rows int64[B], with what is drawn for it."""
        training, index, reach_m = self.recipe.training, self.store.index, self.store.reach_m
        make_draw = draw_pairs if self.recipe.loss.two_views is None else draw_twice
        draw = make_draw(
            torch.from_numpy(index.camera_east_m[rows]).float(),
            torch.from_numpy(index.camera_north_m[rows]).float(),
            training.augmentation,
            width_px=self.recipe.model.panorama_px[1],
            reach_m=reach_m,
            generator=generator,
        )
        draw = roll_apart(draw, training.augmentation, self.recipe.model.panorama_px[1], generator)
        drone = None
        if self.recipe.loss.aerial_weight > 0 and self.steps_done % self.recipe.loss.aerial_every == 0:
            drone = draw_drone(draw, training.augmentation, reach_m=reach_m, generator=generator)
        strength = training.augmentation.photometric
        views = len(draw.columns)
        lights = [draw_light(views, strength, generator) for _ in range(2 if drone is None else 3)]
        self._pair_step.pair_loss.epoch = self.epoch
        # Of a draw that sees each pair twice, the second half is the second views.
        copies = torch.arange(views).view(-1, len(rows))
        own, device = copies[:, self.share].reshape(-1), self.device
        seeds = draw_seeds(views, generator)  # the last draw: recipes that use none of them lose none
        with TIMES.of("data"):
            batch = self._batch(rows[self.share])
        return PairInputs(
            batch.repeated(views // len(rows)),
            len(batch.tile),
            taken(draw, own, device),
            taken(drone, own, device),
            [taken(light, own, device) for light in lights],
            seeds[own],
        )

    def _batch(self, rows: IntArray) -> PairBatch:
        index = self.store.index
        tile, clouds = np.asarray(index.tile[rows]), self.store.clouds

        def floats(values: FloatArray) -> torch.Tensor:
            return torch.from_numpy(values[rows]).float().to(self.device)

        return PairBatch(
            tiles=torch.from_numpy(self.store.tiles[tile]).to(self.device),
            panoramas=torch.from_numpy(self.store.photos[index.photo[rows]]).to(self.device),
            east_m=floats(index.east_m),
            north_m=floats(index.north_m),
            tile=torch.from_numpy(tile).to(self.device),
            clouds=None if clouds is None else torch.from_numpy(clouds[tile]).to(self.device),
        )
