"""The training loop of one Ray Train worker: open the data, step, report, checkpoint."""

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

from geoloc.core import storage
from geoloc.core.errors import TrainingDiverged
from geoloc.core.progress import say
from geoloc.index.format.local_cache import cache_directory
from geoloc.models.store import load_model, load_weights, save_model, weights_of
from geoloc.recipe.recipe import Recipe
from geoloc.training.all_gather import is_distributed
from geoloc.training.compiled import compile_backbones
from geoloc.training.data import data_identity, open_data
from geoloc.training.held_out import BestWeights
from geoloc.training.neighbours import NeighbourLists
from geoloc.training.node_cache import NodeCache
from geoloc.training.node_fill import fill_on_this_node
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.place_store import PlaceStore
from geoloc.training.place_trainer import PlaceTrainer
from geoloc.training.run_log import RunLog, log_every, time_left
from geoloc.training.step import StepResult, has_bfloat16
from geoloc.training.step_times import TIMES
from geoloc.training.trainer import Trainer
from geoloc.training.unfinished_run import SpentTime, UnfinishedRun
from geoloc.training.weight_average import other_weights

STATE_NAME = "state.pt"
LOG_NAME = "metrics.jsonl"
MINED = "mined"
BEST_NAME = "best.pt"
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
    if config["compile"]:
        compile_backbones(trainer.model)
    log = RunLog(config["tensorboard"] if rank == 0 else None)
    loop = _Loop(trainer, recipe, config, rank, workers, log, _best_weights(config, recipe, rank, device))
    try:
        loop.run()
    except TrainingDiverged as error:
        loop.give_up(error)


def _make_trainer(
    config: Mapping[str, Any], recipe: Recipe, workers: int, rank: int, device: torch.device
) -> Trainer:
    started = time.monotonic()
    local = ray.train.get_context().get_local_world_size()
    cache = NodeCache(
        cache_directory(),
        data_identity(config["train"], recipe),
        run=config["run"],
        limit_bytes=config["cache_bytes"],
        fill=fill_on_this_node(max(1, local * config["threads_per_worker"])),
    )
    store = open_data(config["train"], recipe, cache)
    trainer: Trainer
    if isinstance(store, PlaceStore):
        trainer = PlaceTrainer(store, recipe, workers=workers, rank=rank, device=device)
    else:
        lists = NeighbourLists(storage.join(config["checkpoints"], MINED), cache)
        trainer = PairTrainer(store, recipe, workers=workers, rank=rank, device=device, lists=lists)
    if (start := config.get("start")) is not None:
        load_weights(trainer.model, weights_of(load_model(start)[0]), where=start)
    if rank == 0:
        what = "places" if isinstance(store, PlaceStore) else "pairs"
        say(
            f"train: {len(store):,} {what}, {workers} workers, data ready in {time.monotonic() - started:.0f} s"
        )
        if isinstance(store, PlaceStore) and store.index.left_out:
            say(
                f"train: {store.index.left_out:,} places lack a tile or photos of a wanted view and are left out"
            )
        if recipe.training.bfloat16 and not has_bfloat16(device):
            say("train: this CPU has no bfloat16 instructions, convolutions are computed in float32")
    return trainer


def _best_weights(
    config: Mapping[str, Any], recipe: Recipe, rank: int, device: torch.device
) -> BestWeights | None:
    if config["evaluate_every"] is None:
        return None
    return BestWeights(
        config["validation"], recipe, config["evaluate_every"], config["patience"], device, rank
    )


@dataclass
class _Loop:
    """Steps, time limit, log and checkpoints of one worker.

    `spent_s` is the time of the steps that count, by which the schedule goes; `lost` the time of steps that were done
    again after a failure, which the log counts too.
    """

    trainer: Trainer
    recipe: Recipe
    config: Mapping[str, Any]
    rank: int
    workers: int
    log: RunLog = field(default_factory=RunLog)
    best: BestWeights | None = None
    spent_s: float = 0.0
    cpu_s: float = 0.0  # of this process, all of its threads
    lost: SpentTime = field(default_factory=SpentTime)

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
            over = self._measure(done) or self._progress_alone() >= 1.0
            rate = (done - first) * self.trainer.batch_size / (now - started)
            if done % log_every(self.recipe.training.steps) == 0 or over:
                self._note(done, result, rate)
            if now - last_line >= _LINE_EVERY_S or over:
                last_line = now
                self._say(done, result, rate)
            if done % self.config["checkpoint_every"] == 0:
                self._report()
        self._measure(
            self.trainer.steps_done, last=True
        )  # workers agree that the run is over, not on the clock
        self._finish()

    @property
    def _record(self) -> UnfinishedRun:
        return UnfinishedRun(self.config["checkpoints"])

    def _progress(self) -> float:
        """Share of the run that is over, the same on all workers: by steps, or by time where that is tighter."""
        if self.best is not None and self.best.over:
            return 1.0
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

    def _note(self, step: int, result: StepResult, rate: float) -> None:
        """A line of the log."""
        if self.rank != 0:
            return
        self.log.add(
            {
                "step": step,
                "loss": round(float(result.loss.detach()), 5),
                "batch_accuracy": round(float(result.accuracy), 4),
                "pairs_per_s": round(rate, 1),
                "seconds": round(self.spent_s + self.lost.wall_s, 1),
                "cpu_seconds": round(self.cpu_s + self.lost.cpu_s, 1),
                **{f"{part}_share": round(share, 4) for part, share in TIMES.shares().items()},
            }
        )

    def _measure(self, step: int, *, last: bool = False) -> bool:
        """Measure recall on the held-out pairs, where it is time for it; returns whether the run stops for it."""
        if self.best is None or not self.best.is_due(step, last=last):
            return False
        trainer = self.trainer
        recalls = self.best.measure(step, trainer.module, trainer.model, trainer.weights)
        if self.rank == 0:
            self.log.add({"step": step, **recalls})
            if self.best.over:
                say(
                    f"train: stops at step {step:,}: recall was best at step {self.best.step:,}, "
                    f"{self.best.recall_1:.1f} %"
                )
        return self.best.over

    def _say(self, step: int, result: StepResult, rate: float) -> None:
        """A line for people, and the time spent so far, for a run that goes on after this one."""
        if self.rank != 0:
            return
        self._note_spent(step)
        share = self._progress_alone()
        left = time_left(self.spent_s * (1 - share) / share)
        say(
            f"train: step {step:,} of {self.recipe.training.steps:,}, loss {float(result.loss.detach()):.3f}, first in "
            f"batch {float(result.accuracy):.0%}, {rate:,.0f} pairs/s, {self.spent_s:,.0f} s, {left}"
        )

    def _note_spent(self, step: int) -> None:
        self._record.note_spent(step, self.spent_s + self.lost.wall_s, self.cpu_s + self.lost.cpu_s)

    def _restore(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                self.trainer.restore((Path(folder) / STATE_NAME).read_bytes())
                lines = (Path(folder) / LOG_NAME).read_text(encoding="utf-8").splitlines()
                if self.best is not None:
                    saved = (Path(folder) / BEST_NAME).read_bytes()
            *rows, spent = [json.loads(line) for line in lines if line]
            self.log.lines = rows
            self.spent_s, self.cpu_s = float(spent["spent_s"]), float(spent["cpu_s"])
            if self.best is not None:
                self.best.restore(spent["best"], saved)
        before = self._record.spent()
        self.lost = SpentTime(
            step=max(0, before.step - self.trainer.steps_done),
            wall_s=max(0.0, before.wall_s - self.spent_s),
            cpu_s=max(0.0, before.cpu_s - self.cpu_s),
        )
        if self.rank == 0 and (checkpoint is not None or before.step):
            say(
                f"train: goes on from step {self.trainer.steps_done:,}; it was at step {before.step:,} "
                f"{time.time() - before.at_s:,.0f} s ago, and steps of {self.lost.wall_s:,.0f} s are lost so far"
            )

    def _report(self) -> None:
        """Checkpoint by rank 0, and a report by everyone: Ray Train waits for all workers."""
        metrics = {"step": self.trainer.steps_done}
        if self.rank != 0:
            ray.train.report(metrics)
            return
        self._note_spent(self.trainer.steps_done)
        with tempfile.TemporaryDirectory(prefix="geoloc-checkpoint-") as folder:
            (Path(folder) / STATE_NAME).write_bytes(self.trainer.state())
            spent: dict[str, Any] = {"spent_s": self.spent_s, "cpu_s": self.cpu_s}
            if self.best is not None:
                spent["best"] = self.best.note()
                (Path(folder) / BEST_NAME).write_bytes(self.best.saved())
            rows = [*self.log.lines, spent]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (Path(folder) / LOG_NAME).write_text(text, encoding="utf-8")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def give_up(self, error: TrainingDiverged) -> None:
        """End without a model; all workers come to the same error at the same step."""
        if self.rank == 0:
            self._record.note_failure(error)
        ray.train.report({"step": self.trainer.steps_done})

    def _finish(self) -> None:
        if self.rank == 0:
            weights = self.trainer.weights
            if self.best is not None:
                weights = self.best.state
                self.log.add({"step": self.trainer.steps_done, "best_step": self.best.step})
            with other_weights(self.trainer.module, weights):
                save_model(
                    self.trainer.model,
                    self.recipe,
                    self.config["output"],
                    metrics=self.log.lines,
                    fingerprint=self.config["fingerprint"],
                )
        last = self.log.lines[-1] if self.log.lines else {}
        ray.train.report({"step": self.trainer.steps_done, **last})
