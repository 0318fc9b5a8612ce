"""From recall tables and located photos to the result of an evaluation and its findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.evaluation.protocol import sanity_checks
from geoloc.evaluation.protocol.protocols import Protocol
from geoloc.evaluation.ranking.metrics import (
    TOP_PERCENT_RULES,
    TopPercent,
    distance_summary,
    error_summary,
    recall,
    top_percent_k,
)
from geoloc.evaluation.ranking.photos_and_tiles import PhotoSet
from geoloc.evaluation.ranking.rank_all_methods import FLOATS, asymmetric_name, codes_name
from geoloc.evaluation.report import provenance
from geoloc.evaluation.report.located_errors import Coverage, LocatedPhotos
from geoloc.evaluation.report.recall_table import DirectionTables, TableResult
from geoloc.evaluation.report.results import (
    DirectionResult,
    EvaluateResult,
    ProtocolResult,
    Summary,
    TopPercentRow,
    WithinRow,
)
from geoloc.localization.locator import Locator


@dataclass(frozen=True)
class FigureSettings:
    """The K of Recall@K, the rule of "top 1 %", code lengths in bits, and how they differ from the protocol.

    asymmetric: whether codes are compared with the photos' real numbers too.
    """

    ks: tuple[int, ...]
    rule: TopPercent
    lengths: tuple[int, ...]
    rerank: int
    radius_m: float
    asymmetric: bool = True

    def changes(self, protocol: Protocol) -> list[str]:
        """What differs from the protocol, in words."""
        changes = []
        if self.ks != protocol.ks:
            changes.append(f"K is {', '.join(map(str, self.ks))}")
        if self.rule != protocol.top_percent:
            changes.append(f"1 % is {self.rule} instead of {protocol.top_percent}")
        return changes


def build_result(
    directions: Sequence[DirectionTables],
    photos: LocatedPhotos | None,
    coverage: list[Coverage],
    locator: Locator,
    settings: FigureSettings,
    **known: Any,
) -> EvaluateResult:
    """The result from the tables of every direction and the located photos; `known` are its other fields."""
    first, protocol, snapshot = directions[0], directions[0].questions.protocol, locator.snapshot
    figures = [direction_result(tables, settings.ks, settings.rule) for tables in directions]
    near = first.within.get(settings.radius_m)
    return EvaluateResult(
        snapshot_id=snapshot.snapshot_id,
        model_id=snapshot.manifest.model.model_id,
        queries=first.table.queries,
        gallery=first.table.gallery,
        bits=snapshot.bits,
        rerank=settings.rerank,
        top_percent_k=top_percent_k(first.table.gallery, settings.rule),
        protocol=ProtocolResult(
            id=protocol.id,
            name=protocol.name,
            version=protocol.version,
            definition=protocol.definition,
            changed=settings.changes(protocol),
            top_percent=settings.rule,
            directions=figures,
        ),
        table=figures[0].table,
        within_radius_m=settings.radius_m,
        within_radius=near.only(_whole_code_methods(near, settings)).rows(settings.ks, settings.rule)
        if near
        else [],
        coverage=coverage,
        calibrated=locator.calibration is not None,
        recipe=provenance.recipe_of(snapshot.model_uri),
        environment=provenance.environment(),
        **_located_figures(first, photos, settings),
        **known,
    )


def _whole_code_methods(table: TableResult, settings: FigureSettings) -> list[str]:
    """Floats and the whole code: prefixes are compared by the true tile alone."""
    prefixes = [name(bits) for bits in settings.lengths[:-1] for name in (codes_name, asymmetric_name)]
    return [name for name in table.counts if name.split(" + ")[0] not in prefixes]


def _located_figures(
    tables: DirectionTables, photos: LocatedPhotos | None, settings: FigureSettings
) -> dict[str, Any]:
    """Errors of located photos in metres, and figures by kind of query."""
    names = "protocols", "top1_error", "located_error", "located_error_by_protocol"
    figures: dict[str, Any] = {name: {} for name in names}
    if photos is None:
        return figures
    located = tables.questions.queries.located and tables.questions.gallery.located
    every = np.ones(len(photos.error_m), dtype=np.bool_)
    if located:
        figures["top1_error"] = _errors(photos, photos.top1_error_m, every)
        figures["located_error"] = _errors(photos, photos.error_m, every)
    for rows, group in photos.groups:
        chosen = np.zeros(len(every), dtype=np.bool_)
        chosen[rows] = True
        figures["protocols"][group.query_kind] = tables.table.rows(settings.ks, settings.rule, chosen)
        if located:
            errors = _errors(photos, photos.error_m, chosen)
            figures["located_error_by_protocol"][group.query_kind] = errors
    return figures


def _errors(photos: LocatedPhotos, error_m: FloatArray, chosen: BoolArray) -> Summary:
    """Errors of the chosen queries that have a true position."""
    return error_summary(error_m[chosen & np.isfinite(photos.true_lat)])


def direction_result(tables: DirectionTables, ks: Sequence[int], rule: TopPercent) -> DirectionResult:
    """The figures of one direction, recalls in percent."""
    questions, table, multi = tables.questions, tables.table, tables.multi_query
    best = tables.error_m[:, 0] if tables.error_m.shape[1] else np.empty(0)
    known = np.isfinite(questions.queries.lat)
    dropped = 0 if questions.dropped is None else int(questions.dropped.sum())
    return DirectionResult(
        direction=questions.direction,
        queries=table.queries,
        gallery=table.gallery,
        junk=dropped - questions.gallery.removed_count,
        without_match=questions.without_match,
        table=table.rows(ks, rule),
        top_percent=[_top_percent(table, each) for each in TOP_PERCENT_RULES],
        within=[
            WithinRow(
                radius_m=radius,
                queries_with_any=int((near.truth.counts(near.queries) > 0).sum()),
                table=near.rows(ks, rule),
            )
            for radius, near in tables.within.items()
        ],
        best_error=distance_summary(best[known], questions.protocol.radii_m) if tables.within else {},
        multi_query=multi.rows(ks, rule) if multi else [],
        multi_query_queries=multi.queries if multi else 0,
    )


def _top_percent(table: TableResult, rule: TopPercent) -> TopPercentRow:
    k = top_percent_k(table.gallery, rule)
    return TopPercentRow(
        rule=rule, k=k, recall={method: 100.0 * recall(counts, k) for method, counts in table.counts.items()}
    )


def findings(directions: Sequence[DirectionTables], settings: FigureSettings) -> list[str]:
    """Sentences about figures that are suspicious or do not compare with published ones.

    Raises `InputError` for figures that are impossible.
    """
    sentences = []
    protocol, first = directions[0].questions.protocol, f"R@{min(settings.ks)}"
    for tables in directions:
        rows, questions = tables.table.rows(settings.ks, settings.rule), tables.questions
        missing, queries = questions.without_match, len(questions.queries)
        what = {FLOATS: "the float embeddings"}.get(rows[0].method, rows[0].method)
        if len(directions) > 1:
            what = f"{what}, {questions.direction},"
        sentences += sanity_checks.no_better_than_chance(
            rows[0].recall[first], rows[-1].recall[first], queries, what
        )
        sentences += sanity_checks.without_match(missing, queries)
        if questions.direction in protocol.single_match:
            several = int((questions.right.counts(queries) > 1).sum())
            sentences += sanity_checks.several_matches(several, queries, protocol.name)
            if {"AP", "R@1"} <= rows[0].recall.keys() and not missing:
                sanity_checks.check_precision(rows[0].recall["AP"], rows[0].recall["R@1"], rows[0].method)
    if protocol.published_queries is not None:
        sentences += _several_headings(directions[0])
    table, published = directions[0].table, (protocol.published_queries, protocol.published_gallery)
    return sentences + sanity_checks.not_comparable(table.queries, table.gallery, published, protocol.name)


def _several_headings(tables: DirectionTables) -> list[str]:
    """A finding about photos of unknown heading, which a published protocol does not have."""
    questions = tables.questions
    photos = next(items for items in (questions.queries, questions.gallery) if isinstance(items, PhotoSet))
    headings = [(len(rows), queries.embedding.shape[1]) for rows, queries in photos.groups]
    turned = sum(count for count, candidates in headings if candidates > 1)
    most = max(candidates for _, candidates in headings)
    return sanity_checks.turned_photos(turned, len(photos), most, questions.protocol.name)
