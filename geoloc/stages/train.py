"""The stage `train`: an ingest output in, a model directory out, by Ray Train with data-parallel workers."""

from __future__ import annotations

import json
import secrets
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError, GeolocError
from geoloc.core.fingerprint import begin_output, fingerprint_of, is_finished, other_work, read_plan
from geoloc.core.progress import say
from geoloc.index.format.local_cache import cache_directory
from geoloc.models.built_in import model_location
from geoloc.models.card import CARD_NAME, METRICS_NAME, RECIPE_NAME, ModelCard, read_card
from geoloc.recipe.recipe import Recipe
from geoloc.runtime.ray_session import await_resources, ensure_ray
from geoloc.runtime.task_stream import results_in_order
from geoloc.training.data import check_data, data_identity, table_checksums
from geoloc.training.node_cache import NodeCache
from geoloc.training.run_log import check_tensorboard
from geoloc.training.unfinished_run import UnfinishedRun, differences
from geoloc.training.validation import validation_recall

CHECKPOINTS = "checkpoints"
VALIDATION_NAME = "validation.json"
_LONGEST_FILL_S = 12 * 3600  # workers of other nodes wait in a collective while one fills its cache


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
    cache_gb: float | None = Field(
        None,
        gt=0,
        description="GB that prepared pictures may take on the disk of each node (GEOLOC_CACHE says where), those of "
        "earlier runs included; default: 90 percent of what is free.",
    )
    evaluate_every: int | None = Field(
        None,
        ge=1,
        description="Steps between two measurements of recall at 1 on the held-out pairs (--validation): the weights "
        "with the best one become the model; default: those of the last step.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Measurements without a better recall after which training stops; default: it goes on to the end.",
    )
    compile: bool = Field(
        False, description="Compile the backbones with torch.compile; needs a C++ compiler."
    )
    tensorboard: str | None = Field(
        None,
        description="Folder for TensorBoard's files, on worker 0's machine; needs the extra tensorboard.",
    )
    max_failures: int = Field(3, ge=0, description="Worker failures from which training recovers.")


class TrainInputs(BaseModel):
    """URIs of ingest outputs: pairs to learn from, and optionally held-out pairs to measure recall on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str = Field(description="URI of an ingest output with the pairs to train on.")
    validation: str | None = Field(
        None, description="URI of an ingest output with held-out pairs, to measure recall on."
    )
    start: str | None = Field(
        None,
        description="URI of a trained model whose weights training starts from, or builtin; default: random weights.",
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

    A run that was killed and is started again goes on from its last checkpoint. Raises `ConfigError` for a recipe or
    data that do not fit. Raises `ArtifactError` when `output` holds another model and `overwrite` is not given. Raises
    `ModelMismatch` when the weights of `start` do not fit the recipe.
    """
    recipe = Recipe.load(config.recipe).with_overrides(steps=config.steps, batch_size=config.batch_size)
    if recipe.training.batch_size % config.num_workers:
        raise ConfigError(
            f"The batch of {recipe.training.batch_size} pairs cannot be shared by {config.num_workers} workers; "
            "make it a multiple."
        )
    _check_measuring(config, inputs)
    output = storage.absolute(output)
    train = storage.absolute(inputs.train)
    start = None if inputs.start is None else model_location(inputs.start)
    measured = _measured(config, inputs)
    fingerprint = _fingerprint(config, recipe, train, start, measured)
    if not is_finished(output, fingerprint, record=CARD_NAME, shared=True):
        # Before the output is touched and any worker starts: Ray Train would repeat a worker that fails.
        _refuse_other_model(output, recipe, overwrite=overwrite)
        ensure_ray()
        _await_resources(config)
        _check_data(train, recipe)
    # Shared: checkpoints of an unfinished training lie here, each run's below its own name.
    with begin_output(
        output, fingerprint, record=CARD_NAME, what="a model", overwrite=overwrite, shared=True
    ) as done:
        if done:
            _validate(output, inputs.validation)
            return _result(output, read_card(output), reused=True)
        record = UnfinishedRun(storage.join(output, CHECKPOINTS))
        content = {
            "recipe": recipe.written(),
            "tables": table_checksums(train),
            "max_minutes": config.max_minutes,
            "start": None if start is None else read_card(start).weights_sha256,
        }
        if measured is not None:
            content["measured"] = measured
        record.begin(content, overwrite=overwrite)
        _fit(config, _worker_config(config, inputs, recipe, output, fingerprint, start))
        record.raise_failure()
        storage.delete(storage.join(output, CHECKPOINTS))
        _validate(output, inputs.validation)
    return _result(output, read_card(output), reused=False)


def _check_data(train: str, recipe: Recipe) -> None:
    """Refuse data that cannot train a recipe, in a task: the names of all pairs are joined for it."""
    list(results_in_order(check_on_node, [(train, recipe)]))


def check_on_node(train: str, recipe: Recipe) -> None:
    """`check_data` with the cache of this node, which the workers of the node then find filled."""
    check_data(train, recipe, NodeCache(cache_directory(), data_identity(train, recipe), run=""))


def _check_measuring(config: TrainConfig, inputs: TrainInputs) -> None:
    if config.evaluate_every is not None and inputs.validation is None:
        raise ConfigError("evaluate_every measures recall on held-out pairs; give them as validation.")
    if config.patience is not None and config.evaluate_every is None:
        raise ConfigError(
            f"patience is {config.patience} measurements, but nothing is measured; give evaluate_every."
        )
    if config.tensorboard is not None:
        check_tensorboard()


def _measured(config: TrainConfig, inputs: TrainInputs) -> list[Any] | None:
    """What chooses the weights of a run by their recall; None where the last ones are taken."""
    if config.evaluate_every is None or inputs.validation is None:
        return None
    return [config.evaluate_every, config.patience, table_checksums(storage.absolute(inputs.validation))]


def _fingerprint(
    config: TrainConfig, recipe: Recipe, train: str, start: str | None, measured: list[Any] | None
) -> str:
    """Identity of a run: recipe, data, first weights, choice of the best; not how many share the work."""
    content: list[Any] = [recipe.fingerprint(), *table_checksums(train), config.max_minutes]
    if start is not None:
        content.append(read_card(start).weights_sha256)
    return fingerprint_of(content if measured is None else [*content, measured])


def _refuse_other_model(output: str, recipe: Recipe, *, overwrite: bool) -> None:
    """Name what differs where the output holds a finished model of another recipe."""
    uri = storage.join(output, RECIPE_NAME)
    if overwrite or not storage.exists(storage.join(output, CARD_NAME)) or not storage.exists(uri):
        return
    held = Recipe.load(uri).written()
    if differ := differences(held, recipe.written()):
        raise ArtifactError(f"{output!r} {other_work('a model')} The recipe differs: {differ}.")


def _fit(config: TrainConfig, worker: dict[str, Any]) -> None:
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from geoloc.training.loop import run_worker

    filesystem, path = storage.patient_filesystem(worker["checkpoints"])
    trainer = _quiet_trainer()(
        run_worker,
        train_loop_config=worker,
        torch_config=TorchConfig(backend="nccl" if config.use_gpu else "gloo", timeout_s=_LONGEST_FILL_S),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": config.threads_per_worker, **({"GPU": 1} if config.use_gpu else {})},
        ),
        run_config=RunConfig(
            name=worker["fingerprint"][:16],  # the same run found again is resumed from its last checkpoint
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
    config: TrainConfig,
    inputs: TrainInputs,
    recipe: Recipe,
    output: str,
    fingerprint: str,
    start: str | None,
) -> dict[str, Any]:
    return {
        "recipe": recipe.to_yaml(),
        "train": storage.absolute(inputs.train),
        "validation": None if inputs.validation is None else storage.absolute(inputs.validation),
        "start": start,
        "output": output,
        "checkpoints": storage.join(output, CHECKPOINTS),
        "fingerprint": fingerprint,
        "run": secrets.token_hex(8),
        "cache_bytes": None if config.cache_gb is None else config.cache_gb * 1e9,
        "use_gpu": config.use_gpu,
        "threads_per_worker": config.threads_per_worker,
        "max_minutes": config.max_minutes,
        "checkpoint_every": config.checkpoint_every,
        "evaluate_every": config.evaluate_every,
        "patience": config.patience,
        "compile": config.compile,
        "tensorboard": config.tensorboard,
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
    note, fingerprint = storage.join(output, VALIDATION_NAME), fingerprint_of(table_checksums(pairs))
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
