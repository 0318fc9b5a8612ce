"""The stage `compare`: several recipes trained with one budget, measured side by side, one table.

Each (recipe, seed) is a model directory of its own under the output, trained by the stage `train` and kept: run
again, only what is missing is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc import parts, storage
from geoloc.errors import ConfigError
from geoloc.models.encoder import Encoder
from geoloc.models.store import read_card
from geoloc.progress import say
from geoloc.recipe import Recipe
from geoloc.training.conditions import CONDITIONS, PROTOCOL, PROTOCOL_SEED, measure
from geoloc.training.pairs import load_pairs, read_index
from geoloc.training.stage import TrainConfig, TrainInputs
from geoloc.training.stage import run as train

TABLE_NAME = "table.json"
PAGE_NAME = "table.md"
_MEASURED = "conditions.json"
_ANYWHERE_M = 1e6


class CompareConfig(BaseModel):
    """What to compare, and the budget that every recipe gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipes: tuple[str, ...] = Field(
        ("geoloc",), description="names of built-in recipes or URIs of YAML files"
    )
    seeds: tuple[int, ...] = Field((0,), description="each recipe is trained once with each")
    steps: int | None = Field(
        None, ge=1, description="optimizer steps, the same for all; else each recipe's own"
    )
    batch_size: int | None = Field(None, ge=2, description="pairs a step, the same for all")
    max_minutes: float | None = Field(None, gt=0, description="time for each training at the most")
    num_workers: int = Field(2, ge=1, description="data-parallel workers of a training")


class CompareInputs(BaseModel):
    """URIs of ingest outputs: pairs to learn from, and one or more tables of held-out pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str
    tests: tuple[str, ...] = Field(description="each gives columns of its own, named by its last path part")


class Measured(BaseModel):
    """One recipe with one seed under one condition on one test table; percent and degrees, NaN written as null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    seed: int
    test: str
    condition: str
    photos: int
    tiles: int
    recall_1: float
    recall_5: float
    recall_10: float
    heading_error_deg: float | None
    within_10_deg: float | None


class CompareResult(BaseModel):
    """Everything measured, and where the table lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    page: str
    rows: tuple[Measured, ...]

    def text(self) -> str:
        """The table as text."""
        return make_page(self.rows)


def run(
    config: CompareConfig, inputs: CompareInputs, output: str, *, overwrite: bool = False
) -> CompareResult:
    """Train every recipe with every seed and measure all under the conditions of `training.conditions`.

    Returns at once what is there already. Raises `ConfigError` for two recipes or tests of one name, and what
    the stage `train` raises.
    """
    output = storage.absolute(output)
    tests = _named(
        [storage.absolute(uri) for uri in inputs.tests], [_last(uri) for uri in inputs.tests], "test"
    )
    recipes = [Recipe.load(name) for name in config.recipes]
    named = _named(list(config.recipes), [recipe.name for recipe in recipes], "recipe")
    rows: list[Measured] = []
    for name in named:
        for seed in config.seeds:
            model = _train(config, inputs, named[name], name, seed, output, overwrite=overwrite)
            for test, uri in tests.items():
                rows += _measure(model, uri, name, seed, test)
    table, page = storage.join(output, TABLE_NAME), storage.join(output, PAGE_NAME)
    content = [row.model_dump() for row in rows]
    storage.write_bytes(table, (json.dumps(content, indent=1) + "\n").encode())
    storage.write_bytes(page, make_page(rows).encode())
    return CompareResult(table=table, page=page, rows=tuple(rows))


def _named(values: Sequence[str], names: Sequence[str], what: str) -> dict[str, str]:
    named = dict(zip(names, values, strict=True))
    if len(named) < len(values):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"Two {what}s are named {twice!r}; give each a name of its own.")
    if not named:
        raise ConfigError(f"There is no {what} to compare; give at least one.")
    return named


def _last(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _train(
    config: CompareConfig,
    inputs: CompareInputs,
    recipe: str,
    name: str,
    seed: int,
    output: str,
    *,
    overwrite: bool,
) -> str:
    """The model directory of a recipe with a seed, trained if it is not there."""
    place = storage.join(output, "models", f"{name}-seed{seed}")
    seeded = Recipe.load(recipe).model_copy(update={"seed": seed})
    written = storage.join(output, "recipes", f"{name}-seed{seed}.yaml")
    storage.write_bytes(written, seeded.to_yaml().encode())
    say(f"compare: {name}, seed {seed}")
    train(
        TrainConfig(
            recipe=written,
            num_workers=config.num_workers,
            steps=config.steps,
            batch_size=config.batch_size,
            max_minutes=config.max_minutes,
        ),
        TrainInputs(train=inputs.train),
        place,
        overwrite=overwrite,
    )
    return place


def _measure(model: str, uri: str, name: str, seed: int, test: str) -> list[Measured]:
    """Measurements of a model on a test table; kept beside the model, made again when either changed."""
    kept = f"{model}.{test}.{_MEASURED}"
    tables = [
        parts.read_manifest(storage.join(uri, kind), kind=kind).fingerprint
        for kind in ("tiles", "queries", "pairs")
    ]
    identity = [read_card(model).weights_sha256, *tables, PROTOCOL_SEED]
    if storage.exists(kept):
        content = json.loads(storage.read_bytes(kept))
        if content["identity"] == identity:
            return [Measured.model_validate(row) for row in content["rows"]]
    encoder = Encoder.open(model)
    store = load_pairs(uri, read_index(uri), _any_camera(encoder.recipe))
    rows = [
        Measured(recipe=name, seed=seed, test=test, **_without_nan(vars(result)))
        for result in measure(encoder, store, CONDITIONS)
    ]
    content = {"identity": identity, "rows": [row.model_dump() for row in rows]}
    storage.write_bytes(kept, (json.dumps(content, indent=1) + "\n").encode())
    return rows


def _any_camera(recipe: Recipe) -> Recipe:
    """The recipe for reading test pairs: photos count wherever on their tile they were taken."""
    augmentation = recipe.training.augmentation.model_copy(update={"offset_m": _ANYWHERE_M})
    training = recipe.training.model_copy(update={"augmentation": augmentation})
    return recipe.model_copy(update={"training": training})


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def make_page(rows: Sequence[Measured]) -> str:
    """A Markdown table per test: R@1 of every recipe under every condition, mean and spread over its seeds.

    The column `mean` is that of the published protocol's five conditions; the last columns are the heading's
    median error over correctly found photos and the share of them within 10 degrees, of condition 360.
    """
    lines: list[str] = []
    for test in dict.fromkeys(row.test for row in rows):
        here = [row for row in rows if row.test == test]
        names = [condition.name for condition in CONDITIONS]
        head = ["R@1, %", *names, "mean", "heading error, degrees", "within 10 degrees, %"]
        lines += [
            f"## {test}: {here[0].photos:,} photos, {here[0].tiles:,} tiles",
            "",
            "| " + " | ".join(head) + " |",
            "|" + "---|" * len(head),
        ]
        for recipe in dict.fromkeys(row.recipe for row in here):
            lines.append("| " + " | ".join([recipe, *_cells(here, recipe, names)]) + " |")
        lines.append("")
    return "\n".join(lines)


def _cells(rows: Sequence[Measured], recipe: str, names: Sequence[str]) -> list[str]:
    own = [row for row in rows if row.recipe == recipe]
    by_name = {name: [row.recall_1 for row in own if row.condition == name] for name in names}
    seeds = list(dict.fromkeys(row.seed for row in own))
    means = [
        float(np.mean([row.recall_1 for row in own if row.seed == seed and row.condition in PROTOCOL]))
        for seed in seeds
    ]
    full = [row for row in own if row.condition == "360"]
    errors = [row.heading_error_deg for row in full if row.heading_error_deg is not None]
    within = [row.within_10_deg for row in full if row.within_10_deg is not None]
    return [*(_spread(by_name[name]) for name in names), _spread(means), _spread(errors), _spread(within)]


def _spread(values: Sequence[float]) -> str:
    """Mean of values, with the standard deviation where there are several."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"
