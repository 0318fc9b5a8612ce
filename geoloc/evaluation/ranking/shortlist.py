"""Ranks of the right items after a shortlist by codes is ordered by embeddings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, IntArray
from geoloc.evaluation.ranking.blockwise_scores import Cosine, Similarity, candidates
from geoloc.evaluation.ranking.ranks import Question, RankCounts

Gather = Callable[[IntArray], AnyArray]


def similarities(
    queries: Float32Array, rows: IntArray, gather: Gather, similarity: Similarity | None = None
) -> Float32Array:
    """Cosines float32[Q, K] of queries [Q, D] or [Q, R, D] with gallery rows int64[Q, K] each; NaN for row -1.

    `gather` gives the embeddings [k, D] or [k, S, D] of rows int64[k].
    """
    out = np.full(rows.shape, np.nan, dtype=np.float32)
    similarity, heads = similarity or Cosine(), candidates(queries)
    for query, shortlist in enumerate(rows):
        there = shortlist >= 0
        if there.any():
            items = similarity.prepare(candidates(gather(shortlist[there])), query=False)
            scores = similarity.scores(heads[query], items.reshape(-1, items.shape[-1]))
            # Candidates of the query and of each item: the best pair of them counts.
            out[query, there] = scores.max(axis=0).reshape(len(items), -1).max(axis=1)
    return out


def shortlist_ranks(
    rows: IntArray, similarity: Float32Array, question: Question, by_codes: RankCounts
) -> RankCounts:
    """Ranks of the truth after ordering shortlists int64[Q, K] by similarity float32[Q, K].

    A positive outside its shortlist keeps its rank by codes, behind all of the shortlist. Ignored pairs do not
    count.
    """
    positive = _listed(rows, question.positives.query, question.positives.tile, by_codes.gallery)
    ignored = _listed(rows, question.ignored.query, question.ignored.tile, by_codes.gallery)
    positive &= ~ignored
    best = np.where(positive, similarity, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    others = (rows >= 0) & ~positive & ~ignored
    listed = positive.any(axis=1)
    size = ((rows >= 0) & ~ignored).sum(axis=1)
    better = np.where(listed, (others & (similarity > best)).sum(axis=1), np.maximum(by_codes.better, size))
    cut = by_codes.better < size  # tied codes that straddled the end of the shortlist: the order is known
    tied = np.where(listed, (others & (similarity == best)).sum(axis=1), np.where(cut, 0, by_codes.tied))
    positives = np.where(listed, (positive & (similarity == best)).sum(axis=1), by_codes.positives)
    return RankCounts(better, tied, positives, by_codes.gallery)


def _listed(rows: IntArray, query: IntArray, tile: IntArray, gallery: int) -> BoolArray:
    """Which entries of the shortlists are among the pairs, bool[Q, K]."""
    keys = np.sort(query * gallery + tile)
    entries = np.arange(len(rows), dtype=np.int64)[:, None] * gallery + np.maximum(rows, 0)
    return np.asarray((rows >= 0) & np.isin(entries, keys))
