"""Retrieval side by side: floats, codes of several lengths and re-ranked codes against chance, on one gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.evaluation.ranking.average_precision import average_precision
from geoloc.evaluation.ranking.metrics import TIES, Ties, TopPercent, hit_probability, recall_table
from geoloc.evaluation.ranking.ranks import PositiveRanks, RankCounts, Truth

FLOATS = "floats"
CHANCE = "chance"
PRECISION = "AP"
HIT_RATE = "hit rate"


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
class Retrieval:
    """Ranks of the truth by method, in the order of the table's rows.

    extras: further figures by method and name, float64[Q] in 0..1 for each treatment of ties.
    ignored: pairs that the hit rate takes out of the ranking.
    """

    counts: dict[str, RankCounts]
    truth: Truth
    queries: int
    gallery: int
    extras: dict[str, dict[str, dict[Ties, FloatArray]]] = field(default_factory=dict)
    ignored: Truth | None = None

    def rows(self, ks: Sequence[int], rule: TopPercent, chosen: BoolArray | None = None) -> list[RecallRow]:
        """The table over all queries or the `chosen` ones (bool[Q]); its last row is chance."""
        every = np.ones(self.queries, dtype=np.bool_) if chosen is None else chosen
        rows = []
        for method, counts in self.counts.items():
            part = counts.only(every)
            extras = self.extras.get(method, {})
            rows.append(_row(method, part, extras, every, ks, rule))
        return [*rows, self._chance(every, ks, rule)]

    def only(self, methods: Sequence[str]) -> Retrieval:
        """Some of the methods."""
        counts = {name: self.counts[name] for name in methods}
        extras = {name: self.extras[name] for name in methods if name in self.extras}
        return Retrieval(counts, self.truth, self.queries, self.gallery, extras, self.ignored)

    def _chance(self, every: BoolArray, ks: Sequence[int], rule: TopPercent) -> RecallRow:
        positives = self.truth.counts(self.queries)[every]
        others = np.maximum(self.gallery - positives, 0)
        level = RankCounts(np.zeros_like(positives), others, positives, self.gallery)
        table = recall_table(level, ks, rule)
        known = next(iter(self.extras.values()), {})
        if PRECISION in known:
            table[PRECISION] = _percent(average_precision(_all_level(positives, self.gallery)))
        if HIT_RATE in known and self.ignored is not None:
            fewer = np.maximum(others - self.ignored.counts(self.queries)[every], 0)
            counts = RankCounts(np.zeros_like(positives), fewer, positives, self.gallery)
            table[HIT_RATE] = _percent(hit_probability(counts, 1))
        return RecallRow(method=CHANCE, recall=table, optimistic=table, pessimistic=table)


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


def _all_level(positives: IntArray, gallery: int) -> PositiveRanks:
    """A ranking in which everything ties."""
    query = np.repeat(np.arange(len(positives)), positives)
    tied = np.maximum(gallery - positives, 0)[query]
    score = np.zeros(len(query), dtype=np.float32)
    return PositiveRanks(query, np.zeros_like(tied), tied, score, len(positives))


def codes_name(bits: int) -> str:
    """Name of the row of codes alone."""
    return f"codes {bits}"


def rerank_name(bits: int, rerank: int) -> str:
    """Name of the row of re-ranked codes."""
    return f"codes {bits} + re-rank {rerank}"


def projected_name(components: int) -> str:
    """Name of the row of embeddings reduced to principal components."""
    return f"floats, {components} components"
