"""Queries of several codes each, a photo at some headings: a tile is as far as the nearest of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from geoloc.index import topk
from geoloc.index.shard import Shard

IntArray = npt.NDArray[np.int64]
Half = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]

# Scores float32[M] of a query, by its number, with stored embeddings float16[M, D]; the greater the better.
Score = Callable[[int, Half], Floats]

_DISTANCE_BITS = 16  # a code has at most 4,096 bits


def once_each(rows: IntArray, distances: IntArray) -> tuple[IntArray, IntArray]:
    """(rows, distances) [Q, M] with each row once, at its smallest distance; -1 in the places of the others."""
    keys = np.where(rows < 0, topk.PADDING_KEY, (rows << _DISTANCE_BITS) | np.maximum(distances, 0))
    keys = np.sort(keys, axis=1)
    found = keys >> _DISTANCE_BITS
    again = np.zeros(found.shape, np.bool_)
    again[:, 1:] = found[:, 1:] == found[:, :-1]
    left = ~again & (keys != topk.PADDING_KEY)
    return np.where(left, found, -1), np.where(left, keys & ((1 << _DISTANCE_BITS) - 1), -1)


def scores_of(shards: Sequence[Shard], rows: IntArray, score: Score) -> Floats:
    """Scores float32[Q, M] of each query with the tiles of its own shortlist, rows int64[Q, M]; NaN for padding."""
    scores = np.full(rows.shape, np.nan, np.float32)
    for query, own in enumerate(rows):
        there = np.flatnonzero(own >= 0)
        if len(there):
            scores[query, there] = score(query, embeddings_of(shards, own[there]))
    return scores


def embeddings_of(shards: Sequence[Shard], rows: IntArray) -> Half:
    """Stored embeddings float16[M, D] of rows [M] of the snapshot."""
    starts = np.array([shard.first_row for shard in shards], dtype=np.int64)
    number = np.searchsorted(starts, rows, side="right") - 1
    pieces, places = [np.empty((0, 0), np.float16)], []
    for one in np.unique(number):
        mine, stored = np.flatnonzero(number == one), shards[int(one)].embeddings
        assert stored is not None
        pieces.append(stored[rows[mine] - starts[one]])
        places.append(mine)
    out = np.empty((len(rows), pieces[-1].shape[1]), np.float16)
    for mine, piece in zip(places, pieces[1:], strict=True):
        out[mine] = piece
    return out
