"""The tables of a comparison: R@1 of every recipe under every condition, and what each recipe is and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from geoloc.training.comparison.measurements import Measurement
from geoloc.training.comparison.model_facts import ModelFacts, sorted_by_bridge
from geoloc.training.heading_and_fov import CONDITIONS, PROTOCOL

_Z_95 = 1.959964  # of the normal distribution, both sides together 5 %
_LEAST_ALIGNED = 5.0  # percent, below which a share of it says nothing
_EXAMPLES = (20.0, 50.0, 80.0, 90.0, 95.0)  # percent, whose intervals the foot names


@dataclass(frozen=True)
class Line:
    """One recipe's line of a table."""

    bridge: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table whose lines are sorted by how the recipes bridge the views."""

    title: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]


def make_tables(rows: Sequence[Measurement], models: Sequence[ModelFacts]) -> list[Table]:
    """A table of R@1 for every test, then one of the recipes themselves."""
    tests = dict.fromkeys(row.test for row in rows)
    return [_test_table(test, [row for row in rows if row.test == test], models) for test in tests] + [
        _model_table(models)
    ]


def to_markdown(rows: Sequence[Measurement], models: Sequence[ModelFacts]) -> str:
    """All tables and how to read them, as Markdown."""
    lines: list[str] = []
    for table in make_tables(rows, models):
        lines += [f"## {table.title}", "", _markdown_row(table.head), "|" + "---|" * len(table.head)]
        lines += [*(_markdown_row(line.cells) for line in table.lines), ""]
    return "\n".join([*lines, *notes(rows), ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _test_table(test: str, rows: Sequence[Measurement], models: Sequence[ModelFacts]) -> Table:
    names = [
        condition.name for condition in CONDITIONS if any(row.condition == condition.name for row in rows)
    ]
    whole = set(PROTOCOL) <= set(names)
    further: dict[str, Callable[[Sequence[Measurement]], str]] = {}
    if whole:
        further = {
            "mean of five": lambda own: spread(protocol_means(own)),
            "360 / aligned, %": lambda own: spread(shares_of_aligned(own)),
            "heading error, degrees": lambda own: spread(_of_360(own, "heading_error_deg")),
            "within 10 degrees, %": lambda own: spread(_of_360(own, "within_10_deg")),
        }
    else:
        further = {
            f"R@{k}, {name}": lambda own, k=k, name=name: spread(  # type: ignore[misc]  # of defaults
                [getattr(row, f"recall_{k}") for row in own if row.condition == name]
            )
            for name in names
            for k in (5, 10)
        }
    lines = []
    for recipe in _recipes(models):
        own = [row for row in rows if row.recipe == recipe.recipe]
        if own:
            recalls = [spread([row.recall_1 for row in own if row.condition == name]) for name in names]
            cells = (recipe.recipe, recipe.what, *recalls, *(make(own) for make in further.values()))
            lines.append(Line(recipe.bridge, cells))
    title = f"{test}: {rows[0].photos:,} photos, {rows[0].tiles:,} tiles"
    return Table(title, ("R@1, %", "what", *names, *further), tuple(lines))


def _model_table(models: Sequence[ModelFacts]) -> Table:
    lines = []
    for recipe in _recipes(models):
        own = [model for model in models if model.recipe == recipe.recipe]
        step = [model.step_core_s for model in own if model.step_core_s is not None]
        rate = [model.pairs_per_s for model in own if model.pairs_per_s is not None]
        cells = (
            recipe.recipe,
            recipe.what,
            ", ".join(str(model.seed) for model in own),
            f"{recipe.parameters / 1e6:.2f}",
            f"{recipe.embedding_dim:,}",
            f"{recipe.steps:,} x {recipe.batch_size}",
            f"{np.mean(step):.2f}" if step else "-",
            f"{np.mean(rate):,.0f}" if rate else "-",
        )
        lines.append(Line(recipe.bridge, cells))
    head = (
        "recipe",
        "what",
        "seeds",
        "parameters, million",
        "embedding",
        "steps x batch",
        "core s a step",
        "pairs/s",
    )
    return Table("Recipes and their training", head, tuple(lines))


def _recipes(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """Every recipe once, in the order of the tables."""
    return sorted_by_bridge(list({model.recipe: model for model in reversed(models)}.values())[::-1])


def protocol_means(rows: Sequence[Measurement]) -> list[float]:
    """For each seed of a recipe the mean R@1 of the protocol's five conditions, where all are there."""
    seeds = [[row.recall_1 for row in own if row.condition in PROTOCOL] for own in _by_seed(rows)]
    return [float(np.mean(recalls)) for recalls in seeds if len(recalls) == len(PROTOCOL)]


def shares_of_aligned(rows: Sequence[Measurement]) -> list[float]:
    """For each seed of a recipe R@1 of unknown north in percent of that of known north, where that is not next to 0."""
    shares = []
    for own in _by_seed(rows):
        recall = {row.condition: row.recall_1 for row in own}
        if recall.get("aligned", 0.0) >= _LEAST_ALIGNED and "360" in recall:
            shares.append(100 * recall["360"] / recall["aligned"])
    return shares


def _by_seed(rows: Sequence[Measurement]) -> list[list[Measurement]]:
    return [[row for row in rows if row.seed == seed] for seed in dict.fromkeys(row.seed for row in rows)]


def _of_360(rows: Sequence[Measurement], name: str) -> list[float]:
    values = [getattr(row, name) for row in rows if row.condition == "360"]
    return [value for value in values if value is not None]


def spread(values: Sequence[float]) -> str:
    """Mean of values, with the sample standard deviation where there are several; `-` for none."""
    if not values:
        return "-"
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def wilson(percent: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share in percent that was seen among `count` trials (Wilson, 1927)."""
    share, squared = percent / 100, _Z_95**2 / count
    middle = (share + squared / 2) / (1 + squared)
    half = _Z_95 / (1 + squared) * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def notes(rows: Sequence[Measurement]) -> list[str]:
    """How to read the figures, one sentence or more a line."""
    found = [
        "R@1 is the percentage of photos whose own tile comes first. 360, 180, 90 and 70: the photo shows so many "
        "degrees and nobody knows where north is; aligned and known: north is known. The mean is that of aligned, 360, "
        "180, 90 and 70. The heading's error is the median over the photos of 360 whose own tile came first.",
        "± is the sample standard deviation over seeds. Core seconds are CPU seconds of a step in all workers; where a "
        "model's log has none, the step's time for each worker, which is more where the machine had other work.",
    ]
    for count in sorted({row.photos for row in rows}):
        shares = (
            f"{percent:g} % is {low:.1f} to {high:.1f}"
            for percent in _EXAMPLES
            for low, high in [wilson(percent, count)]
        )
        found.append(
            f"One seed, {count:,} photos, 95 % intervals of a share (Wilson): {', '.join(shares)}. All recipes "
            "see the same photos, so a difference of two is surer than that; the seed's own spread comes on top."
        )
    return found
