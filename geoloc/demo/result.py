"""What a demo measured, as data and as the text that ends it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from geoloc.demo.posts import Post
from geoloc.pipelines.evaluate import EvaluateResult

EVALUATIONS = {
    "small": "photos within 5 m of a tile's centre, their own tiles only",
    "gallery": "the same photos, with distractors",
    "anywhere": "photos anywhere in a tile, with distractors",
}
"""Evaluations that are shown, and what is measured in each."""
_SHOWN_POSTS = 12


class DemoResult(BaseModel):
    """All figures of one run."""

    model_config = ConfigDict(frozen=True)

    output: str
    seconds: dict[str, float]
    peak_memory_bytes: int
    evaluations: dict[str, EvaluateResult]
    posts: list[Post]
    served_index: str

    def text(self) -> str:
        """The tables that the demo ends with."""
        blocks = [post_lines(self.posts)] if self.posts else []
        for name, meaning in EVALUATIONS.items():
            blocks.append(recall_lines(self.evaluations[name], meaning))
        total = sum(self.seconds.values())
        blocks.append(
            f"{total / 60:.1f} minutes of stages, at most {self.peak_memory_bytes / 1e9:.1f} GB of memory in all "
            f"processes.\nReport: {self.output}/report.html\nKeep serving: geoloc serve --index {self.served_index}"
        )
        return "\n\n".join(blocks)


def post_lines(posts: Sequence[Post]) -> str:
    """Truth, answer and error of some posted photos and the median of all."""
    head = ("photo", "truth", "answer", "error m", "radius m", "ms")
    rows = [post_cells(post) for post in posts[:_SHOWN_POSTS]]
    return "Photos posted to the service:\n" + aligned([head, *rows]) + "\n" + post_summary(posts)


def post_cells(post: Post) -> tuple[str, ...]:
    """One row: photo, truth, answer, error, radius, time."""
    answer = "not located" if post.lat is None else f"{post.lat:.5f} {post.lon:.5f}"
    return (
        post.query_id,
        f"{post.true_lat:.5f} {post.true_lon:.5f}",
        answer if post.error_m is not None else f"not located ({post.reason})",
        "-" if post.error_m is None else f"{post.error_m:.1f}",
        "-" if post.radius_m is None else f"{post.radius_m:.0f}",
        f"{post.milliseconds:.0f}",
    )


def post_summary(posts: Sequence[Post]) -> str:
    """One sentence about all posted photos; what was not located counts as infinitely far."""
    errors = np.array([np.inf if post.error_m is None else post.error_m for post in posts])
    median = float(np.median(errors))
    shown = f"{median:.1f} m" if np.isfinite(median) else "none, most were not located"
    return (
        f"{len(posts)} photos: {int(np.isfinite(errors).sum())} located, {int((errors <= 10).sum())} within 10 m; "
        f"median error {shown}."
    )


def recall_lines(result: EvaluateResult, meaning: str) -> str:
    """Recall in percent by method, and the errors in metres, of one evaluation."""
    names = list(result.table[0].recall)
    rows = [("recall %", *names)] + [
        (row.method, *(f"{row.recall[name]:.1f}" for name in names)) for row in result.table
    ]
    return (
        f"{result.queries:,} photos against {result.gallery:,} tiles ({meaning}):\n{aligned(rows)}\n"
        f"Best tile's centre: {errors(result.top1_error)}. Located: {errors(result.located_error)}."
    )


def errors(summary: dict[str, float | int | None]) -> str:
    """Median and shares of an error summary in words."""
    median = summary["median_m"]
    shown = "no median (most not located)" if median is None else f"median {median:.1f} m"
    return f"{shown}, {summary['within_10m']:.0f} % within 10 m, {summary['within_25m']:.0f} % within 25 m"


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows as text in columns: the first to the left, the others to the right."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
