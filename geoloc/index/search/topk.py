"""The first k of many by (score, row): scores and rows packed into one sortable integer.

A packed key holds the score in its high bits and the row in its low bits, so equal scores are ordered by row and
no two keys are equal: partition and sort then give the one right answer, ties included. Rows of a shard are in
the order of their tile ids, so within a shard this is the order (score, tile_id).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Float32Array, Int32Array, IntArray

ROW_BITS = 32
_ROW_MASK = (1 << ROW_BITS) - 1
PADDING_KEY = np.iinfo(np.int64).max
PADDING_SCORE = PADDING_KEY >> ROW_BITS


def pack(scores: npt.NDArray[np.integer], rows: npt.NDArray[np.integer]) -> IntArray:
    """Keys int64[...] of scores [...] (signed 32-bit, smaller is better) and rows [...] (below 2**32; -1 pads)."""
    keys = (scores.astype(np.int64) << ROW_BITS) | rows.astype(np.int64)
    return np.where(rows < 0, PADDING_KEY, keys)


def unpack(keys: IntArray) -> tuple[IntArray, IntArray]:
    """(scores, rows) int64[...] of keys int64[...]; padding has row -1 and score `PADDING_SCORE`."""
    return keys >> ROW_BITS, np.where(keys == PADDING_KEY, -1, keys & _ROW_MASK)


def smallest(keys: IntArray, k: int) -> IntArray:
    """The k smallest keys of each row [Q, M], sorted: [Q, k], padded where M < k."""
    queries, width = keys.shape
    if width > k:
        keys = np.partition(keys, k - 1, axis=1)[:, :k] if k else keys[:, :0]
    elif width < k:
        keys = np.concatenate([keys, np.full((queries, k - width), PADDING_KEY, np.int64)], axis=1)
    return np.sort(keys, axis=1)


def descending(similarity: Float32Array) -> Int32Array:
    """Scores int32[...] of float32[...]: the greater the float, the smaller the score; equal floats score equally."""
    raw = (similarity + np.float32(0)).view(np.int32)  # adding zero makes -0.0 the same as 0.0
    return np.asarray(~(raw ^ ((raw >> 31) & np.int32(0x7FFFFFFF))), dtype=np.int32)
