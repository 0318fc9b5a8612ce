"""The stage `compare`: several recipes trained with one budget, measured side by side, one table and one page.

Each (recipe, seed) is a model directory of its own under the output, trained by the stage `train` and kept, and each
of its measurements is a file of its own: run again, only what is missing is made. Commands for different recipes can
work into one output at once; a last command with all recipes finds what they made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.core.progress import say
from geoloc.recipe.recipe import Recipe
from geoloc.stages.train import TrainConfig, TrainInputs
from geoloc.stages.train import run as train
from geoloc.training.comparison.examples import draw_examples
from geoloc.training.comparison.measurements import Measurement, MeasurementStore, Model, TestTable
from geoloc.training.comparison.model_facts import ModelFacts, read_curve, read_model_facts
from geoloc.training.comparison.report import render
from geoloc.training.comparison.tables import to_markdown
from geoloc.training.heading_and_fov import CONDITIONS

TABLE_NAME = "table.json"
MARKDOWN_NAME = "table.md"
PAGE_NAME = "compare.html"
_ALIGNED = tuple(condition for condition in CONDITIONS if condition.name == "aligned")


class CompareConfig(BaseModel):
    """The recipes to compare, and the budget that every recipe gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipes: tuple[str, ...] = Field(
        ("geoloc",), description="Names of built-in recipes, or URIs of YAML files."
    )
    seeds: tuple[int, ...] = Field((0,), description="Random seeds; each recipe is trained once with each.")
    steps: int | None = Field(
        None, ge=1, description="Optimizer steps, the same for all; default: each recipe's."
    )
    batch_size: int | None = Field(
        None, ge=2, description="Pairs in a step, the same for all; default: each recipe's."
    )
    max_minutes: float | None = Field(None, gt=0, description="Minutes of each training at most.")
    num_workers: int = Field(2, ge=1, description="Data-parallel workers of a training.")
    photos: int | None = Field(
        None, ge=1, description="Photos to measure of each table, taken evenly; default: all."
    )


class CompareInputs(BaseModel):
    """URIs of ingest outputs: pairs to learn from, and tables of held-out pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str = Field(description="URI of an ingest output with the pairs to train on.")
    tests: tuple[str, ...] = Field(
        (),
        description="URIs of ingest outputs to measure under all conditions; each is named by the last part "
        "of its path.",
    )
    aligned: tuple[str, ...] = Field(
        (),
        description="URIs of ingest outputs to measure with known north only, such as photos anywhere on "
        "their tile.",
    )


class CompareResult(BaseModel):
    """Everything measured, what was compared, and where the tables lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    markdown: str
    page: str
    rows: tuple[Measurement, ...]
    models: tuple[ModelFacts, ...]

    def text(self) -> str:
        """The tables as text."""
        return to_markdown(self.rows, self.models)


def run(
    config: CompareConfig, inputs: CompareInputs, output: str, *, overwrite: bool = False
) -> CompareResult:
    """Train every recipe with every seed and measure all models under the same conditions.

    Returns at once what is there already. Raises `ConfigError` for two recipes or tests of one name, and what
    the stage `train` raises.
    """
    output = storage.absolute(output)
    tables = _tables(inputs)
    recipes = [Recipe.load(name) for name in config.recipes]
    named = _named(list(config.recipes), [recipe.name for recipe in recipes], "recipe")
    wanted = [(name, seed) for name in named for seed in config.seeds]
    conditions = sum(len(table.conditions) for table in tables)
    measuring = MeasurementStore(output, config.photos, conditions * len(wanted))
    rows: list[Measurement] = []
    models: list[Model] = []
    described: list[ModelFacts] = []
    for number, (name, seed) in enumerate(wanted, start=1):
        say(f"compare: model {number} of {len(wanted)}, {name}, seed {seed}")
        seeded, uri = _train(config, inputs, named[name], name, seed, output, overwrite=overwrite)
        models.append(Model(name, seed, uri))
        described.append(read_model_facts(uri, seeded, name, seed, config.num_workers))
        for table in tables:
            rows += measuring.measure(models[-1], table)
    say("compare: drawing the page")
    curves = {(model.recipe, model.seed): read_curve(model.uri) for model in models}
    html = render(rows, described, curves, draw_examples(models, described, tables[0], measuring))
    return _write(output, rows, described, html)


def _tables(inputs: CompareInputs) -> list[TestTable]:
    uris = [storage.absolute(uri) for uri in (*inputs.tests, *inputs.aligned)]
    named = _named(uris, [_last(uri) for uri in uris], "test")
    return [
        TestTable(name, uri, CONDITIONS if number < len(inputs.tests) else _ALIGNED)
        for number, (name, uri) in enumerate(named.items())
    ]


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
) -> tuple[Recipe, str]:
    """The recipe with a seed as it is trained, and its model directory, trained if it is not there."""
    place = storage.join(output, "models", f"{name}-seed{seed}")
    seeded = Recipe.load(recipe).model_copy(update={"seed": seed})
    written = storage.join(output, "recipes", f"{name}-seed{seed}.yaml")
    storage.write_bytes(written, seeded.to_yaml().encode())
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
    return seeded.with_overrides(steps=config.steps, batch_size=config.batch_size), place


def _write(
    output: str, rows: Sequence[Measurement], models: Sequence[ModelFacts], html: str
) -> CompareResult:
    """The table with every measurement and the facts of its model, then the tables and the page for people."""
    table, markdown, page = (storage.join(output, name) for name in (TABLE_NAME, MARKDOWN_NAME, PAGE_NAME))
    facts: Mapping[tuple[str, int], ModelFacts] = {(each.recipe, each.seed): each for each in models}
    content = [
        facts[row.recipe, row.seed].model_dump() | {"test": row.test} | row.model_dump() for row in rows
    ]
    storage.write_bytes(table, (json.dumps(content, indent=1) + "\n").encode())
    storage.write_bytes(markdown, to_markdown(rows, models).encode())
    storage.write_bytes(page, html.encode())
    return CompareResult(table=table, markdown=markdown, page=page, rows=tuple(rows), models=tuple(models))
