"""The report of an evaluation: one HTML file with its tables, plots and pictures inside, nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc import parts, storage
from geoloc.evaluation.measure import Measured
from geoloc.evaluation.page import figure, page, plot, table
from geoloc.evaluation.plots import error_curve, error_map

_MATCHES = 5
_PANORAMA_PX = (360, 120)
_TILE_PX = (120, 120)


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of queries and tiles are: URIs of tables; missing ones leave their pictures out."""

    queries: str
    tiles: str

    def load(
        self, query_ids: Sequence[str], tile_ids: Sequence[str]
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Image bytes of the wanted queries and tiles by id."""
        return _images(self.queries, "query_id", query_ids), _images(self.tiles, "tile_id", tile_ids)


def _images(uri: str, key: str, ids: Sequence[str]) -> dict[str, bytes]:
    if not ids or not storage.exists(storage.join(uri, parts.MANIFEST_NAME)):
        return {}
    found: dict[str, bytes] = {}
    wanted = pa.array(sorted(set(ids)))
    for batch in parts.iterate(uri, columns=[key, "image"]):
        rows = batch.filter(pc.is_in(batch[key], wanted))
        found.update(zip(rows[key].to_pylist(), rows["image"].to_pylist(), strict=True))
    return found


def render(result: Mapping[str, Any], measured: Measured | None, pictures: Pictures, count: int) -> str:
    """The report as HTML: `result` is the metrics' content, `count` how many queries are shown with pictures."""
    sections = [
        f"<h1>geoloc evaluation</h1>{_summary(result)}",
        *(f'<p class="finding">{html.escape(sentence)}</p>' for sentence in result["findings"]),
        "<h2>Recall of the true tile, percent</h2>" + _recall_table(result["table"]),
        f"<h2>Recall of any tile within {result['within_radius_m']:g} m</h2>"
        + _recall_table(result["within_radius"])
        if result["within_radius"]
        else "",
        "<h2>Errors in metres</h2>" + _error_table(result) if result["located_error"] else "",
        _coverage_table(result["coverage"]),
        _plots(measured) if measured else "",
        _protocols(result["protocols"]),
        _queries(measured, pictures, count) if measured else "",
    ]
    return page("geoloc evaluation", sections)


def _summary(result: Mapping[str, Any]) -> str:
    refused = f", {result['quarantined']:,} photos refused" if result["quarantined"] else ""
    return (
        f"<p>{result['queries']:,} queries{refused} against {result['gallery']:,} tiles with codes of "
        f"{result['bits']} bits. Snapshot <code>{html.escape(result['snapshot_id'])}</code>, model "
        f"<code>{html.escape(result['model_id'])}</code>.</p>"
    )


def _recall_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0]["recall"])
    head = ["", *names, f"{names[0]} if ties favour the truth"]
    cells = [
        [
            row["method"],
            *(f"{row['recall'][name]:.2f}" for name in names),
            f"{next(iter(row['optimistic'].values())):.2f}",
        ]
        for row in rows
    ]
    return table(head, cells)


def _number(value: float | int | None) -> str:
    return "not located" if value is None else f"{value:,.1f}"


def _error_table(result: Mapping[str, Any]) -> str:
    rows = {"best match": result["top1_error"], "located": result["located_error"]}
    names = ["median_m", "p90_m", "within_5m", "within_10m", "within_25m", "within_50m"]
    head = ["", "median", "90 %", "% within 5 m", "10 m", "25 m", "50 m"]
    return table(head, ([name, *(_number(errors[key]) for key in names)] for name, errors in rows.items()))


def _coverage_table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p class=muted>The index is not calibrated: answers carry no radius and no confidence.</p>"
    head = [
        "calibration",
        "queries",
        "% inside the radius",
        "mean confidence %",
        "median radius m",
        "queries were held out",
    ]
    cells = (
        [
            row["protocol"],
            f"{row['queries']:,}",
            f"{row['inside_percent']:.1f}",
            f"{100 * row['mean_confidence']:.1f}",
            f"{row['median_radius_m']:.1f}",
            "yes" if row["held_out"] else "not known",
        ]
        for row in rows
    )
    return "<h2>Radius and confidence</h2>" + table(head, cells)


def _protocols(protocols: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    if len(protocols) < 2:
        return ""
    tables = (f"<h3>{html.escape(name)}</h3>{_recall_table(rows)}" for name, rows in protocols.items())
    return "<h2>By kind of query</h2>" + "".join(tables)


def _plots(measured: Measured) -> str:
    if not np.isfinite(measured.error_m).any():
        return ""
    plots = (error_curve(measured.top1_error_m, measured.error_m), error_map(measured))
    return '<h2>Where it errs</h2><p class="plots">' + "".join(plot(picture) for picture in plots) + "</p>"


def _queries(measured: Measured, pictures: Pictures, count: int) -> str:
    shown = _spread(measured.error_m, count)
    if not len(shown):
        return ""
    matches = {
        row: ids
        for rows, group in measured.located
        for row, ids in zip(rows, group.found.matches.tile_ids, strict=True)
    }
    ids = measured.encoded.query_ids
    truth = _true_tiles(measured, shown)
    wanted = {
        tile for row in shown for tile in (*matches[row][:_MATCHES], *truth[row][:1]) if tile is not None
    }
    photos, tiles = pictures.load([ids[int(row)].as_py() for row in shown], sorted(wanted))
    rows = []
    for row in shown:
        name = ids[int(row)].as_py()
        error = measured.error_m[row]
        said = "position unknown" if not np.isfinite(error) else f"{error:,.1f} m off"
        figures = [figure(photos.get(name), f"{name}: {said}", _PANORAMA_PX, "photo")]
        figures += [figure(tiles.get(tile), f"true tile {tile}", _TILE_PX, "true") for tile in truth[row][:1]]
        for place, tile in enumerate(matches[row][:_MATCHES], start=1):
            if tile is not None:
                kind = "true" if tile in truth[row] else ""
                figures.append(figure(tiles.get(tile), f"{place}. {tile}", _TILE_PX, kind))
        rows.append(f'<div class="query">{"".join(figures)}</div>')
    note = "<p>From the best to the worst position; true tiles have a green frame.</p>"
    return "<h2>Photos and their matches</h2>" + note + "".join(rows)


def _matches(measured: Measured) -> dict[int, list[str | None]]:
    """Tile ids of each query's matches, best first."""
    return {
        int(row): list(ids)
        for rows, group in measured.located
        for row, ids in zip(rows, group.found.matches.tile_ids, strict=True)
    }


def _spread(error_m: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.int64]:
    """Positions of `count` queries, evenly from the smallest error to the largest."""
    order = np.argsort(np.where(np.isfinite(error_m), error_m, np.inf), kind="stable")
    picked = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(np.int64))
    return order[picked] if len(order) else order


def _true_tiles(measured: Measured, shown: npt.NDArray[np.int64]) -> dict[int, list[str]]:
    truth, ids = measured.retrieval.truth, measured.assessed.gallery.ids
    return {int(row): [ids[int(tile)].as_py() for tile in truth.tile[truth.query == row]] for row in shown}
