"""Figures of evaluations and posted photos as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoloc.demo.service_check import Post
from geoloc.evaluation.report.results import aligned, promise_line
from geoloc.stages.evaluate import EvaluateResult

_SHOWN_POSTS = 12


def post_lines(posts: Sequence[Post]) -> str:
    """Truth, answer and error of some posted photos and the median of all."""
    head = ("photo", "truth", "answer", "error m", "radius m", "sure %", "ms")
    rows = [post_cells(post) for post in posts[:_SHOWN_POSTS]]
    return "Photos posted to the service:\n" + aligned([head, *rows]) + "\n" + post_summary(posts)


def post_cells(post: Post) -> tuple[str, ...]:
    """One row: photo, truth, answer, error, radius, confidence, time."""
    answer = "not located" if post.lat is None else f"{post.lat:.5f} {post.lon:.5f}"
    return (
        post.query_id,
        f"{post.true_lat:.5f} {post.true_lon:.5f}",
        answer if post.error_m is not None else f"not located ({post.reason})",
        "-" if post.error_m is None else f"{post.error_m:.1f}",
        "-" if post.radius_m is None else f"{post.radius_m:.0f}",
        "-" if post.confidence is None else f"{100 * post.confidence:.0f}",
        f"{post.milliseconds:.0f}",
    )


def post_summary(posts: Sequence[Post]) -> str:
    """One sentence about all posted photos; what was not located counts as infinitely far."""
    errors = np.array([np.inf if post.error_m is None else post.error_m for post in posts])
    median = float(np.median(errors))
    shown = f"the median error is {median:.1f} m" if np.isfinite(median) else "half or more were not located"
    return (
        f"{len(posts)} photos: {int(np.isfinite(errors).sum())} located, {int((errors <= 10).sum())} within 10 m; "
        f"{shown}."
    )


def recall_lines(result: EvaluateResult, meaning: str) -> str:
    """Recall in percent by method, and the errors in metres, of one evaluation."""
    names = list(result.table[0].recall)
    rows = [("recall %", *names)] + [
        (row.method, *(f"{row.recall[name]:.1f}" for name in names)) for row in result.table
    ]
    return (
        f"{result.queries:,} photos against {result.gallery:,} tiles ({meaning}):\n{aligned(rows)}\n"
        f"Best tile's centre: {errors(result.top1_error)}. Position: {errors(result.located_error)}."
        + "".join(f"\n{promise_line(row)}" for row in result.coverage)
    )


def errors(summary: dict[str, float | int | None]) -> str:
    """Median and shares of an error summary in words."""
    median = summary["median_m"]
    shown = "no median (most not located)" if median is None else f"median {median:.1f} m"
    return f"{shown}, {summary['within_10m']:.0f} % within 10 m, {summary['within_25m']:.0f} % within 25 m"
