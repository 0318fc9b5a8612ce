"""The result of an evaluation, as metrics.json holds it: figures, and their protocol, data and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.errors import InputError
from geoloc.evaluation.ranking.metrics import TopPercent
from geoloc.evaluation.ranking.route_accuracy import RouteFigures
from geoloc.evaluation.report.located_errors import Coverage
from geoloc.evaluation.report.recall_table import RecallRow
from geoloc.localization.fix import PROMISE

FORMAT_VERSION = 3
Summary = dict[str, float | int | None]


class TopPercentRow(BaseModel):
    """Recall in percent by one of the published meanings of "top 1 %": the first `k` answers."""

    model_config = ConfigDict(frozen=True)

    rule: TopPercent
    k: int
    recall: dict[str, float] = Field(description="By method, ties at their expected rank.")


class WithinRow(BaseModel):
    """Recall@K of any item within `radius_m` of the query."""

    model_config = ConfigDict(frozen=True)

    radius_m: float
    queries_with_any: int
    table: list[RecallRow]


class DirectionResult(BaseModel):
    """The figures of one direction; what needs metres is empty where there are no coordinates."""

    model_config = ConfigDict(frozen=True)

    direction: str
    queries: int
    gallery: int
    junk: int
    without_match: int
    table: list[RecallRow]
    top_percent: list[TopPercentRow]
    within: list[WithinRow]
    best_error: Summary
    multi_query: list[RecallRow]
    multi_query_queries: int


class ProtocolResult(BaseModel):
    """The protocol that was applied, in words, and its figures."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    version: int
    definition: str
    changed: list[str] = Field(description="Settings of the user's that are not the protocol's.")
    top_percent: TopPercent
    directions: list[DirectionResult]


class EvaluateResult(BaseModel):
    """All figures of an evaluation; recalls in percent, lengths in metres.

    table, within_radius and protocols (kinds of query) are of the protocol's first direction; errors and coverage
    are of located photos, empty where there are no coordinates. Everything else is in `protocol`.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    format_version: int = FORMAT_VERSION
    fingerprint: str
    snapshot_id: str
    model_id: str
    output: str
    queries: int
    quarantined: int = 0
    gallery: int
    bits: int
    rerank: int
    top_percent_k: int
    protocol: ProtocolResult
    table: list[RecallRow]
    within_radius_m: float
    within_radius: list[RecallRow]
    protocols: dict[str, list[RecallRow]]
    top1_error: Summary
    located_error: Summary
    located_error_by_protocol: dict[str, Summary]
    coverage: list[Coverage] = Field(default_factory=list)
    calibrated: bool
    routes: RouteFigures | None = None
    findings: list[str]
    data: dict[str, Any]
    recipe: dict[str, Any]
    environment: dict[str, Any]
    files: tuple[str, ...] = ("metrics.json", "report.html")
    reused: bool = False

    def recall(self, method: str, measure: str = "R@1") -> float:
        """A figure of the main table, such as ("floats", "R@1"); `InputError` for names it does not have."""
        for row in self.table:
            if row.method == method and measure in row.recall:
                return row.recall[measure]
        known = ", ".join(row.method for row in self.table)
        raise InputError(
            f"The table has no {measure} of {method!r}; its rows are {known}.", reason="no_such_figure"
        )

    def text(self) -> str:
        """The text that the command line prints."""
        return evaluation_text(self)


def evaluation_text(result: EvaluateResult) -> str:
    """Tables side by side, with the three treatments of ties, and every finding."""
    blocks = [f"Protocol {result.protocol.id}. {result.protocol.definition}"]
    if result.protocol.changed:
        blocks.append("Not as the protocol says: " + "; ".join(result.protocol.changed) + ".")
    for figures in result.protocol.directions:
        blocks.append(f"{figures.queries:,} queries, {figures.gallery:,} gallery items, {figures.direction}:")
        blocks.append(aligned(tie_table(figures.table)))
        if figures.multi_query:
            blocks.append(f"{figures.multi_query_queries:,} places as one query each:")
            blocks.append(aligned(tie_table(figures.multi_query)))
        if figures.best_error:
            shown = (
                f"{name} {value:.1f}"
                for name, value in figures.best_error.items()
                if value is not None and name != "queries"
            )
            blocks.append("Best answer's distance: " + ", ".join(shown) + ".")
    blocks += [f"Finding: {sentence}" for sentence in result.findings]
    if result.coverage:
        blocks.append(PROMISE)
        blocks += [promise_line(row) for row in result.coverage]
    blocks.append("Everything: " + ", ".join(f"{result.output}/{name}" for name in result.files))
    return "\n".join(blocks)


def promise_line(row: Coverage) -> str:
    """How well the promise of a kind of query holds, in a line."""
    parts = [f"{row.located_percent:.1f} % located"]
    if row.kept_percent is not None:
        parts.append(f"{row.kept_percent:.1f} % of those right at the first tile")
    if row.inside_percent is not None:
        parts.append(
            f"{row.inside_percent:.1f} % of the located within radius_m (median {row.median_radius_m:.1f} m)"
        )
    if row.false_accept_percent is not None:
        parts.append(f"{row.false_accept_percent:.1f} % located with their surroundings hidden")
    return f"{row.protocol}, {row.queries:,} photos: " + ", ".join(parts) + "."


def tie_table(table: Sequence[RecallRow]) -> list[list[str]]:
    """Rows of text: expected figures of every method, with pessimistic and optimistic ones where ties matter."""
    names = list(dict.fromkeys(name for row in table for name in row.recall))
    lines = [["%", *names]]
    for row in table:
        lines.append([row.method, *(_figure(row.recall, name) for name in names)])
        if row.pessimistic and row.pessimistic != row.optimistic:
            lines.append(["  ties lose", *(_figure(row.pessimistic, name) for name in names)])
            lines.append(["  ties win", *(_figure(row.optimistic, name) for name in names)])
    return lines


def _figure(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.2f}" if name in figures else ""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join(["", row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)
