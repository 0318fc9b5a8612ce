"""Training steps over a store of pairs, in one process or as one of several workers; knows nothing of Ray."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geoloc.core.arrays import IntArray
from geoloc.core.errors import TrainingDiverged
from geoloc.models.backbones.network import start_from_weights
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import is_distributed
from geoloc.training.batch_norm import convert_batch_norms
from geoloc.training.optimizer import learning_rate, make_optimizer
from geoloc.training.sampler import random_batches, share_of
from geoloc.training.sharpness import SharpnessAware, frozen_statistics
from geoloc.training.step import StepResult
from geoloc.training.step_times import TIMES
from geoloc.training.weight_average import State, WeightAverage

_SMALLEST_SPREAD = 1e-3  # of the embeddings in a batch; healthy ones have about 1
_ROWS_NAMED = 8  # rows of a broken batch that its error names


class Trainer(ABC):
    """A model, its optimizer and the training data, of whose batches one worker computes its share.

    Batches and draws depend on (seed, step) alone: any number of workers, and a run that is resumed after a checkpoint,
    see the same data. Sums of floats over threads and workers may differ in the last bits.
    """

    def __init__(
        self, recipe: Recipe, count: int, *, workers: int, rank: int, device: torch.device | None
    ) -> None:
        """`count` is the number of items (pairs or places) of all workers."""
        self.recipe = recipe
        self.count = count
        self.device = device or torch.device("cpu")
        self.batch_size = max(1, min(recipe.training.batch_size, count) // workers) * workers
        self.workers, self.rank = workers, rank
        self.share = share_of(self.batch_size, workers, rank)
        torch.manual_seed(recipe.seed)  # equal initial weights on all workers
        self.model = GeoLocalizer(recipe.model)
        start_from_weights(self.model)
        if is_distributed() and recipe.training.batch_norm is None:
            convert_batch_norms(self.model, self.device, apart=self.model.hash_head)
        step = self._make_step().to(self.device).to(memory_format=torch.channels_last)
        self._step: nn.Module = step
        if is_distributed() and not self._averages_gradients():
            ids = [self.device] if self.device.type == "cuda" else None
            self._step = DistributedDataParallel(
                step, device_ids=ids, find_unused_parameters=self._leaves_unused()
            )
        self._plain_step = step
        self._optimizer = make_optimizer(step, self.model, recipe.training)
        self._average = None
        if recipe.training.weight_average is not None:
            self._average = WeightAverage(step, recipe.training.weight_average)
        self._sharpness = None
        if recipe.training.sharpness is not None:
            self._sharpness = SharpnessAware(recipe.training.sharpness, step.parameters())
        self.steps_done = 0
        self._batches = self._batches_from(0)

    @abstractmethod
    def _make_step(self) -> nn.Module:
        """The module that computes a batch's loss."""

    @abstractmethod
    def _run(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        """The loss of the items at rows int64[B]."""

    def _backward_of(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        """The loss of the items at rows int64[B], whose gradients are added to those of the parameters."""
        with TIMES.of("forward"):
            result = self._run(rows, generator)
        with TIMES.of("backward"):
            torch.autograd.backward(result.loss)
        return result

    def _averages_gradients(self) -> bool:
        """Whether `_backward_of` takes the mean of the gradients over all workers itself, in place of DDP."""
        return False

    def _leaves_unused(self) -> bool:
        """Whether some parameters get no gradient, which DDP has to know: the hash head without its loss."""
        return self.recipe.loss.hashing_weight == 0

    def _seed(self) -> int:
        return self.recipe.seed * 1009

    def _batches_from(self, start: int) -> Iterator[IntArray]:
        return random_batches(self.count, self.batch_size, self._seed(), start=start)

    @property
    def epoch(self) -> int:
        """Number of the current pass over the items, from 1."""
        return 1 + self.steps_done // max(1, self.count // self.batch_size)

    @abstractmethod
    def names(self, rows: IntArray) -> list[str]:
        """The first of the items at rows int64[n] by their names, for messages; empty where they have none."""

    def step(self, progress: float) -> StepResult:
        """One optimizer step at this share of the run; raises `TrainingDiverged` when it has broken down."""
        with TIMES.of("data"):
            rows = next(self._batches)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(progress, self.recipe.training) * group["rate"]
        self._step.train()
        result = self._backward(rows)
        self._check(result, rows)
        if self._sharpness is not None:
            self._sharpness.climb()
            with frozen_statistics(self._plain_step):
                self._backward(rows)
            self._sharpness.descend()
        with TIMES.of("optimizer"):
            self._limit_gradients(result, rows)
            self._optimizer.step()
            if self._average is not None:
                self._average.update()
        self.steps_done += 1
        return result

    def _backward(self, rows: IntArray) -> StepResult:
        """The loss of the items at rows int64[B] with its gradients; the same draws at every call of a step."""
        seed = (self.recipe.seed * 1_000_003 + self.steps_done) * 64
        torch.manual_seed(seed)  # what layers draw themselves (dropout)
        self._optimizer.zero_grad(set_to_none=True)
        return self._backward_of(rows, torch.Generator().manual_seed(seed))

    def _limit_gradients(self, result: StepResult, rows: IntArray) -> None:
        """Clip the gradients where the recipe says so; refuse those that are not finite, before they reach a weight."""
        parameters = [each for each in self._plain_step.parameters() if each.grad is not None]
        norm = nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if not math.isfinite(float(norm)):
            raise self._diverged(f"The gradient became {float(norm)}", result, rows)
        if (largest := self.recipe.training.largest_gradient) is not None:
            nn.utils.clip_grads_with_norm_(parameters, largest, norm)

    def _check(self, result: StepResult, rows: IntArray) -> None:
        loss, spread = float(result.loss.detach()), float(result.spread)
        if not math.isfinite(loss):
            raise self._diverged(f"The loss became {loss}", result, rows)
        if spread < _SMALLEST_SPREAD:
            raise TrainingDiverged(
                f"All embeddings became equal at step {self.steps_done} (spread {spread:.1e}); lower "
                "training.learning_rate or check that the pictures differ."
            )

    def _diverged(self, what: str, result: StepResult, rows: IntArray) -> TrainingDiverged:
        """The error of a step that is not finite, with the items that it comes from."""
        broken = np.flatnonzero(~result.finite.cpu().numpy())
        if 0 < len(broken) < len(rows):
            whose = f"of {len(broken)} of {len(rows)} items of the batch the embeddings are not finite"
            rows = rows[broken]
        else:
            whose = f"the batch has {len(rows)} items"
        named = "; ".join(self.names(rows))
        shown = f"rows {', '.join(str(row) for row in rows[:_ROWS_NAMED])}{', ...' if len(rows) > _ROWS_NAMED else ''}"
        return TrainingDiverged(
            f"{what} at step {self.steps_done}; {whose} ({shown}{f': {named}' if named else ''}). Lower "
            f"training.learning_rate (now {self.recipe.training.learning_rate:g}) or look at these pictures."
        )

    @property
    def module(self) -> nn.Module:
        """What is trained: the model with the parameters of its losses."""
        return self._plain_step

    @property
    def weights(self) -> State | None:
        """The weights of `module` that the run keeps, where they are not the present ones: their average."""
        return None if self._average is None else self._average.state

    def state(self) -> bytes:
        """Everything a resumed run needs, as bytes: weights, optimizer, step."""
        buffer = io.BytesIO()
        state: dict[str, Any] = {
            "step": self._plain_step.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
        }
        if self._average is not None:
            state["average"], state["average_steps"] = self._average.state, self._average.steps
        torch.save(state, buffer)
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        """Go on from `state()` bytes."""
        state = torch.load(io.BytesIO(data), weights_only=True, map_location=self.device)
        self._plain_step.load_state_dict(state["step"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done = int(state["steps_done"])
        if self._average is not None:
            self._average.restore(state["average"], int(state["average_steps"]))
        self._batches = self._batches_from(self.steps_done)
