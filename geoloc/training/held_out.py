"""Recall on a held-out part while a run goes on: the best weights so far, and when it is time to stop."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from geoloc.core.progress import say
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import is_distributed
from geoloc.training.validation import HeldOut
from geoloc.training.weight_average import State, other_weights


@dataclass
class BestWeights:
    """The weights with the best recall at 1 on held-out pairs, so far; of equal ones the first.

    `every` steps they are measured; after `patience` measurements without a better one the run stops (None: never).
    `state` is kept by worker 0 alone, which measures; all workers know the rest.
    """

    uri: str
    recipe: Recipe
    every: int
    patience: int | None
    device: torch.device
    rank: int
    recall_1: float = -1.0
    step: int = 0
    worse: int = 0
    measured: int = 0
    state: State | None = None
    _held_out: HeldOut | None = None

    @property
    def over(self) -> bool:
        """Whether the run has learned nothing for long enough."""
        return self.patience is not None and self.worse >= self.patience

    def is_due(self, step: int, *, last: bool) -> bool:
        """Whether recall is to be measured after a step."""
        return step > self.measured and (last or step % self.every == 0)

    def measure(
        self, step: int, module: nn.Module, model: GeoLocalizer, weights: State | None
    ) -> dict[str, float]:
        """Measure the module's `weights` (None: its present ones), on worker 0 while others wait; returns recalls."""
        recalls: dict[str, float] = {}
        if self.rank == 0:
            with other_weights(module, weights):
                recalls = self._recalls(model)
                if recalls["validation_recall_1"] > self.recall_1:
                    self.state = {
                        name: value.detach().cpu().clone() for name, value in module.state_dict().items()
                    }
            say(
                f"train: step {step:,}, recall at 1 of {recalls['validation_pairs']:,.0f} held-out photos "
                f"{recalls['validation_recall_1']:.1f} %"
            )
        self._count(step, self._agreed(recalls.get("validation_recall_1", 0.0)))
        return recalls

    def _recalls(self, model: GeoLocalizer) -> dict[str, float]:
        if self._held_out is None:
            self._held_out = HeldOut(self.uri, self.recipe)
        return self._held_out.recalls(Encoder(model, self.recipe, "in training", device=str(self.device)))

    def _agreed(self, recall_1: float) -> float:
        """The recall that worker 0 measured, on all workers."""
        if not is_distributed():
            return recall_1
        shared = torch.tensor([recall_1], dtype=torch.float64).to(self.device)
        dist.broadcast(shared, src=0)
        return float(shared.cpu())

    def _count(self, step: int, recall_1: float) -> None:
        self.measured = step
        if recall_1 > self.recall_1:
            self.recall_1, self.step, self.worse = recall_1, step, 0
        else:
            self.worse += 1

    def note(self) -> dict[str, Any]:
        """What a checkpoint keeps of it as numbers; `saved` gives the weights."""
        return {"recall_1": self.recall_1, "step": self.step, "worse": self.worse, "measured": self.measured}

    def saved(self) -> bytes:
        """The best weights as bytes; empty ones before the first measurement."""
        buffer = io.BytesIO()
        torch.save(self.state or {}, buffer)
        return buffer.getvalue()

    def restore(self, note: dict[str, Any], saved: bytes) -> None:
        """Go on from a checkpoint."""
        self.recall_1, self.step = float(note["recall_1"]), int(note["step"])
        self.worse, self.measured = int(note["worse"]), int(note["measured"])
        if self.rank == 0:
            self.state = torch.load(io.BytesIO(saved), weights_only=True, map_location="cpu") or None
