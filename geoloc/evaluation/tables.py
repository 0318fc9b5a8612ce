"""Retrieval side by side: floats, codes of several lengths and re-ranked codes against chance, on one gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from geoloc.evaluation.gallery import Gallery
from geoloc.evaluation.metrics import TopPercent, chance_table, recall_table
from geoloc.evaluation.ranks import IntArray, RankCounts, Truth, float_ranks, hamming_ranks
from geoloc.evaluation.shortlist import nearest_codes, shortlist_ranks, similarities
from geoloc.index.matches import Matches

FLOATS = "floats"
CHANCE = "chance"


class RecallRow(BaseModel):
    """One method: recalls in percent, ties at their expected rank; `optimistic` puts the truth first among ties."""

    model_config = ConfigDict(frozen=True)

    method: str
    recall: dict[str, float]
    optimistic: dict[str, float]


@dataclass(frozen=True)
class Retrieval:
    """Ranks of the truth by method, in the order of the table's rows."""

    counts: dict[str, RankCounts]
    truth: Truth
    queries: int
    gallery: int

    def rows(
        self, ks: Sequence[int], rule: TopPercent, chosen: npt.NDArray[np.bool_] | None = None
    ) -> list[RecallRow]:
        """The table over all queries or the `chosen` ones (bool[Q]); its last row is chance."""
        every = np.ones(self.queries, dtype=np.bool_) if chosen is None else chosen
        rows = []
        for method, counts in self.counts.items():
            part = counts.only(every)
            table = recall_table(part, ks, rule)
            rows.append(
                RecallRow(method=method, recall=table, optimistic=recall_table(part, ks, rule, "optimistic"))
            )
        chance = chance_table(self.truth.counts(self.queries)[every], self.gallery, ks, rule)
        return [*rows, RecallRow(method=CHANCE, recall=chance, optimistic=chance)]


def codes_name(bits: int) -> str:
    """Name of the row of codes alone."""
    return f"codes {bits}"


def rerank_name(bits: int, rerank: int) -> str:
    """Name of the row of re-ranked codes."""
    return f"codes {bits} + re-rank {rerank}"


def retrieve(
    gallery: Gallery,
    embedding: npt.NDArray[np.float32],
    code: npt.NDArray[np.uint8],
    truth: Truth,
    *,
    lengths: Sequence[int],
    rerank: int,
    served: Matches | None = None,
) -> dict[str, RankCounts]:
    """Ranks of the truth by float embeddings and, for each code length in bits, by codes and re-ranked codes.

    embedding: float32[Q, R, D], code: uint8[Q, R, B]; with R > 1 heading candidates the best of each tile counts.
    Embeddings come first; an index without them has only rows of codes. `served` are the matches that a search
    with this re-ranking gives: they are what the row of the whole code is made of.
    """
    counts: dict[str, RankCounts] = {}
    floats = next(gallery.embeddings(), None) is not None
    if floats:
        counts[FLOATS] = float_ranks(embedding, gallery.embeddings, truth)
    for bits in lengths:
        by_codes = hamming_ranks(code, gallery.codes, truth, bits=bits)
        counts[codes_name(bits)] = by_codes
        if floats and rerank:
            if served is not None and bits == gallery.bits:
                rows, scores = served.rows, served.similarity
            else:
                rows = nearest_codes(code, gallery.codes, bits=bits, keep=rerank)
                scores = similarities(embedding, rows, gallery.embeddings_of)
            counts[rerank_name(bits, rerank)] = shortlist_ranks(rows, scores, truth, by_codes)
    return counts


def merged(groups: Sequence[tuple[IntArray, dict[str, RankCounts]]], queries: int) -> dict[str, RankCounts]:
    """The ranks of groups of queries (their positions int64[q] and counts) in one array a method."""
    out: dict[str, RankCounts] = {}
    for positions, counts in groups:
        for method, part in counts.items():
            whole = out.get(method)
            if whole is None:
                zeros = [np.zeros(queries, dtype=np.int64) for _ in range(3)]
                whole = out[method] = RankCounts(zeros[0], zeros[1], zeros[2], part.gallery)
            whole.better[positions] = part.better
            whole.tied[positions] = part.tied
            whole.positives[positions] = part.positives
    return out
