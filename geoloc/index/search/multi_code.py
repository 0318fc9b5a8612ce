"""Searches with several codes per query (one per candidate heading).

A tile's distance is the smallest over the codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Float32Array, HalfArray, IntArray
from geoloc.index.format.shard import Shard
from geoloc.index.search import topk
from geoloc.index.search.kernels.weighted_scan import Weights, weighted_distances

Scalar = TypeVar("Scalar", bound=np.generic)


# Scores float32[M] of a query, by its number, with stored embeddings float16[M, D]; the greater the better.
Score = Callable[[int, HalfArray], Float32Array]

_DISTANCE_BITS = 16  # a code has at most 4,096 bits


def without_repeats(rows: IntArray, distances: IntArray) -> tuple[IntArray, IntArray]:
    """(rows, distances) [Q, M] with each row once, at its smallest distance; -1 in the places of the others."""
    keys = np.where(rows < 0, topk.PADDING_KEY, (rows << _DISTANCE_BITS) | np.maximum(distances, 0))
    keys = np.sort(keys, axis=1)
    found = keys >> _DISTANCE_BITS
    again = np.zeros(found.shape, np.bool_)
    again[:, 1:] = found[:, 1:] == found[:, :-1]
    left = ~again & (keys != topk.PADDING_KEY)
    return np.where(left, found, -1), np.where(left, keys & ((1 << _DISTANCE_BITS) - 1), -1)


def scores_of(shards: Sequence[Shard], rows: IntArray, score: Score, first: int = 0) -> Float32Array:
    """Scores float32[Q, M] of queries, numbered from `first`, with their shortlists int64[Q, M]; NaN for padding."""
    scores = np.full(rows.shape, np.nan, np.float32)
    for query, own in enumerate(rows):
        there = np.flatnonzero(own >= 0)
        if len(there):
            scores[query, there] = score(first + query, embeddings_of(shards, own[there]))
    return scores


def distances_of(shards: Sequence[Shard], rows: IntArray, codes: npt.NDArray[np.uint8]) -> IntArray:
    """Hamming distance int64[Q, K] of rows [Q, K] from the nearest of a query's codes uint8[Q, R, B]; -1 pads."""
    distances = np.full(rows.shape, -1, np.int64)
    for query, own in enumerate(rows):
        there = np.flatnonzero(own >= 0)
        if len(there):
            stored = _gathered(shards, own[there], [shard.codes for shard in shards])
            away = np.bitwise_count(stored[:, None] ^ codes[query]).sum(axis=-1, dtype=np.int64)
            distances[query, there] = away.min(axis=1)
    return distances


def weighted_distances_of(shards: Sequence[Shard], rows: IntArray, weights: Weights) -> IntArray:
    """Weighted distances int64[Q, K] of rows [Q, K] from each query's weights int8[Q, bits]; -1 pads."""
    distances = np.full(rows.shape, -1, np.int64)
    for query, own in enumerate(rows):
        there = np.flatnonzero(own >= 0)
        if len(there):
            stored = _gathered(shards, own[there], [shard.codes for shard in shards])
            distances[query, there] = weighted_distances(weights[query : query + 1], stored)[0]
    return distances


def embeddings_of(shards: Sequence[Shard], rows: IntArray) -> HalfArray:
    """Stored embeddings float16[M, D] of rows [M] of the snapshot, which keeps embeddings."""
    stored = [shard.embeddings for shard in shards if shard.embeddings is not None]
    return _gathered(shards, rows, stored)


def _gathered(
    shards: Sequence[Shard], rows: IntArray, stored: Sequence[npt.NDArray[Scalar]]
) -> npt.NDArray[Scalar]:
    """Rows [M] of the snapshot out of each shard's own array, [M, D]."""
    starts = np.array([shard.first_row for shard in shards], dtype=np.int64)
    number = np.searchsorted(starts, rows, side="right") - 1
    out = np.empty((len(rows), stored[0].shape[1]), stored[0].dtype)
    for one in np.unique(number):
        mine = np.flatnonzero(number == one)
        out[mine] = stored[int(one)][rows[mine] - starts[one]]
    return out
