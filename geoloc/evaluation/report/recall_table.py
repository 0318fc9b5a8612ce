"""Recall tables: floats, codes of several lengths and re-ranked codes against chance, on one gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.evaluation.protocol.questions import Questions
from geoloc.evaluation.ranking.average_precision import average_precision
from geoloc.evaluation.ranking.metrics import (
    TIES,
    Ties,
    TopPercent,
    hit_probability,
    recall,
    recall_table,
)
from geoloc.evaluation.ranking.rank_all_methods import Methods, RankedList, rank_all_methods
from geoloc.evaluation.ranking.ranks import PositiveRanks, RankCounts, TruthTable, chance_counts
from geoloc.evaluation.ranking.reranking import Reranking
from geoloc.index.search.matches import Matches

CHANCE = "chance"
PRECISION = "AP"
HIT_RATE = "hit rate"
KEPT_ANSWERS = 10  # of each query, for distances and pictures


class RecallRow(BaseModel):
    """One method: recalls in percent, ties at their expected rank.

    `optimistic` puts the truth first among ties, as counting strictly better items does, `pessimistic` last.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    recall: dict[str, float]
    optimistic: dict[str, float]
    pessimistic: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class TableResult:
    """Ranks of the right items by method, in the order of the table's rows.

    extras: further figures by method and name, float64[Q] in 0..1 for each treatment of ties.
    ignored: pairs that the hit rate takes out of the ranking.
    """

    counts: dict[str, RankCounts]
    truth: TruthTable
    queries: int
    gallery: int
    extras: dict[str, dict[str, dict[Ties, FloatArray]]] = field(default_factory=dict)
    ignored: TruthTable | None = None

    def rows(self, ks: Sequence[int], rule: TopPercent, chosen: BoolArray | None = None) -> list[RecallRow]:
        """The table over all queries or the `chosen` ones (bool[Q]); its last row is chance."""
        every = np.ones(self.queries, dtype=np.bool_) if chosen is None else chosen
        rows = [
            _row(method, counts.only(every), self.extras.get(method, {}), every, ks, rule)
            for method, counts in self.counts.items()
        ]
        return [*rows, self._chance(every, ks, rule)]

    def only(self, methods: Sequence[str]) -> TableResult:
        """The same ranks of some of the methods, without further figures."""
        counts = {name: self.counts[name] for name in methods}
        return TableResult(counts, self.truth, self.queries, self.gallery)

    def _chance(self, every: BoolArray, ks: Sequence[int], rule: TopPercent) -> RecallRow:
        positives = self.truth.counts(self.queries)[every]
        counts = chance_counts(positives, self.gallery)
        table = recall_table(counts, ks, rule)
        known = next(iter(self.extras.values()), {})
        if PRECISION in known:
            table[PRECISION] = _percent(average_precision(_all_tied(positives, self.gallery)))
        if HIT_RATE in known and self.ignored is not None:
            fewer = np.maximum(counts.tied - self.ignored.counts(self.queries)[every], 0)
            hits = hit_probability(RankCounts(counts.better, fewer, positives, self.gallery), 1)
            table[HIT_RATE] = _percent(hits)
        return RecallRow(method=CHANCE, recall=table, optimistic=table, pessimistic=table)


def recall_curve(counts: RankCounts, most: int) -> tuple[IntArray, list[float]]:
    """(K int64[most], Recall@K in percent) for K from 1 to `most`, ties at their expected rank."""
    ks = np.unique(np.geomspace(1, max(1, most), 40).round().astype(np.int64))
    return ks, [100.0 * recall(counts, int(k)) for k in ks]


def _row(
    method: str,
    counts: RankCounts,
    extras: dict[str, dict[Ties, FloatArray]],
    every: BoolArray,
    ks: Sequence[int],
    rule: TopPercent,
) -> RecallRow:
    figures: dict[Ties, dict[str, float]] = {}
    for ties in TIES:
        more = {name: _percent(values[ties][every]) for name, values in extras.items()}
        figures[ties] = recall_table(counts, ks, rule, ties) | more
    return RecallRow(
        method=method,
        recall=figures["expected"],
        optimistic=figures["optimistic"],
        pessimistic=figures["pessimistic"],
    )


def _percent(values: FloatArray) -> float:
    return 100.0 * float(values.mean()) if len(values) else 0.0


def _all_tied(positives: IntArray, gallery: int) -> PositiveRanks:
    """A ranking in which all items tie, for queries with `positives` int64[Q] right ones."""
    query = np.repeat(np.arange(len(positives)), positives)
    tied = np.maximum(gallery - positives, 0)[query]
    score = np.zeros(len(query), dtype=np.float32)
    return PositiveRanks(query, np.zeros_like(tied), tied, score, len(positives))


@dataclass(frozen=True)
class DirectionTables:
    """The recall tables of one direction: by the protocol's truth, by each radius, and by places as one query.

    best_rows: int64[Q, k], gallery positions of the best items by the first method, -1 where there are fewer;
    error_m: float64[Q, k], metres from the query to them, NaN where unknown.
    """

    questions: Questions
    table: TableResult
    within: dict[float, TableResult]
    multi_query: TableResult | None
    best_rows: IntArray
    error_m: FloatArray


def direction_tables(
    questions: Questions,
    *,
    lengths: Sequence[int],
    rerank: int,
    served: Sequence[Matches] | None = None,
    rerankings: Sequence[Reranking] = (),
    asymmetric: bool = True,
) -> DirectionTables:
    """Rank the gallery by all methods and put the ranks into tables; `served` as in `rank_all_methods`.

    lengths: code lengths in bits, ascending; rerank: codes to re-rank, 0 for none. rerankings: orders of the nearest
    floats by their neighbours. asymmetric: compare the queries' real numbers with codes, where they have them.
    """
    protocol, queries, gallery = questions.protocol, questions.queries, questions.gallery
    methods = Methods(
        tuple(lengths),
        rerank,
        components=protocol.components,
        precision=protocol.precision,
        keep=min(KEPT_ANSWERS, len(gallery)),
        rerankings=rerankings,
        asymmetric=asymmetric,
    )
    lists = _ranked(questions, methods, served)
    radius_lists = len(questions.to_rank()) - len(questions.within)
    within = {
        radius: TableResult(_counts(lists, number), truth, len(queries), questions.gallery_size)
        for number, (radius, truth) in enumerate(questions.within.items(), start=radius_lists)
    }
    places = questions.of_places() if protocol.multi_query else None
    multi_query = None
    if places is not None:
        multi_query = _table(places, _ranked(places, Methods((), 0, precision=protocol.precision)))
    best = next(iter(lists.values())).rows
    return DirectionTables(
        questions, _table(questions, lists), within, multi_query, best, _errors_of_best(best, questions)
    )


def _ranked(
    questions: Questions, methods: Methods, served: Sequence[Matches] | None = None
) -> dict[str, RankedList]:
    return rank_all_methods(
        questions.queries,
        questions.gallery,
        questions.to_rank(),
        methods,
        dropped=questions.dropped,
        served=served,
    )


def _counts(lists: dict[str, RankedList], number: int) -> dict[str, RankCounts]:
    return {method: ranked.counts[number] for method, ranked in lists.items()}


def _table(questions: Questions, lists: dict[str, RankedList]) -> TableResult:
    """The table by the protocol's truth, with average precision and hit rate where the protocol has them."""
    extras = {}
    for method, ranked in lists.items():
        figures = {PRECISION: ranked.precision} if ranked.precision else {}
        if questions.semi is not None:
            figures[HIT_RATE] = {ties: hit_probability(ranked.counts[1], 1, ties) for ties in TIES}
        if figures:
            extras[method] = figures
    counts, size = _counts(lists, 0), questions.gallery_size
    return TableResult(counts, questions.right, len(questions.queries), size, extras, questions.semi)


def _errors_of_best(rows: IntArray, questions: Questions) -> FloatArray:
    """Metres float64[Q, k] from each query to the items of its rows int64[Q, k], NaN where unknown or row -1."""
    queries, gallery = questions.queries, questions.gallery
    lat, lon = gallery.lat[np.maximum(rows, 0)], gallery.lon[np.maximum(rows, 0)]
    true_lat = np.broadcast_to(queries.lat[:, None], rows.shape)
    true_lon = np.broadcast_to(queries.lon[:, None], rows.shape)
    known = (rows >= 0) & np.isfinite(lat) & np.isfinite(true_lat)
    out = np.full(rows.shape, np.nan)
    out[known] = geodesy.distance_m(true_lat[known], true_lon[known], lat[known], lon[known])
    return out
