"""The demo's report: stages, figures, and pictures of the posted photos."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from geoloc.core import part_table, storage
from geoloc.demo.pictures import ground_picture, polar
from geoloc.demo.result import EVALUATIONS, DemoResult
from geoloc.demo.service_check import Post
from geoloc.demo.stages import DemoRun
from geoloc.demo.text import errors, post_cells, post_summary
from geoloc.evaluation.report.html import figure, page, table
from geoloc.evaluation.report.position_map import MapPositions, position_map
from geoloc.evaluation.report.report import Pictures
from geoloc.evaluation.report.results import promise_line
from geoloc.localization.fix import PROMISE
from geoloc.stages.evaluate import EvaluateResult

_SHOWN = 12
_MATCHES = 5
_PANORAMA_PX = (384, 96)
_TILE_PX = (120, 120)


def render(result: DemoResult, demo: DemoRun) -> str:
    """The page as HTML with everything inside."""
    return page(
        "geoloc demo",
        [
            "<h1>geoloc: from imagery to a served location</h1>" + _intro(result, demo),
            "<h2>Stages</h2>"
            + table(["stage", "seconds"], ([k, f"{v:.1f}"] for k, v in result.seconds.items())),
            f"<h2>What is located, and recall of the true tile in percent</h2><p>{PROMISE}</p>",
            *(_recall(name, meaning, result.evaluations[name]) for name, meaning in EVALUATIONS.items()),
            _posts(result.posts),
            _map(result.posts, demo),
            _gallery(result.posts, demo),
            result.imagery.page() if result.imagery is not None else "",
        ],
    )


def _intro(result: DemoResult, demo: DemoRun) -> str:
    best = result.evaluations["gallery"]
    return (
        f"<p>The model <code>{html.escape(best.model_id)}</code> was trained on one district of a procedural city "
        f"(seed {demo.sizes.seed}) and never saw the district that is measured here. Codes have {best.bits} bits. "
        f"Snapshot <code>{html.escape(best.snapshot_id)}</code>.</p>"
    )


def _recall(name: str, meaning: str, result: EvaluateResult) -> str:
    names = list(result.table[0].recall)
    rows = [[row.method, *(f"{row.recall[key]:.1f}" for key in names)] for row in result.table]
    return (
        f"<h3>{result.queries:,} photos, {result.gallery:,} tiles: {html.escape(meaning)}</h3>"
        + table(["", *names], rows)
        + f"<p>Best tile's centre: {errors(result.top1_error)}. Position: {errors(result.located_error)}. "
        + "".join(f"{html.escape(promise_line(row))} " for row in result.coverage)
        + f'<a href="evaluation/{name}/report.html">More</a></p>'
    )


def _posts(posts: Sequence[Post]) -> str:
    if not posts:
        return ""
    head = ["photo", "truth", "answer", "error m", "radius m", "sure %", "ms"]
    rows = table(head, map(post_cells, posts))
    return f"<h2>Photos posted to the service</h2><p>{html.escape(post_summary(posts))}</p>{rows}"


def _map(posts: Sequence[Post], demo: DemoRun) -> str:
    if not posts:
        return ""
    true_lat, true_lon, lat, lon, error_m = np.array(
        [(post.true_lat, post.true_lon, post.lat, post.lon, post.error_m) for post in posts], np.float64
    ).T
    positions = MapPositions(true_lat, true_lon, lat, lon, error_m, names=[post.query_id for post in posts])
    return "<h2>Where they are</h2><p>The held-out district from above.</p>" + position_map(
        positions, ground_picture(demo.at("city", "test", "imagery"))
    )


def _gallery(posts: Sequence[Post], demo: DemoRun) -> str:
    """Each posted photo beside its true tile, that tile as a polar image, and its matches."""
    shown = posts[:_SHOWN]
    if not shown:
        return ""
    truth = _true_tiles(demo, [post.query_id for post in shown])
    wanted = sorted({tile for post in shown for tile in (*post.matches[:_MATCHES], *truth[post.query_id])})
    pictures = Pictures(
        storage.join(demo.tables("test"), "queries"), storage.join(demo.tables("gallery"), "tiles")
    )
    photos, tiles = pictures.load([post.query_id for post in shown], wanted)
    rows = []
    for post in shown:
        outcome = "not located" if post.error_m is None else f"{post.error_m:.1f} m off"
        figures = [figure(photos.get(post.query_id), f"{post.query_id}: {outcome}", _PANORAMA_PX, "photo")]
        for tile in truth[post.query_id][:1]:
            image = tiles.get(tile)
            figures.append(figure(polar(image) if image else None, "its tile, polar", _PANORAMA_PX, "true"))
            figures.append(figure(image, f"true tile {tile}", _TILE_PX, "true"))
        for place, tile in enumerate(post.matches[:_MATCHES], start=1):
            kind = "true" if tile in truth[post.query_id] else ""
            figures.append(figure(tiles.get(tile), f"{place}. {tile}", _TILE_PX, kind))
        rows.append(f'<div class="query">{"".join(figures)}</div>')
    return "<h2>Photos and their matches</h2><p>True tiles have a green frame.</p>" + "".join(rows)


def _true_tiles(demo: DemoRun, query_ids: Sequence[str]) -> dict[str, list[str]]:
    pairs = part_table.read(
        storage.join(demo.tables("test"), "pairs"), kind="pairs", columns=["query_id", "tile_id", "relation"]
    )
    found: dict[str, list[str]] = {query_id: [] for query_id in query_ids}
    for row in pairs.to_pylist():
        if row["query_id"] in found and row["relation"] == "positive":
            found[row["query_id"]].append(row["tile_id"])
    return found
