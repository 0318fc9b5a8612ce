"""The report of an evaluation: one HTML file with its tables, plots and pictures inside, nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES
from geoloc.evaluation.ranking.ranks import chance_counts
from geoloc.evaluation.ranking.route_accuracy import RouteFigures
from geoloc.evaluation.report import plots
from geoloc.evaluation.report.best_and_worst import Cases, Pictures
from geoloc.evaluation.report.html import page, plot, table
from geoloc.evaluation.report.located_errors import LocatedPhotos
from geoloc.evaluation.report.position_map import MapPositions, position_map
from geoloc.evaluation.report.recall_table import CHANCE, DirectionTables, recall_curve
from geoloc.evaluation.report.results import (
    DirectionResult,
    EvaluateResult,
    Summary,
    TopPercentRow,
    WithinRow,
    tie_table,
)
from geoloc.localization.fix import PROMISE

__all__ = ["Pictures", "render"]

_KS = (1, 5, 10)
_ROUTE_LENGTHS = (1, 2, 3, 5, 10, 20, 40)
_MOST_K = 100  # of the curve of recall


def render(
    result: EvaluateResult,
    directions: Sequence[DirectionTables],
    photos: LocatedPhotos | None,
    pictures: Pictures,
    count: int,
    log: Sequence[Mapping[str, float]] = (),
) -> str:
    """The report as HTML; `count` queries are shown with pictures, half of them the best, half the worst.

    `log` is that of the model's training.
    """
    sections = [
        f"<h1>geoloc evaluation</h1>{_summary(result)}",
        *(f'<p class="finding">{html.escape(sentence)}</p>' for sentence in result.findings),
    ]
    for number, (figures, tables) in enumerate(zip(result.protocol.directions, directions, strict=True)):
        located = photos if tables.questions.direction == PHOTOS_TO_TILES else None
        sections += _direction(figures, tables, located)
        if number == 0:
            sections += [_located(result), Cases(tables, located).section(pictures, count)]
            sections.append(_by_kind(result.protocols))
    sections += [_map(directions, photos), _training(log)]
    if result.routes is not None:
        sections.append(_routes(result.routes))
    sections.append(_provenance(result))
    return page("geoloc evaluation", sections)


def _summary(result: EvaluateResult) -> str:
    refused = f", {result.quarantined:,} photos refused" if result.quarantined else ""
    protocol = result.protocol
    changed = ""
    if protocol.changed:
        changed = (
            f"<p class=finding>Not as the protocol says: {html.escape('; '.join(protocol.changed))}.</p>"
        )
    return (
        f"<p>Protocol <b>{html.escape(protocol.id)}</b>. {html.escape(protocol.definition)}</p>{changed}"
        f"<p>{result.queries:,} queries{refused} against {result.gallery:,} gallery items with codes of "
        f"{result.bits} bits. Snapshot <code>{html.escape(result.snapshot_id)}</code>, model "
        f"<code>{html.escape(result.model_id)}</code>.</p>"
    )


def _direction(figures: DirectionResult, tables: DirectionTables, photos: LocatedPhotos | None) -> list[str]:
    ties = (
        "<p class=muted>Recall in percent, ties at their expected rank; where ties matter, also with every tie lost "
        "and every tie won.</p>"
    )
    sections = [
        f"<h2>{html.escape(figures.direction.capitalize())}</h2>",
        f"<p>{_sizes(figures)}</p>",
        _text_table(tie_table(figures.table)),
        ties,
    ]
    if figures.multi_query:
        places = f"<h3>{figures.multi_query_queries:,} places, the photos of each as one query</h3>"
        sections += [places, _text_table(tie_table(figures.multi_query))]
    sections.append(_plots(tables, photos))
    sections.append(_top_percent(figures.top_percent))
    sections.append(_within(figures.within))
    if figures.best_error:
        sections.append(
            "<h3>Distance of the best answer</h3>" + _summary_table({"best answer": figures.best_error})
        )
    return sections


def _routes(figures: RouteFigures) -> str:
    """Accuracy against length as a plot and, at some lengths, as a table."""
    shown = [place for place, length in enumerate(figures.lengths) if length in _ROUTE_LENGTHS]
    head = ["percent of routes", *(f"{figures.lengths[place]} photos" for place in shown)]
    rows = dict(figures.accuracy)
    rows |= {f"{name}: 90 % region holds": values for name, values in figures.region_held.items()}
    cells = [[name, *(f"{values[place]:.1f}" for place in shown)] for name, values in rows.items()]
    words = f"{figures.routes:,} routes on a graph of {figures.nodes:,} places and {figures.links:,} links."
    picture = plot(plots.route_curves(figures.lengths, figures.accuracy))
    return f'<h2>Routes</h2><p>{words}</p>{table(head, cells)}<p class="plots">{picture}</p>'


def _sizes(figures: DirectionResult) -> str:
    junk = f", {figures.junk:,} of them junk" if figures.junk else ""
    missing = f"; {figures.without_match:,} queries have no right item" if figures.without_match else ""
    return f"{figures.queries:,} queries, {figures.gallery:,} gallery items{junk}{missing}."


def _text_table(lines: Sequence[Sequence[str]]) -> str:
    return table(lines[0], lines[1:])


def _top_percent(rows: Sequence[TopPercentRow]) -> str:
    methods = list(rows[0].recall)
    cells = ([row.rule, f"{row.k:,}", *(f"{row.recall[name]:.2f}" for name in methods)] for row in rows)
    return "<h3>Top 1 %, by each published rule</h3>" + table(["rule", "K", *methods], cells)


def _within(rows: Sequence[WithinRow]) -> str:
    if not rows:
        return ""
    methods = [row.method for row in rows[0].table if row.method != CHANCE]
    names = [name for name in rows[0].table[0].recall if name != "R@1%"]
    cells = [
        [f"{name}, {method}", *(f"{row.table[place].recall[name]:.2f}" for row in rows)]
        for name in names
        for place, method in enumerate(methods)
    ]
    head = ["", *(f"{row.radius_m:g} m" for row in rows)]
    return "<h3>Recall of any item within r metres, percent</h3>" + table(head, cells)


def _plots(tables: DirectionTables, photos: LocatedPhotos | None) -> str:
    table, error_m = tables.table, tables.error_m
    most = min(_MOST_K, table.gallery)
    curves = {method: recall_curve(counts, most) for method, counts in table.counts.items()}
    chance = chance_counts(table.truth.counts(table.queries), table.gallery)
    curves[CHANCE] = recall_curve(chance, most)
    pictures = [plots.recall_curves(curves, dotted=(CHANCE,))]
    if tables.within and np.isfinite(error_m).any():
        known = np.isfinite(tables.questions.queries.lat)
        pictures.append(plots.within_curves(error_m[known], [k for k in _KS if k <= error_m.shape[1]]))
        errors = {"best answer by floats": error_m[known, 0]}
        if photos is not None:
            errors = {"best match": photos.top1_error_m[known], "located": photos.error_m[known]}
        pictures.append(plots.error_curve(errors))
    return '<p class="plots">' + "".join(map(plot, pictures)) + "</p>"


def _map(directions: Sequence[DirectionTables], photos: LocatedPhotos | None) -> str:
    """Photos on the map of their errors; nothing where positions are unknown."""
    for tables in directions:
        if tables.questions.direction == PHOTOS_TO_TILES and tables.within:
            positions = _positions(tables, photos)
            if np.isfinite(positions.error_m).any():
                return "<h2>Where the photos were taken</h2>" + position_map(positions)
    return ""


def _positions(tables: DirectionTables, photos: LocatedPhotos | None) -> MapPositions:
    queries, gallery = tables.questions.queries, tables.questions.gallery
    if photos is not None:
        lat, lon, error_m = photos.lat, photos.lon, photos.error_m
    else:
        best = np.maximum(tables.best_rows[:, 0], 0)
        lat, lon, error_m = gallery.lat[best], gallery.lon[best], tables.error_m[:, 0]
    return MapPositions(queries.lat, queries.lon, lat, lon, error_m, gallery.lat, gallery.lon)


def _located(result: EvaluateResult) -> str:
    if not result.located_error:
        return ""
    rows = {"best match": result.top1_error, "located": result.located_error}
    return (
        "<h2>Errors of located photos in metres</h2>"
        + _summary_table(rows)
        + _coverage_table([row.model_dump() for row in result.coverage])
    )


def _summary_table(rows: Mapping[str, Summary]) -> str:
    names = list(next(iter(rows.values())))
    cells = ([name, *(_number(errors[key], key) for key in names)] for name, errors in rows.items())
    return table(["", *(_heading(name) for name in names)], cells)


def _heading(name: str) -> str:
    """A figure's name in words: `q75_m` is the 75 % quantile, `within_5m` a share in percent."""
    if name.startswith("within_"):
        return f"% within {name.removeprefix('within_').removesuffix('m')} m"
    if name in ("median_m", "q50_m"):
        return "median m"
    if name.endswith("_m"):
        return f"{name[1:-2]} % m"
    return name


def _number(value: float | int | None, name: str) -> str:
    if value is None:
        return "not located"
    return f"{value:,}" if name in ("queries", "located") else f"{value:,.1f}"


def _coverage_table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p class=muted>The index is not calibrated: answers carry no radius and no confidence.</p>"
    head = [
        "kind of query",
        "queries",
        "% located",
        "% located of those right at the first tile",
        "% of the located inside their radius",
        "mean confidence %",
        "median radius m",
        "% located with their surroundings hidden",
    ]
    cells = (
        [
            row["protocol"],
            f"{row['queries']:,}",
            f"{row['located_percent']:.1f}",
            *(
                "" if row[name] is None else f"{factor * row[name]:.1f}"
                for name, factor in (
                    ("kept_percent", 1),
                    ("inside_percent", 1),
                    ("mean_confidence", 100),
                    ("median_radius_m", 1),
                    ("false_accept_percent", 1),
                )
            ),
        ]
        for row in rows
    )
    return f"<h2>What answers promise</h2><p>{PROMISE}</p>" + table(head, cells)


def _by_kind(kinds: Mapping[str, Any]) -> str:
    if len(kinds) < 2:
        return ""
    tables = (f"<h3>{html.escape(name)}</h3>{_text_table(tie_table(rows))}" for name, rows in kinds.items())
    return "<h2>By kind of query</h2>" + "".join(tables)


def _training(log: Sequence[Mapping[str, float]]) -> str:
    """How the training of the model went; nothing where its log has no curve."""
    if sum("loss" in line for line in log) < 2:
        return ""
    picture = plot(plots.training_curve(log), "loss and shares over the steps of the training")
    return f'<h2>How the model was trained</h2><p class="plots">{picture}</p>'


def _provenance(result: EvaluateResult) -> str:
    blocks = {"Data": result.data, "Environment": result.environment, "Recipe": result.recipe}
    return "<h2>Where these figures come from</h2>" + "".join(_details(blocks.items()))


def _details(blocks: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterable[str]:
    for name, content in blocks:
        text = html.escape(json.dumps(content, indent=1, ensure_ascii=False))
        yield f"<details><summary>{name}</summary><pre>{text}</pre></details>"
