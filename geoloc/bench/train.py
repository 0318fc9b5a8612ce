"""`geoloc bench train`: the trainer's steps beside a plain PyTorch loop, per worker, against bars.

As many plain loops run side by side as the trainer has workers, each on a worker's share of the batch, so that both
have the same cores. A plain loop has its inputs ready in memory: it embeds them, computes the loss of its own share,
goes back and updates. What the trainer does beside that (batches, pictures, draws, messages between workers, norms and
losses over the whole batch, checks) is its cost. Pictures are noise. No Ray: its workers run the same steps.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field

from geoloc.bench.measure import Bar, Spread, ratios
from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.core.progress import say
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.recipe.recipe import Recipe
from geoloc.training.optimizer import make_optimizer
from geoloc.training.pair_index import PairIndex
from geoloc.training.pair_store import PairStore
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.step import PairStep
from geoloc.training.step_times import TIMES

_RATIO_LIMIT, _DATA_LIMIT = 0.9, 0.1
_BATCHES = 4  # of pictures
_TURN_LIMIT_S = 900.0
_PAUSE_S = 0.1
_MARGIN = 1.25  # side of a kept tile, in fields


class TrainBench(BaseModel):
    """What is measured; the defaults take some minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("geoloc", description="Recipe that is trained.")
    batch_size: int | None = Field(
        None, ge=2, description="Pairs in a step, over all workers; default: the recipe's."
    )
    workers: int = Field(2, ge=1, description="Workers of one thread each.")
    steps: int = Field(4, ge=1, description="Steps of a round.")
    rounds: int = Field(5, ge=1, description="How often each measurement is repeated.")
    scratch: str | None = Field(None, description="Directory for temporary files.")


class TrainReport(BaseModel):
    """Seconds of a step in each round, where the trainer's time goes, and the bars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: dict[str, str | int]
    pairs: int = Field(description="Of a step of one worker.")
    workers: int
    trainer_s: list[float]
    plain_s: list[float]
    shares: dict[str, float] = Field(description="Parts of the trainer's time on worker 0.")
    bars: list[Bar]

    def text(self) -> str:
        """Pairs a second and worker, shares, the bars last."""
        lines = ["machine: " + ", ".join(f"{name} {value}" for name, value in self.machine.items()), ""]
        for name, seconds in (("trainer", self.trainer_s), ("plain loop", self.plain_s)):
            rate = self.pairs / Spread.of(seconds).median
            lines.append(f"  {name:<12} {rate:>7.1f} pairs/s of each of {self.workers} workers")
        parts = ", ".join(f"{part} {share:.1%}" for part, share in self.shares.items())
        lines += [f"  of the trainer's time: {parts}", "", "bars: median (min to max over the rounds)"]
        return "\n".join([*lines, *(f"  {bar.line()}" for bar in self.bars)])


def run(config: TrainBench, output: str | None = None) -> TrainReport:
    """Measure training on this machine's CPU.

    With `output` the report is written there as JSON. Raises `ConfigError` for a recipe of places or of clouds, and for
    a batch that the workers cannot share.
    """
    recipe = Recipe.load(config.recipe).with_overrides(batch_size=config.batch_size)
    if recipe.loss.places is not None or recipe.model.cloud is not None:
        raise ConfigError(f"The bench trains on pictures of pairs; {config.recipe!r} needs other data.")
    if recipe.training.batch_size % config.workers:
        raise ConfigError(
            f"A batch of {recipe.training.batch_size} pairs cannot be shared by {config.workers} workers."
        )
    say(f"bench: {config.workers} workers, {config.rounds} rounds of {config.steps} steps")
    with tempfile.TemporaryDirectory(prefix="geoloc-bench-", dir=config.scratch) as scratch:
        _write_pictures(recipe, Path(scratch))
        found = _measure(config, recipe, Path(scratch))
    report = _report(config, recipe, found)
    if output:
        storage.write_bytes(storage.absolute(output), (report.model_dump_json(indent=1) + "\n").encode())
    return report


def _report(config: TrainBench, recipe: Recipe, found: dict[str, Any]) -> TrainReport:
    trainer_s, plain_s, shares = found["trainer"], found["plain"], found["shares"]
    ratio = Bar(
        what="a step of the trainer: a plain loop's time / its time",
        value=ratios(plain_s, trainer_s),
        quickest=min(plain_s) / min(trainer_s),
        limit=_RATIO_LIMIT,
        at_most=False,
    )
    waiting = [each["data"] for each in shares]
    data = Bar(
        what="share of a step that waits for data",
        value=Spread.of(waiting),
        limit=_DATA_LIMIT,
        at_most=True,
        unit="",
    )
    return TrainReport(
        machine={
            "cpus": len(os.sched_getaffinity(0)),
            "torch": torch.__version__,
            "vectors": str(torch.backends.cpu.get_cpu_capability()),
        },
        pairs=recipe.training.batch_size // config.workers,
        workers=config.workers,
        trainer_s=trainer_s,
        plain_s=plain_s,
        shares={part: float(np.median([each[part] for each in shares])) for part in shares[0]},
        bars=[ratio, data],
    )


def _measure(config: TrainBench, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Seconds of a step in each round of both, and the trainer's shares; each the slowest worker's."""
    context = multiprocessing.get_context("spawn")
    turns = context.Barrier(2 * config.workers)
    plan = (config.workers, config.steps, config.rounds, recipe.to_yaml(), str(folder))
    processes = [
        context.Process(target=_work, args=(number, turns, *plan), daemon=True)
        for number in range(2 * config.workers)
    ]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            time.sleep(_PAUSE_S)
            if failed := [process.exitcode for process in processes if process.exitcode]:
                raise RuntimeError(f"A process of the bench ended with status {failed[0]}; see above.")
    finally:
        for process in processes:
            process.kill()
            process.join()
    workers = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2 * config.workers)]
    seconds = np.array([each["seconds"] for each in workers]).reshape(2, config.workers, config.rounds)
    trainer, plain = seconds.max(axis=1)
    return {"trainer": trainer.tolist(), "plain": plain.tolist(), "shares": workers[0]["shares"]}


def _work(
    process: int, turns: Any, workers: int, steps: int, rounds: int, recipe_text: str, folder: str
) -> None:
    """One process: the first half are the trainer's workers, the others plain loops; they take turns."""
    torch.set_num_threads(1)
    recipe = Recipe.from_yaml(recipe_text)
    plain, rank = divmod(process, workers)
    store = _open_pictures(recipe, Path(folder))
    make = _plain_steps if plain else _trainer_steps
    take_steps = make(store, recipe, workers, rank, folder)
    seconds, shares = [], []
    take_steps(1)
    for _ in range(rounds):
        for turn in (0, 1):
            turns.wait(_TURN_LIMIT_S)
            if turn != plain:
                continue
            TIMES.shares()
            began = time.perf_counter()
            take_steps(steps)
            seconds.append((time.perf_counter() - began) / steps)
            shares.append(TIMES.shares())
    (Path(folder) / f"{process}.json").write_text(json.dumps({"seconds": seconds, "shares": shares}))
    turns.wait(_TURN_LIMIT_S)
    if dist.is_initialized():
        dist.destroy_process_group()


def _trainer_steps(
    store: PairStore, recipe: Recipe, workers: int, rank: int, folder: str
) -> Callable[[int], None]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=workers)
    trainer = PairTrainer(store, recipe, workers=workers, rank=rank)

    def take_steps(count: int) -> None:
        for _ in range(count):
            trainer.step(0.5)

    return take_steps


def _plain_steps(
    store: PairStore, recipe: Recipe, workers: int, rank: int, folder: str
) -> Callable[[int], None]:
    """A loop over inputs that are ready, on a worker's share, in one process that knows of no other."""
    own = recipe.with_overrides(batch_size=recipe.training.batch_size // workers)
    torch.manual_seed(recipe.seed)
    trainer = PairTrainer(store, own)
    module = PairStep(GeoLocalizer(recipe.model), recipe).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(module, module.model, recipe.training)
    every = recipe.loss.aerial_every if recipe.loss.aerial_weight > 0 else 1
    ready = []
    for number in range(every):
        trainer.steps_done = number
        rows = (number * trainer.batch_size + np.arange(trainer.batch_size)) % len(store)
        ready.append(trainer.inputs(rows, torch.Generator().manual_seed(number)))
    done = 0

    def take_steps(count: int) -> None:
        nonlocal done
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            module(ready[done % every]).loss.backward()
            optimizer.step()
            done += 1

    return take_steps


def _shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    count, model = _BATCHES * recipe.training.batch_size, recipe.model
    side = round(_MARGIN * model.tile_px)
    return {"tiles": (count, side, side, 3), "photos": (count, *model.panorama_px, 3)}


def _write_pictures(recipe: Recipe, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in _shapes(recipe).items():
        pictures = np.memmap(folder / f"{name}.u8", dtype=np.uint8, mode="w+", shape=shape)
        for number in range(len(pictures)):
            pictures[number] = rng.integers(0, 256, shape[1:], dtype=np.uint8)
        pictures.flush()


def _open_pictures(recipe: Recipe, folder: Path) -> PairStore:
    """Pairs 50 m apart with pictures in files, as the cache of a node has them."""
    arrays = {
        name: np.memmap(folder / f"{name}.u8", dtype=np.uint8, mode="r", shape=shape)
        for name, shape in _shapes(recipe).items()
    }
    rows = np.arange(_BATCHES * recipe.training.batch_size)
    zero, side = np.zeros(len(rows)), round(len(rows) ** 0.5)
    index = PairIndex(rows, rows, zero, zero, 50.0 * (rows % side), 50.0 * (rows // side), rows, rows)
    return PairStore(arrays["tiles"], arrays["photos"], index, (_MARGIN - 1) / 2 * recipe.model.tile_m)
