"""The stage `train`: an ingest output in, a model directory out, by Ray Train with data-parallel workers."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.errors import ConfigError, GeolocError
from geoloc.core.fingerprint import begin_output, fingerprint_of, is_finished, read_plan
from geoloc.core.progress import say
from geoloc.models.store import CARD_NAME, METRICS_NAME, ModelCard, read_card
from geoloc.recipe.recipe import Recipe
from geoloc.runtime.ray_session import await_resources, ensure_ray
from geoloc.training.pair_store import check_pairs, read_index
from geoloc.training.place_store import check_places, read_places
from geoloc.training.validation import validation_recall

CHECKPOINTS = "checkpoints"
VALIDATION_NAME = "validation.json"


class TrainConfig(BaseModel):
    """Settings of training; values that are None come from the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str = Field("geoloc", description="Name of a built-in recipe, or URI of a YAML file.")
    num_workers: int = Field(2, ge=1, description="Data-parallel workers.")
    threads_per_worker: int = Field(1, ge=1, description="CPU threads of each worker.")
    use_gpu: bool = Field(False, description="Give each worker a GPU.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps; default: the recipe's.")
    batch_size: int | None = Field(
        None, ge=2, description="Pairs (or places) in a step, over all workers; default: the recipe's."
    )
    max_minutes: float | None = Field(
        None, gt=0, description="Minutes after which the schedule ends at the latest."
    )
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    max_failures: int = Field(3, ge=0, description="Worker failures from which training recovers.")


class TrainInputs(BaseModel):
    """URIs of ingest outputs: pairs to learn from, and optionally held-out pairs to measure recall on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str = Field(description="URI of an ingest output with the pairs to train on.")
    validation: str | None = Field(
        None, description="URI of an ingest output with held-out pairs, to measure recall on."
    )


class TrainResult(BaseModel):
    """The trained model and its last metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_uri: str
    model_id: str
    reused: bool
    metrics: dict[str, float]


def run(config: TrainConfig, inputs: TrainInputs, output: str, *, overwrite: bool = False) -> TrainResult:
    """Train a model into the directory `output`; a finished one from the same inputs is returned at once.

    Killed halfway and run again it goes on from its last checkpoint. Raises `ConfigError` for a recipe or data
    that do not fit, `ArtifactError` when `output` holds another model and `overwrite` is not given.
    """
    recipe = Recipe.load(config.recipe).with_overrides(steps=config.steps, batch_size=config.batch_size)
    if recipe.training.batch_size % config.num_workers:
        raise ConfigError(
            f"The batch of {recipe.training.batch_size} pairs cannot be shared by {config.num_workers} workers; "
            "make it a multiple."
        )
    output = storage.absolute(output)
    train = storage.absolute(inputs.train)
    fingerprint = _fingerprint(config, recipe, train)
    if not is_finished(output, fingerprint, record=CARD_NAME, shared=True):
        # Before the output is touched and any worker starts: Ray Train would repeat a worker that fails.
        if recipe.loss.places is not None:
            check_places(train, read_places(train, recipe), recipe)
        else:
            check_pairs(train, read_index(train), recipe)
        ensure_ray()
        _await_resources(config)
    # Shared: checkpoints of an unfinished training lie here, each run's below its own name.
    with begin_output(
        output, fingerprint, record=CARD_NAME, what="a model", overwrite=overwrite, shared=True
    ) as done:
        if done:
            _validate(output, inputs.validation)
            return _result(output, read_card(output), reused=True)
        _fit(config, recipe, train, output, fingerprint)
        storage.delete(storage.join(output, CHECKPOINTS))
        _validate(output, inputs.validation)
    return _result(output, read_card(output), reused=False)


def _fingerprint(config: TrainConfig, recipe: Recipe, train: str) -> str:
    """Identity of a run: recipe, data, and how the work is shared; not how often it is saved or retried."""
    content = [recipe.fingerprint(), *_checksums(train), config.num_workers, config.max_minutes]
    return fingerprint_of(content)


def _checksums(pairs: str) -> list[list[str]]:
    """The content of an ingest output's tables."""
    return [
        part_table.read_manifest(storage.join(pairs, kind), kind=kind).checksums
        for kind in ("tiles", "queries", "pairs")
    ]


def _fit(config: TrainConfig, recipe: Recipe, train: str, output: str, fingerprint: str) -> None:
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from geoloc.training.loop import run_worker

    filesystem, path = storage.filesystem(storage.join(output, CHECKPOINTS))
    trainer = _quiet_trainer()(
        run_worker,
        train_loop_config=_worker_config(config, recipe, train, output, fingerprint),
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.threads_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=fingerprint[:16],  # the same run found again is resumed from its last checkpoint
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            # Our own lines say how it goes. (The checker reads Ray's older class of this name.)
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        if cause := _our_error(error):
            raise cause from error
        raise


def _quiet_trainer() -> type[Any]:
    """TorchTrainer without the watcher that logs a warning every second where Ray runs without a dashboard.

    It removes a placement group whose controller died; the group goes with our job anyway.
    """
    from ray.train.torch import TorchTrainer

    class QuietTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # not in its stubs
            return [each for each in callbacks if type(each).__name__ != "PlacementGroupCleanerCallback"]

    return QuietTrainer


def _worker_config(
    config: TrainConfig, recipe: Recipe, train: str, output: str, fingerprint: str
) -> dict[str, Any]:
    return {
        "recipe": recipe.to_yaml(),
        "train": train,
        "output": output,
        "fingerprint": fingerprint,
        "use_gpu": config.use_gpu,
        "threads_per_worker": config.threads_per_worker,
        "max_minutes": config.max_minutes,
        "checkpoint_every": config.checkpoint_every,
    }


def _await_resources(config: TrainConfig) -> None:
    """Wait for the workers' CPUs and GPUs; refuse what a Ray of our own can never give."""
    gpus = config.num_workers if config.use_gpu else 0
    await_resources(
        config.num_workers * config.threads_per_worker,
        gpus,
        what=f"{config.num_workers} workers of {config.threads_per_worker} threads need",
        remedy="lower num_workers or threads_per_worker" + (" or drop use_gpu" if gpus else ""),
    )


def _our_error(error: BaseException) -> GeolocError | None:
    """The error of ours that made a worker fail, as Ray Train wraps it; None for anything else."""
    for failure in [error, *getattr(error, "worker_failures", {}).values()]:
        current: BaseException | None = failure
        while current is not None:
            if isinstance(current, GeolocError):
                return current
            current = getattr(current, "cause", None) or current.__cause__
    return None


def _validate(output: str, pairs: str | None) -> None:
    """Measure recall on held-out pairs and add it to the last line of the metrics, unless it was measured on these."""
    if pairs is None:
        return
    pairs = storage.absolute(pairs)
    note, fingerprint = storage.join(output, VALIDATION_NAME), fingerprint_of(_checksums(pairs))
    if storage.exists(note) and read_plan(storage.read_bytes(note))[0] == fingerprint:
        return
    uri = storage.join(output, METRICS_NAME)
    lines = storage.read_text(uri).splitlines()
    last = json.loads(lines[-1]) | validation_recall(output, pairs)
    storage.write_bytes(uri, "".join(f"{line}\n" for line in [*lines[:-1], json.dumps(last)]).encode())
    storage.write_bytes(note, json.dumps({"fingerprint": fingerprint}).encode() + b"\n")
    say(
        f"train: {last['validation_pairs']:,.0f} held-out photos, recall at 1, 5, 10: "
        + ", ".join(f"{last[f'validation_recall_{k}']:.1f} %" for k in (1, 5, 10))
    )


def _result(output: str, card: ModelCard, *, reused: bool) -> TrainResult:
    lines = storage.read_text(storage.join(output, METRICS_NAME)).splitlines()
    metrics: dict[str, float] = json.loads(lines[-1]) if lines else {}
    return TrainResult(model_uri=output, model_id=card.model_id, reused=reused, metrics=metrics)
