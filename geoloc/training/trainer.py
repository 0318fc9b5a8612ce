"""Training steps over a store of pairs, in one process or as one of several workers; knows nothing of Ray."""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geoloc.core.arrays import IntArray
from geoloc.core.errors import GeolocError
from geoloc.models.backbones.network import start_from_weights
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import TrainingRecipe
from geoloc.training.all_gather import is_distributed
from geoloc.training.sampler import random_batches
from geoloc.training.step import StepResult

_SMALLEST_SPREAD = 1e-3  # of the embeddings in a batch; healthy ones have about 1


def learning_rate(progress: float, recipe: TrainingRecipe) -> float:
    """Learning rate at a share `progress` (0 to 1) of the run: cosine up during `warm_up`, cosine down to almost 0.

    A recipe of schedule `constant` keeps its rate, times the factors of the `drops` that it has reached.
    """
    peak, floor = recipe.learning_rate, recipe.learning_rate / 1000
    if recipe.schedule == "constant":
        return peak * math.prod(factor for share, factor in recipe.drops or () if progress >= share)
    if progress < recipe.warm_up:
        start = peak / 25
        return start + (peak - start) * (1 - math.cos(math.pi * progress / recipe.warm_up)) / 2
    rest = min(1.0, (progress - recipe.warm_up) / max(1e-9, 1 - recipe.warm_up))
    return floor + (peak - floor) * (1 + math.cos(math.pi * rest)) / 2


def _optimizer(step: nn.Module, model: GeoLocalizer, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer with the hash head in a group of its own; `rate` multiplies the common learning rate."""
    named = recipe.optimizer
    codes = list(model.hash_head.parameters())
    backbones = list(model.backbones.parameters()) if named is not None and named.backbone_rate else []
    known = {id(parameter) for parameter in (*codes, *backbones)}
    others = [parameter for parameter in step.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [
        {"params": others, "rate": 1.0},
        {"params": codes, "rate": recipe.hash_rate, "weight_decay": 0.0},
    ]
    if named is None:
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    if backbones:
        groups.append({"params": backbones, "rate": named.backbone_rate})
    if named.kind == "sgd":
        momentum = 0.9 if named.momentum is None else named.momentum
        return torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=recipe.weight_decay,
        )
    kind = torch.optim.Adam if named.kind == "adam" else torch.optim.AdamW
    return kind(
        groups,
        lr=recipe.learning_rate,
        betas=named.betas,
        eps=named.eps,
        weight_decay=recipe.weight_decay,
    )


class Trainer(ABC):
    """A model, its optimizer and one worker's share of the training data.

    Draws depend on (seed, step, worker) alone: a run that is resumed after a checkpoint sees the same
    data. Sums of floats over threads and workers may differ in the last bits, so runs agree closely, not exactly.
    """

    def __init__(
        self, recipe: Recipe, count: int, *, workers: int, rank: int, device: torch.device | None
    ) -> None:
        """`count` is the number of this worker's items (pairs or places), of which it takes a share of a batch."""
        self.recipe = recipe
        self.count = count
        self.device = device or torch.device("cpu")
        self.rank = rank
        self.batch_size = max(1, min(recipe.training.batch_size // workers, count))
        torch.manual_seed(recipe.seed)  # equal initial weights on all workers
        self.model = GeoLocalizer(recipe.model)
        start_from_weights(self.model)
        step = self._make_step().to(self.device).to(memory_format=torch.channels_last)
        self._step: nn.Module = step
        if is_distributed():
            ids = [self.device] if self.device.type == "cuda" else None
            self._step = DistributedDataParallel(
                step, device_ids=ids, find_unused_parameters=self._leaves_unused()
            )
        self._plain_step = step
        self._optimizer = _optimizer(step, self.model, recipe.training)
        self.steps_done = 0
        self._batches = self._batches_from(0)

    @abstractmethod
    def _make_step(self) -> nn.Module:
        """The module that computes a batch's loss."""

    @abstractmethod
    def _run(self, rows: IntArray, generator: torch.Generator) -> StepResult:
        """The loss of the items at rows int64[B]."""

    def _leaves_unused(self) -> bool:
        """Whether some parameters get no gradient, which DDP has to know: the hash head without its loss."""
        return self.recipe.loss.hashing_weight == 0

    def _seed(self) -> int:
        return self.recipe.seed * 1009 + self.rank

    def _batches_from(self, start: int) -> Iterator[IntArray]:
        return random_batches(self.count, self.batch_size, self._seed(), start=start)

    @property
    def epoch(self) -> int:
        """Number of the current pass over the items, from 1."""
        return 1 + self.steps_done // max(1, self.count // self.batch_size)

    def step(self, progress: float) -> StepResult:
        """One optimizer step at this share of the run; raises `GeolocError` when training has broken down."""
        generator = torch.Generator().manual_seed(
            (self.recipe.seed * 1_000_003 + self.steps_done) * 64 + self.rank
        )
        rows = next(self._batches)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(progress, self.recipe.training) * group["rate"]
        self._step.train()
        result = self._run(rows, generator)
        self._check(result)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(result.loss)
        if (largest := self.recipe.training.largest_gradient) is not None:
            nn.utils.clip_grad_norm_(self._plain_step.parameters(), largest)
        self._optimizer.step()
        self.steps_done += 1
        return result

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
            "step": self._plain_step.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps_done": self.steps_done,
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        """Go on from `state()` bytes."""
        state = torch.load(io.BytesIO(data), weights_only=True, map_location=self.device)
        self._plain_step.load_state_dict(state["step"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.steps_done = int(state["steps_done"])
        self._batches = self._batches_from(self.steps_done)
