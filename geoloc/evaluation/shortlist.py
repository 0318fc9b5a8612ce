"""What codes find and embeddings put in order: ranks of the truth in a re-ranked shortlist."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from geoloc.evaluation.ranks import (
    Blocks,
    IntArray,
    RankCounts,
    Truth,
    float_scores,
    gallery_blocks,
    hamming_distances,
    prefix_bytes,
    query_rows,
)

Gather = Callable[[IntArray], npt.NDArray[np.generic]]
_ROW_BITS = 40  # of a key: (distance, row) in one int64


def nearest_codes(codes: npt.NDArray[np.uint8], gallery: Blocks, *, bits: int | None, keep: int) -> IntArray:
    """Rows int64[Q, <= keep] of the nearest gallery codes, ties in order of rows.

    codes: uint8[Q, B] or [Q, R, B] (the nearest candidate counts); `bits` compares a prefix only.
    """
    width = prefix_bytes(codes.shape[-1], bits)
    best = [np.empty((0,), dtype=np.int64)] * len(codes)
    for start, block in gallery_blocks(gallery):
        rows = np.arange(start, start + len(block), dtype=np.int64)
        for first in range(0, len(codes), query_rows(codes)):
            part = codes[first : first + query_rows(codes), ..., :width]
            keys = hamming_distances(part, block[:, :width]).astype(np.int64) << _ROW_BITS | rows
            for offset, row_keys in enumerate(keys):
                merged = np.concatenate([best[first + offset], row_keys])
                if len(merged) > keep:
                    merged = np.partition(merged, keep - 1)[:keep]
                best[first + offset] = merged
    return (
        np.stack([np.sort(keys) & ((1 << _ROW_BITS) - 1) for keys in best])
        if best
        else np.empty((0, keep), int)
    )


def similarities(queries: npt.NDArray[np.float32], rows: IntArray, gather: Gather) -> npt.NDArray[np.float32]:
    """Cosines float32[Q, K] of queries [Q, D] or [Q, R, D] with their own rows of the gallery; NaN for row -1."""
    out = np.full(rows.shape, np.nan, dtype=np.float32)
    for query, own in enumerate(rows):
        there = own >= 0
        if there.any():
            out[query, there] = float_scores(queries[query : query + 1], gather(own[there]))[0]
    return out


def shortlist_ranks(
    rows: IntArray, similarity: npt.NDArray[np.float32], truth: Truth, by_codes: RankCounts
) -> RankCounts:
    """Ranks of the truth after ordering shortlists int64[Q, K] by similarity float32[Q, K].

    A positive outside its shortlist keeps its rank by codes, behind all of the shortlist.
    """
    queries = len(rows)
    keys = np.sort(truth.query * by_codes.gallery + truth.tile)
    own = np.arange(queries, dtype=np.int64)[:, None] * by_codes.gallery + np.maximum(rows, 0)
    positive = (rows >= 0) & np.isin(own, keys)
    best = np.where(positive, similarity, -np.inf).max(axis=1, initial=-np.inf)[:, None]
    others = (rows >= 0) & ~positive
    listed = positive.any(axis=1)
    size = (rows >= 0).sum(axis=1)
    better = np.where(listed, (others & (similarity > best)).sum(axis=1), np.maximum(by_codes.better, size))
    cut = by_codes.better < size  # tied codes that straddled the end of the shortlist: the order is known
    tied = np.where(listed, (others & (similarity == best)).sum(axis=1), np.where(cut, 0, by_codes.tied))
    positives = np.where(listed, (positive & (similarity == best)).sum(axis=1), by_codes.positives)
    return RankCounts(better, tied, positives, by_codes.gallery)
