"""Plots of a comparison, as PNG bytes: R@1 with every seed a dot, and how the losses went."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geoloc.evaluation.report.plots import encode_figure
from geoloc.training.comparison.measurements import Measurement
from geoloc.training.comparison.model_facts import CurvePoint, ModelFacts, bridge_titles, sorted_by_bridge
from geoloc.training.comparison.tables import protocol_means, wilson
from geoloc.training.heading_and_fov import CONDITIONS, PROTOCOL

_COLOURS = ("#7a7a7a", "#1f6fb4", "#d98a1c", "#b3432f", "#2b8a57")
_MEAN = "mean of five"
_ROW_IN = 0.27  # inches for each recipe


def bridge_colours() -> dict[str, str]:
    """A colour for each way to bridge the views."""
    return dict(zip(bridge_titles(), itertools.cycle(_COLOURS), strict=False))


def recall_dots(rows: Sequence[Measurement], models: Sequence[ModelFacts]) -> bytes:
    """R@1 of one test: a panel for each condition, a line for each recipe, a dot for each seed.

    Bars are means over seeds, whiskers each dot's 95 % interval for the number of photos.
    """
    names = [each.name for each in CONDITIONS if any(row.condition == each.name for row in rows)]
    panels = [name for name in names if name in PROTOCOL] or names
    recipes = [model for model in _recipes(models) if any(row.recipe == model.recipe for row in rows)]
    if set(PROTOCOL) <= set(names):
        panels.append(_MEAN)
    figure = Figure(
        figsize=(3.2 + 1.9 * len(panels), 1.0 + _ROW_IN * len(recipes)), dpi=110, layout="constrained"
    )
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colours = bridge_colours()
    for axes, name in zip(grid, panels, strict=True):
        for place, recipe in enumerate(recipes):
            own = [row for row in rows if row.recipe == recipe.recipe]
            if name == _MEAN:
                _dots(axes, place, protocol_means(own), None, colours[recipe.bridge])
            else:
                recalls = [row.recall_1 for row in own if row.condition == name]
                _dots(axes, place, recalls, rows[0].photos, colours[recipe.bridge])
        axes.set(title=name, xlim=(0, 100), xlabel="R@1, %")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_yticks(range(len(recipes)), [model.recipe for model in recipes], fontsize=8)
    grid[0].set_ylim(len(recipes) - 0.4, -0.6)
    return encode_figure(figure)


def _dots(axes: Axes, place: int, values: Sequence[float], photos: int | None, colour: str) -> None:
    if not values:
        return
    axes.barh(place, float(np.mean(values)), height=0.7, color=colour, alpha=0.3, linewidth=0)
    if photos is not None:
        for value in values:
            axes.plot(wilson(value, photos), [place, place], "-", color=colour, linewidth=1, alpha=0.7)
    axes.plot(values, [place] * len(values), "o", color=colour, markersize=3.5)


def loss_curves(
    curves: Mapping[tuple[str, int], Sequence[CurvePoint]], models: Sequence[ModelFacts]
) -> bytes:
    """Loss of a batch over steps and how often its own tile came first, a panel for each way of bridging."""
    bridges = [name for name in bridge_titles() if any(model.bridge == name for model in models)]
    figure = Figure(figsize=(3.6 * len(bridges), 6.6), dpi=100, layout="constrained")
    grid = figure.subplots(2, len(bridges), sharex=True, sharey="row", squeeze=False)
    for column, bridge in enumerate(bridges):
        names = [model.recipe for model in _recipes(models) if model.bridge == bridge]
        for model in (each for each in models if each.bridge == bridge):
            points = curves.get((model.recipe, model.seed), [])
            steps = [point.step for point in points]
            shown = {"color": f"C{names.index(model.recipe) % 10}", "linewidth": 1.2, "alpha": 0.9}
            first = model.seed == next(each.seed for each in models if each.recipe == model.recipe)
            label = model.recipe if first else None
            grid[0, column].plot(steps, [point.loss for point in points], label=label, **shown)
            grid[1, column].plot(steps, [point.first for point in points], **shown)
        grid[0, column].set(title=bridge)
        grid[0, column].legend(fontsize=6, loc="upper right")
        grid[1, column].set(xlabel="step", ylim=(0, 101))
    grid[0, 0].set(ylabel="loss of a batch")
    grid[1, 0].set(ylabel="own tile first in the batch, %")
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    return encode_figure(figure)


def _recipes(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    return list({model.recipe: model for model in sorted_by_bridge(models)}.values())
