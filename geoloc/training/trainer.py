"""Training steps over a store of pairs, in one process or as one of several workers; knows nothing of Ray."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import GeolocError
from geoloc.models.backbones.network import start_from_weights
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.orientation_maps import Pose
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import TrainingRecipe
from geoloc.training.all_gather import is_distributed
from geoloc.training.augment import PairDraw, draw_drone, draw_pairs
from geoloc.training.pair_store import PairStore
from geoloc.training.sampler import neighbour_batches, random_batches
from geoloc.training.step import PairBatch, PairStep, StepResult

_Draw = TypeVar("_Draw", PairDraw, Pose | None)
_SMALLEST_SPREAD = 1e-3  # of the embeddings in a batch; healthy ones have about 1


def learning_rate(progress: float, recipe: TrainingRecipe) -> float:
    """Learning rate at a share `progress` (0 to 1) of the run: cosine up during `warm_up`, cosine down to almost 0.

    A recipe of schedule `constant` keeps its rate.
    """
    peak, floor = recipe.learning_rate, recipe.learning_rate / 1000
    if recipe.schedule == "constant":
        return peak
    if progress < recipe.warm_up:
        start = peak / 25
        return start + (peak - start) * (1 - math.cos(math.pi * progress / recipe.warm_up)) / 2
    rest = min(1.0, (progress - recipe.warm_up) / max(1e-9, 1 - recipe.warm_up))
    return floor + (peak - floor) * (1 + math.cos(math.pi * rest)) / 2


def _optimizer(step: PairStep, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer with the hash head in a group of its own; `rate` multiplies the common learning rate."""
    codes = list(step.model.hash.parameters())
    known = {id(parameter) for parameter in codes}
    others = [parameter for parameter in step.parameters() if id(parameter) not in known]
    groups = [
        {"params": others, "rate": 1.0},
        {"params": codes, "rate": recipe.hash_rate, "weight_decay": 0.0},
    ]
    named = recipe.optimizer
    if named is None:
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    kind = torch.optim.Adam if named.kind == "adam" else torch.optim.AdamW
    return kind(
        groups,
        lr=recipe.learning_rate,
        betas=named.betas,
        eps=named.eps,
        weight_decay=recipe.weight_decay,
    )


class Trainer:
    """A model, its optimizer and one worker's pairs.

    Draws depend on (seed, step, worker) alone: a run that is resumed after a checkpoint sees the same
    pairs. Sums of floats over threads and workers may differ in the last bits, so runs agree closely, not exactly.
    """

    def __init__(
        self,
        store: PairStore,
        recipe: Recipe,
        *,
        workers: int = 1,
        rank: int = 0,
        device: torch.device | None = None,
    ) -> None:
        self.recipe = recipe
        self.store = store
        self.device = device or torch.device("cpu")
        self.rank = rank
        self.batch_size = max(1, min(recipe.training.batch_size // workers, len(store)))
        torch.manual_seed(recipe.seed)  # equal initial weights on all workers
        self.model = GeoLocalizer(recipe.model)
        start_from_weights(self.model)
        step = PairStep(self.model, recipe).to(self.device).to(memory_format=torch.channels_last)
        self._step: nn.Module = step
        if is_distributed():
            ids = [self.device] if self.device.type == "cuda" else None
            # Without its loss the hash head gets no gradient, which DDP has to know.
            unused = recipe.loss.hashing_weight == 0
            self._step = DistributedDataParallel(step, device_ids=ids, find_unused_parameters=unused)
        self._pair_step = step
        self._optimizer = _optimizer(step, recipe.training)
        self.steps_done = 0
        self._batches = self._batches_from(0)

    def _batches_from(self, start: int) -> Iterator[IntArray]:
        seed = self.recipe.seed * 1009 + self.rank
        if self.recipe.training.sampler == "neighbours":
            index = self.store.index
            return neighbour_batches(index.east_m, index.north_m, self.batch_size, seed, start=start)
        return random_batches(len(self.store), self.batch_size, seed, start=start)

    @property
    def epoch(self) -> int:
        """Number of the current pass over the pairs, from 1."""
        return 1 + self.steps_done // max(1, len(self.store) // self.batch_size)

    def step(self, progress: float) -> StepResult:
        """One optimizer step at this share of the run; raises `GeolocError` when training has broken down."""
        training = self.recipe.training
        generator = torch.Generator().manual_seed(
            (self.recipe.seed * 1_000_003 + self.steps_done) * 64 + self.rank
        )
        rows = next(self._batches)
        batch = self._batch(rows)
        index = self.store.index
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
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(progress, training) * group["rate"]
        self._pair_step.pair_loss.epoch = self.epoch
        self._step.train()
        result: StepResult = self._step(batch, self._on_device(draw), self._on_device(drone), generator)
        self._check(result)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(result.loss)
        self._optimizer.step()
        self.steps_done += 1
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

    def _check(self, result: StepResult) -> None:
        loss, spread = float(result.loss.detach()), float(result.spread)
        if not math.isfinite(loss):
            raise GeolocError(
                f"The loss became {loss} at step {self.steps_done}; lower training.learning_rate "
                f"(now {self.recipe.training.learning_rate:g}) or look for broken pictures."
            )
        if spread < _SMALLEST_SPREAD:
            raise GeolocError(
                f"All embeddings became equal at step {self.steps_done} (spread {spread:.1e}); lower "
                "training.learning_rate or check that the pictures differ."
            )

    def state(self) -> bytes:
        """Everything a resumed run needs, as bytes: weights, optimizer, step."""
        buffer = io.BytesIO()
        state: dict[str, Any] = {
            "step": self._pair_step.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        """Go on from `state()` bytes."""
        state = torch.load(io.BytesIO(data), weights_only=True, map_location=self.device)
        self._pair_step.load_state_dict(state["step"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done = int(state["steps_done"])
        self._batches = self._batches_from(self.steps_done)
