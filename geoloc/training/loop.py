"""The training loop of one Ray Train worker: load its share of the pairs, step, report, checkpoint."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist

from geoloc.core.progress import say
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import is_distributed
from geoloc.training.pair_store import PairIndex, load_pairs, read_index, usable_pairs
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.place_store import PlaceIndex, load_places, read_places
from geoloc.training.place_trainer import PlaceTrainer
from geoloc.training.sampler import split_pairs
from geoloc.training.step import has_bfloat16
from geoloc.training.trainer import Trainer

STATE_NAME = "state.pt"
LOG_NAME = "metrics.jsonl"
_LINE_EVERY_S = 10.0


def run_worker(config: Mapping[str, Any]) -> None:
    """Train as one of the workers of a Ray Train run; `config` is made by the stage.

    All workers end at the same step and report equally often. Rank 0 writes the finished model to
    `config["output"]`, the card last.
    """
    logging.disable(logging.INFO)  # Ray Train logs every report of every worker; our lines do not use logging
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    recipe = Recipe.from_yaml(config["recipe"], where="the recipe of this run")
    device = torch.device("cpu")
    if config["use_gpu"]:
        from ray.train.torch import get_device

        device = get_device()
    else:
        torch.set_num_threads(config["threads_per_worker"])
    trainer = _make_trainer(config, recipe, workers, rank, device)
    _Loop(trainer, recipe, config, rank, workers).run()


def _make_trainer(
    config: Mapping[str, Any], recipe: Recipe, workers: int, rank: int, device: torch.device
) -> Trainer:
    started = time.monotonic()
    by_place = recipe.loss.places is not None
    index: PairIndex | PlaceIndex
    if by_place:
        index = read_places(config["train"], recipe)
    else:
        index = usable_pairs(config["train"], read_index(config["train"]), recipe)
    rows = split_pairs(len(index), workers, rank, recipe.seed)
    trainer: Trainer
    if isinstance(index, PlaceIndex):
        places = load_places(config["train"], index.take(rows), recipe)
        trainer = PlaceTrainer(places, recipe, places=len(index), workers=workers, rank=rank, device=device)
    else:
        store = load_pairs(config["train"], index.take(rows), recipe)
        trainer = PairTrainer(store, recipe, workers=workers, rank=rank, device=device)
    if rank == 0:
        say(
            f"train: {len(index):,} {'places' if by_place else 'pairs'}, {trainer.count:,} in this worker of "
            f"{workers}, decoded in {time.monotonic() - started:.0f} s"
        )
        if isinstance(index, PlaceIndex) and index.left_out:
            say(f"train: {index.left_out:,} places lack a tile or photos of a wanted view and are left out")
        if recipe.training.bfloat16 and not has_bfloat16(device):
            say("train: this CPU has no bfloat16 instructions, convolutions are computed in float32")
    return trainer


@dataclass
class _Loop:
    """Steps, time limit, log and checkpoints of one worker."""

    trainer: Trainer
    recipe: Recipe
    config: Mapping[str, Any]
    rank: int
    workers: int
    log: list[dict[str, float]] = field(default_factory=list)
    spent_s: float = 0.0
    cpu_s: float = 0.0  # of this process, all of its threads

    def run(self) -> None:
        """Go on from the newest checkpoint, train to the end, write the model."""
        self._restore()
        before_s, before_cpu_s = self.spent_s, self.cpu_s - time.process_time()
        started = last_line = time.monotonic()
        first = self.trainer.steps_done
        while (progress := self._progress()) < 1.0:
            result = self.trainer.step(progress)
            now = time.monotonic()
            self.spent_s = before_s + now - started
            self.cpu_s = before_cpu_s + time.process_time()
            done = self.trainer.steps_done
            if now - last_line >= _LINE_EVERY_S or self._progress_alone() >= 1.0:
                last_line = now
                rate = (done - first) * self.trainer.batch_size * self.workers / (now - started)
                self._note(done, float(result.loss.detach()), float(result.accuracy), rate)
            if done % self.config["checkpoint_every"] == 0:
                self._report()
        self._finish()

    def _progress(self) -> float:
        """Share of the run that is over, the same on all workers: by steps, or by time where that is tighter."""
        share = self._progress_alone()
        if self.config["max_minutes"] is not None and is_distributed():
            clock = torch.tensor([share], dtype=torch.float64)
            device = self.trainer.device
            clock = clock.to(device)
            dist.broadcast(clock, src=0)
            share = float(clock.cpu())
        return share

    def _progress_alone(self) -> float:
        share = self.trainer.steps_done / self.recipe.training.steps
        if self.config["max_minutes"] is not None:
            share = max(share, self.spent_s / (60 * self.config["max_minutes"]))
        return min(1.0, share)

    def _note(self, step: int, loss: float, accuracy: float, rate: float) -> None:
        if self.rank != 0:
            return
        self.log.append(
            {
                "step": step,
                "loss": round(loss, 5),
                "batch_accuracy": round(accuracy, 4),
                "pairs_per_s": round(rate, 1),
                "seconds": round(self.spent_s, 1),
                "cpu_seconds": round(self.cpu_s, 1),
            }
        )
        say(
            f"train: step {step:,} of {self.recipe.training.steps:,}, loss {loss:.3f}, first in batch {accuracy:.0%}, "
            f"{rate:,.0f} pairs/s, {self.spent_s:,.0f} s"
        )

    def _restore(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            self.trainer.restore((Path(folder) / STATE_NAME).read_bytes())
            lines = (Path(folder) / LOG_NAME).read_text(encoding="utf-8").splitlines()
        self.log = [json.loads(line) for line in lines if line]
        spent = self.log.pop()
        self.spent_s, self.cpu_s = float(spent["spent_s"]), float(spent.get("cpu_s", 0.0))
        if self.rank == 0:
            say(f"train: goes on from the checkpoint of step {self.trainer.steps_done:,}")

    def _report(self) -> None:
        """Checkpoint by rank 0, and a report by everyone: Ray Train waits for all workers."""
        metrics = {"step": self.trainer.steps_done}
        if self.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="geoloc-checkpoint-") as folder:
            (Path(folder) / STATE_NAME).write_bytes(self.trainer.state())
            rows = [*self.log, {"spent_s": self.spent_s, "cpu_s": self.cpu_s}]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (Path(folder) / LOG_NAME).write_text(text, encoding="utf-8")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _finish(self) -> None:
        if self.rank == 0:
            save_model(
                self.trainer.model,
                self.recipe,
                self.config["output"],
                metrics=self.log,
                fingerprint=self.config["fingerprint"],
            )
        last = self.log[-1] if self.log else {}
        ray.train.report({"step": self.trainer.steps_done, **last})
