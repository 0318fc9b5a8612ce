"""Hamming distances of every query to every code of a block, for rankings that need all of them.

The search itself keeps only the nearest codes (popcount.py).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Codes
from geoloc.index.search.kernels.llvm_ops import count_ones

Words = npt.NDArray[np.uint64]


def code_words(codes: Codes, bits: int | None = None) -> Words:
    """The first `bits` bits of codes uint8[..., B] as words uint64[..., ceil(bits / 64)], padded with zeros.

    bits: a multiple of 8 up to 8 B; None takes the whole code.
    """
    width = codes.shape[-1] if bits is None else bits // 8
    padded = np.zeros((*codes.shape[:-1], -(-width // 8) * 8), np.uint8)
    padded[..., :width] = codes[..., :width]
    words: Words = padded.view(np.uint64)
    return words


def hamming_distances(queries: Words, codes: Words) -> npt.NDArray[np.uint16]:
    """Distances uint16[Q, N] in bits of queries uint64[Q, W] to codes uint64[N, W], both from `code_words`."""
    distances = np.empty((len(queries), len(codes)), np.uint16)
    _fill(np.ascontiguousarray(queries), np.ascontiguousarray(codes), distances)
    return distances


@numba.njit(cache=True, nogil=True)
def _fill(queries: Any, codes: Any, distances: Any) -> None:  # pragma: no cover - compiled
    for query in range(queries.shape[0]):
        for row in range(codes.shape[0]):
            different = np.uint64(0)
            for word in range(queries.shape[1]):
                different += count_ones(queries[query, word] ^ codes[row, word])
            distances[query, row] = different
