"""Plots of an evaluation, as PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from geoloc import geodesy

if TYPE_CHECKING:
    from geoloc.evaluation.measure import Measured

FloatArray = npt.NDArray[np.float64]
_SMALLEST_M = 0.1  # a logarithmic axis has no zero
_MOST_LINES = 300


def error_curve(top1_m: FloatArray, located_m: FloatArray) -> bytes:
    """Share of queries within a distance: of the best match and of the located position."""
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for errors, name in ((top1_m, "best match"), (located_m, "located")):
        finite = np.sort(np.maximum(errors[np.isfinite(errors)], _SMALLEST_M))
        if len(finite):
            axes.step(finite, 100.0 * np.arange(1, len(finite) + 1) / len(errors), where="post", label=name)
    axes.set(xscale="log", xlabel="error, metres", ylabel="queries within it, %", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _png(figure)


def error_map(measured: Measured) -> bytes:
    """True positions coloured by error, with lines to where the worst were located.

    Convention: metres east (right) and north (up) of the middle of the queries.
    """
    known = np.flatnonzero(np.isfinite(measured.error_m))
    lat, lon = measured.true_lat[known], measured.true_lon[known]
    frame = geodesy.LocalFrame(geodesy.LatLon(float(np.median(lat)), float(np.median(lon))))
    east, north = frame.to_metres(lat, lon)
    to_east, to_north = frame.to_metres(measured.lat[known], measured.lon[known])
    errors = np.maximum(measured.error_m[known], _SMALLEST_M)
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for row in np.argsort(-errors)[: min(_MOST_LINES, len(errors) // 4)]:
        axes.plot(
            [east[row], to_east[row]], [north[row], to_north[row]], color="#c33", lw=0.4, alpha=0.4, zorder=1
        )
    norm = LogNorm(1.0, max(100.0, float(errors.max())))
    dots = axes.scatter(east, north, c=errors, s=8, cmap="viridis_r", norm=norm, zorder=2)
    figure.colorbar(dots, label="error, metres")
    axes.set(xlabel="metres east", ylabel="metres north", aspect="equal")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(sink, format="png")
    return sink.getvalue()
