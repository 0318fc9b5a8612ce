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
    """Percent of routes that are right over their length in photos, for each algorithm; with turns dashed."""
    figure, axes = _axes()
    colours: dict[str, str] = {}
    for name, values in curves.items():
        algorithm = name.removesuffix(", turns")
        colour = colours.setdefault(algorithm, f"C{len(colours)}")
        axes.plot(lengths, values, label=name, color=colour, ls="-" if name == algorithm else "--")
    axes.set(xlabel="photos of the route", ylabel="last five places right, % of routes", ylim=(0, 101))
    return _done(figure, axes)


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
