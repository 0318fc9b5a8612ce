"""Plots of an evaluation, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from geoloc.core.arrays import FloatArray, IntArray

_SMALLEST_M = 0.1  # a logarithmic axis has no zero
_TURNS = ", turns"
_WIDEST, _THINNER = 5.0, 1.7  # points: the first line of a plot of several, and what each later one is less
_FEW_POINTS = 30  # of a curve, which are marked


def recall_curves(
    curves: Mapping[str, tuple[IntArray, Sequence[float]]], dotted: Sequence[str] = ()
) -> bytes:
    """Recall@K in percent over K int64[n] for each method; `dotted` ones are drawn faint."""
    figure, axes = _axes()
    for name, (ks, values) in curves.items():
        style = {"ls": ":", "color": "#888"} if name in dotted else {"marker": ".", "ms": 4.0}
        axes.plot(ks, values, label=name, **style)
    axes.set(xscale="log", xlabel="K", ylabel="Recall@K, %", ylim=(0, 101))
    return _done(figure, axes, place="best")


def route_curves(lengths: Sequence[int], curves: Mapping[str, Sequence[float]]) -> bytes:
    """Percent of routes that are right over their length in photos, for each algorithm: without turns, and with.

    Later curves are thinner, so that those below are seen where algorithms agree. The axis begins at the lowest ten
    below all curves.
    """
    kinds = [_TURNS if name.endswith(_TURNS) else "" for name in curves]
    panels = [kind for kind in ("", _TURNS) if kind in kinds]
    figure = Figure(figsize=(1.0 + 4.0 * len(panels), 3.6), dpi=110, layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, panels, strict=True):
        shown = [name for name, kind in zip(curves, kinds, strict=True) if kind == panel]
        for number, name in enumerate(shown):
            width, mark = _WIDEST - _THINNER * number, "." if len(lengths) < _FEW_POINTS else ""
            label = name.removesuffix(_TURNS)
            axes.plot(lengths, curves[name], label=label, color=f"C{number}", lw=max(width, 1.0), marker=mark)
        axes.grid(alpha=0.3)
        axes.set(xlabel="photos of the route", title="turns known" if panel else "turns not known")
    lowest = min((min(values, default=0.0) for values in curves.values()), default=0.0)
    row[0].set(ylabel="last five places right, % of routes", ylim=(10.0 * (lowest // 10.0), 101))
    return _done(figure, row[-1])


def within_curves(error_m: FloatArray, ks: Sequence[int], most_m: float = 500.0) -> bytes:
    """Share of queries with an answer among the first K within r metres, over r: error_m float64[Q, k]."""
    figure, axes = _axes()
    radii = np.geomspace(1.0, most_m, 60)
    for k in ks:
        nearest = np.where(np.isfinite(error_m[:, :k]), error_m[:, :k], np.inf).min(axis=1, initial=np.inf)
        axes.plot(radii, [100.0 * float((nearest <= r).mean()) for r in radii], label=f"first {k}")
    axes.set(xscale="log", xlabel="r, metres", ylabel="an answer within r, % of queries", ylim=(0, 101))
    return _done(figure, axes)


def training_curve(log: Sequence[Mapping[str, float]]) -> bytes:
    """Loss and shares in percent over the steps of a training, from the lines of its log that have them."""
    figure, axes = _axes()
    shares = axes.twinx()
    for name, label, scale, where, colour in (
        ("loss", "loss (left)", 1.0, axes, "C0"),
        ("batch_accuracy", "first in batch, %", 100.0, shares, "C1"),
        ("validation_recall_1", "R@1 of held-out photos, %", 1.0, shares, "C2"),
    ):
        points = [(line["step"], scale * line[name]) for line in log if {"step", name} <= line.keys()]
        if points:
            steps, values = zip(*points, strict=True)
            where.plot(
                steps, values, label=label, color=colour, marker="." if len(points) < _FEW_POINTS else ""
            )
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    shares.set(ylabel="%", ylim=(0, 101))
    lines = [*axes.get_lines(), *shares.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="center right", fontsize="small")
    return encode_figure(figure)


def error_curve(errors: Mapping[str, FloatArray]) -> bytes:
    """Cumulative distribution of errors float64[Q] in metres, by name: share of all queries within a distance."""
    figure, axes = _axes()
    for name, error_m in errors.items():
        finite = np.sort(np.maximum(error_m[np.isfinite(error_m)], _SMALLEST_M))
        if len(finite):
            share = 100.0 * np.arange(1, len(finite) + 1) / len(error_m)
            axes.step(finite, share, where="post", label=name)
    axes.set(xscale="log", xlabel="error, metres", ylabel="queries within it, %", ylim=(0, 101))
    return _done(figure, axes)


def _axes(width: float = 6.0, height: float = 4.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def _done(
    figure: Figure, axes: Axes, place: Literal["lower right", "upper right", "best"] = "lower right"
) -> bytes:
    axes.legend(loc=place, fontsize="small")
    return encode_figure(figure)


def encode_figure(figure: Figure, kind: Literal["png", "jpg"] = "png") -> bytes:
    """The drawing as a picture file."""
    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(sink, format=kind, pil_kwargs={"quality": 85} if kind == "jpg" else {})
    return sink.getvalue()
