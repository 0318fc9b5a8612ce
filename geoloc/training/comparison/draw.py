"""Pictures of a comparison, as JPEG and PNG bytes: what each aerial branch sees, and scores against heading.

Convention: tiles are north up; in panoramas and polar images azimuth grows to the right, the middle is stated.
Compass plots have north at the top and headings clockwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from geoloc.core.arrays import FloatArray, Pixels
from geoloc.evaluation.report.plots import encode_figure
from geoloc.training.comparison.aerial_views import AerialView, HeadingScores

_LINES = (5, 9)  # rows and columns of a sampling grid that are drawn
_MARGIN = 0.15  # of the tile's side, shown around it: learned warps leave the tile
_ROW_IN, _LEFT_IN, _STEP_IN, _BELOW_IN = (
    1.75,
    1.95,
    2.15,
    0.18,
)  # inches: a tile, strips begin, row to row, ticks
_TOP, _BOTTOM, _MIDDLE, _OTHERS = "#ffd400", "#ff2d2d", "#00e5ff", "#ffffff"
_OWN, _OTHER, _TRUE, _FOUND = "#1f6fb4", "#9a9a9a", "#2b8a57", "#d03a2a"
_LOWEST = -0.4  # cosine in the middle of a compass


@dataclass(frozen=True)
class TitledView:
    """An aerial view with its title; `azimuth`: whether its columns are directions, south at both ends."""

    title: str
    view: AerialView
    azimuth: bool


def draw_place(panorama: Pixels, tile: Pixels, views: Sequence[TitledView], place: int) -> bytes:
    """One place as JPEG: its panorama and tile (uint8[H, W, 3]), then what every view transform makes of the tile.

    `place` is the row of the views. Left of each view stands its sampling grid on the tile: yellow where its top edge
    comes from, red its bottom edge, cyan its middle column, white others, dots a spline's control points.
    """
    count = 1 + len(views)
    figure = Figure(figsize=(_LEFT_IN + 4 * _ROW_IN, count * _STEP_IN), dpi=100)
    left, right = _axes(figure, 0, count)
    _draw_tile(left, tile)
    _draw_strip(right, panorama, "panorama, and the tile with north up", azimuth=True)
    for row, named in enumerate(views, start=1):
        left, right = _axes(figure, row, count)
        _draw_tile(left, tile)
        _draw_grid(left, named.view.places[place], named.view.controls[place], len(tile))
        _draw_strip(right, named.view.pictures[place], named.title, azimuth=named.azimuth)
    return encode_figure(figure, "jpg")


def _axes(figure: Figure, row: int, count: int) -> tuple[Axes, Axes]:
    """A square for a tile and a strip for what is seen of it, in a row of a picture's inches."""
    width, height = _LEFT_IN + 4 * _ROW_IN, count * _STEP_IN
    bottom = (height - (row + 1) * _STEP_IN + _BELOW_IN) / height
    square = figure.add_axes((0.05 / width, bottom, _ROW_IN / width, _ROW_IN / height))
    strip = figure.add_axes((_LEFT_IN / width, bottom, 4 * _ROW_IN / width - 0.01, _ROW_IN / height))
    return square, strip


def _draw_tile(axes: Axes, tile: Pixels) -> None:
    side = len(tile)
    axes.imshow(tile, extent=(0, side, side, 0))
    margin = _MARGIN * side
    axes.set(xlim=(-margin, side + margin), ylim=(side + margin, -margin), xticks=[], yticks=[])
    axes.set_facecolor("#444")


def _draw_grid(axes: Axes, places: FloatArray, controls: FloatArray, side: int) -> None:
    """The sampling grid float64[h, w, 2] of an aerial view over its tile of `side` pixels."""
    at = (places + 1) / 2 * side
    height, width = at.shape[:2]
    rows = np.linspace(0, height - 1, _LINES[0]).round().astype(int)
    columns = np.linspace(0, width - 1, _LINES[1]).round().astype(int)
    for column in columns:
        axes.plot(*at[:, column].T, color=_OTHERS, linewidth=0.6, alpha=0.8)
    for row in rows[1:-1]:
        axes.plot(*at[row].T, color=_OTHERS, linewidth=0.6, alpha=0.8)
    axes.plot(*at[:, width // 2].T, color=_MIDDLE, linewidth=1.4)
    axes.plot(*at[0].T, color=_TOP, linewidth=1.6)
    axes.plot(*at[-1].T, color=_BOTTOM, linewidth=1.6)
    if len(controls):
        axes.plot(*((controls + 1) / 2 * side).T, ".", color="black", markersize=2.5)


def _draw_strip(axes: Axes, picture: Pixels, title: str, *, azimuth: bool) -> None:
    width = picture.shape[1]
    axes.imshow(picture)
    axes.set_title(title, fontsize=8, loc="left", pad=3)
    axes.set_anchor("W")
    axes.set(xticks=[], yticks=[])
    if azimuth:
        axes.set_xticks(np.linspace(0, width, 5) - 0.5, list("SWNES"), fontsize=7)
        axes.tick_params(length=2, pad=1)


def draw_heading_scores(circles: Mapping[str, HeadingScores]) -> bytes:
    """Photos of unknown north as PNG: a column each, its scores against heading by every recipe below it.

    Blue is the own tile, grey the best other one, the green line the true heading, the red one the estimate.
    """
    first = next(iter(circles.values()))
    count = len(first.own)
    figure = Figure(figsize=(2.7 * count, 1.1 + 2.6 * len(circles)), dpi=90, layout="constrained")
    grid = figure.add_gridspec(1 + len(circles), count, height_ratios=(0.9, *[2.6] * len(circles)))
    for column in range(count):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(first.shown.canvases[column])
        axes.set(xticks=[first.shown.canvases.shape[2] / 2], xticklabels=[], yticks=[])
        axes.set_title(f"middle looks along {first.shown.heading_deg[column]:.0f}°", fontsize=8)
    for row, (name, circle) in enumerate(circles.items(), start=1):
        for column in range(count):
            compass = figure.add_subplot(grid[row, column], projection="polar")
            assert isinstance(compass, PolarAxes)
            _draw_compass(compass, circle, column)
            if column == 0:
                compass.set_ylabel(name, fontsize=8, labelpad=26)
    return encode_figure(figure)


def _draw_compass(axes: PolarAxes, circle: HeadingScores, photo: int) -> None:
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    for scores, colour, width in ((circle.other[photo], _OTHER, 1.0), (circle.own[photo], _OWN, 1.6)):
        angle = np.linspace(0, 2 * np.pi, len(scores) + 1)
        axes.plot(angle, np.append(scores, scores[0]), color=colour, linewidth=width)
    true, estimated = circle.shown.heading_deg[photo], circle.heading_deg[photo]
    axes.plot(np.deg2rad([true, true]), [_LOWEST, 1], color=_TRUE, linewidth=2.2, alpha=0.8)
    axes.plot(np.deg2rad([estimated, estimated]), [_LOWEST, 1], "--", color=_FOUND, linewidth=1.4)
    axes.set_ylim(_LOWEST, 1.0)
    axes.set_yticks([0, 0.5, 1], [])
    axes.set_xticks(np.deg2rad([0, 90, 180, 270]), ["N", "E", "S", "W"], fontsize=7)
    axes.tick_params(pad=-2)
    off = abs((estimated - true + 180) % 360 - 180)
    verdict = "found" if circle.own_first[photo] else "another tile scores more"
    axes.set_title(
        f"{verdict}, {off:.1f}° off", fontsize=8, color=_OWN if circle.own_first[photo] else _FOUND
    )
