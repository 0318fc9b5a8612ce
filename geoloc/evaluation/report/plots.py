"""Plots of an evaluation, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from geoloc.core import geodesy
from geoloc.core.arrays import FloatArray, IntArray

_SMALLEST_M = 0.1  # a logarithmic axis has no zero
_MOST_LINES = 300
_MOST_TILES = 20_000


@dataclass(frozen=True)
class MapPositions:
    """True and estimated positions of queries float64[Q] and those of the gallery float64[N]: WGS84 degrees.

    NaN where unknown; error_m float64[Q] in metres.
    """

    true_lat: FloatArray
    true_lon: FloatArray
    lat: FloatArray
    lon: FloatArray
    gallery_lat: FloatArray
    gallery_lon: FloatArray
    error_m: FloatArray


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


def within_curves(error_m: FloatArray, ks: Sequence[int], most_m: float = 500.0) -> bytes:
    """Share of queries with an answer among the first K within r metres, over r: error_m float64[Q, k]."""
    figure, axes = _axes()
    radii = np.geomspace(1.0, most_m, 60)
    for k in ks:
        nearest = np.where(np.isfinite(error_m[:, :k]), error_m[:, :k], np.inf).min(axis=1, initial=np.inf)
        axes.plot(radii, [100.0 * float((nearest <= r).mean()) for r in radii], label=f"first {k}")
    axes.set(xscale="log", xlabel="r, metres", ylabel="an answer within r, % of queries", ylim=(0, 101))
    return _done(figure, axes)


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


def error_map(positions: MapPositions) -> bytes:
    """True positions coloured by error over the gallery, with lines to the estimates of the worst.

    Convention: metres east (right) and north (up) of the middle of the queries.
    """
    known = np.flatnonzero(np.isfinite(positions.error_m))
    lat, lon = positions.true_lat[known], positions.true_lon[known]
    frame = geodesy.LocalFrame(geodesy.LatLon(float(np.median(lat)), float(np.median(lon))))
    east, north = frame.to_metres(lat, lon)
    to_east, to_north = frame.to_metres(positions.lat[known], positions.lon[known])
    errors = np.maximum(positions.error_m[known], _SMALLEST_M)
    figure, axes = _axes(width=8.0, height=6.0)
    _gallery(axes, positions, frame)
    for row in np.argsort(-errors)[: min(_MOST_LINES, len(errors) // 4)]:
        axes.plot(
            [east[row], to_east[row]], [north[row], to_north[row]], color="#c33", lw=0.5, alpha=0.4, zorder=2
        )
    norm = LogNorm(1.0, max(100.0, float(errors.max())))
    dots = axes.scatter(east, north, c=errors, s=10, cmap="viridis_r", norm=norm, zorder=3, label="queries")
    figure.colorbar(dots, label="error, metres")
    axes.set(xlabel="metres east", ylabel="metres north", aspect="equal")
    return _done(figure, axes, place="upper right")


def _gallery(axes: Axes, positions: MapPositions, frame: geodesy.LocalFrame) -> None:
    """Tile centres, at most so many of them, evenly."""
    known = np.flatnonzero(np.isfinite(positions.gallery_lat))
    known = known[:: max(1, len(known) // _MOST_TILES)]
    east, north = frame.to_metres(positions.gallery_lat[known], positions.gallery_lon[known])
    axes.scatter(east, north, s=4, marker="s", color="#ddd", linewidths=0, zorder=1, label="gallery")


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
