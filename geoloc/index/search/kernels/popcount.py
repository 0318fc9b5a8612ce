"""The compiled scan: XOR and population count on whole vector registers, compiled by numba on the user's machine.

A block of codes that fits the first-level cache is transposed into columns of 64-bit words, `GROUP` rows side by
side. Every query of the batch is then compared with it. A register holds a word of eight rows, so these cost one XOR,
one count and one add, without sums over lanes. For one or two queries the transposition does not pay: they read the
rows directly, and the lanes of a row are added pairwise.

Per query a histogram of the distances kept so far gives the k-th smallest distance. Rows at that distance or farther
are dropped with one comparison per register. Rows come in ascending order, so of equal distances the first rows stay.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Codes, Int32Array, IntArray
from geoloc.index.search.kernels.llvm_ops import (
    GROUP,
    LANES,
    ROW_WORDS,
    load_byte,
    load_word,
    nearer_of_columns,
    nearer_of_rows,
    transpose_rows,
)

# Codes that are transposed at once: half of a first-level data cache of 32 KiB.
_BLOCK_BYTES = 16_384
_FEW_QUERIES = 2


class _Candidates(NamedTuple):
    """The rows kept so far of Q queries.

    limit: int64[Q], only nearer rows are taken; within: int64[Q], candidates not farther than the limit; seen:
    int32[Q, bits + 2], how many were taken at each distance; filled: int64[Q]; distances, rows: [Q, room].
    """

    limit: IntArray
    within: IntArray
    seen: Int32Array
    filled: IntArray
    distances: npt.NDArray[np.uint16]
    rows: npt.NDArray[np.uint32]


@numba.njit(cache=True, nogil=True)
def _transpose(address: int, width: int, rows: int, columns: npt.NDArray[np.uint64]) -> None:
    """Turn up to `GROUP` rows of `width` bytes into columns uint64[words, GROUP], zeros where none are."""
    words = columns.shape[0]
    if rows == GROUP and width == 8 * words and words in ROW_WORDS:
        _transpose_fast(words, address, columns.ctypes.data)
        return
    columns[:] = 0
    for row in range(rows):
        start = address + row * width
        for word in range(width // 8):
            columns[word, row] = load_word(start + 8 * word)
        for byte in range(width // 8 * 8, width):
            columns[words - 1, row] |= np.uint64(load_byte(start + byte)) << np.uint64(8 * (byte % 8))


@numba.njit(cache=True, nogil=True)
def _transpose_fast(words: int, address: int, out: int) -> None:
    if words == 1:
        transpose_rows(1, address, out)
    elif words == 2:
        transpose_rows(2, address, out)
    elif words == 4:
        transpose_rows(4, address, out)
    elif words == 8:
        transpose_rows(8, address, out)
    else:
        transpose_rows(16, address, out)


@numba.njit(cache=True, nogil=True)
def _nearer_of_rows(words: int, rows: int, query: int, limit: int, out: int) -> Any:
    if words == 1:
        return nearer_of_rows(1, rows, query, limit, out)
    if words == 2:
        return nearer_of_rows(2, rows, query, limit, out)
    if words == 4:
        return nearer_of_rows(4, rows, query, limit, out)
    if words == 8:
        return nearer_of_rows(8, rows, query, limit, out)
    return nearer_of_rows(16, rows, query, limit, out)


@numba.njit(cache=True, nogil=True)
def _compact(query: int, k: int, best: Any) -> None:
    """Keep the first k candidates of a query by (distance, row), in the order of rows."""
    distances, rows = best.distances, best.rows
    farthest = best.limit[query]
    ties = k - (best.within[query] - best.seen[query, farthest])
    kept = 0
    for place in range(best.filled[query]):
        distance = distances[query, place]
        if distance > farthest or (distance == farthest and ties <= 0):
            continue
        if distance == farthest:
            ties -= 1
        distances[query, kept] = distance
        rows[query, kept] = rows[query, place]
        kept += 1
    best.filled[query] = kept


@numba.njit(cache=True, nogil=True)
def _offer(query: int, k: int, found: Any, first: int, last: int, out: Any, live: int, best: Any) -> None:
    """Add the rows of a group whose bit is set in `found` to the candidates, if they are live and near enough."""
    limit, within, seen, filled, distances, rows = best
    row = first
    while found:
        if found & np.uint64(1) and row < last and (live == 0 or load_byte(live + row)):
            distance = np.int64(out[row - first])
            if distance < limit[query]:
                if filled[query] == distances.shape[1]:
                    _compact(query, k, best)
                distances[query, filled[query]] = distance
                rows[query, filled[query]] = row
                filled[query] += 1
                seen[query, distance] += 1
                within[query] += 1
                # The limit is the smallest distance that k candidates do not exceed.
                while within[query] - seen[query, limit[query]] >= k:
                    within[query] -= seen[query, limit[query]]
                    limit[query] -= 1
        found >>= np.uint64(1)
        row += 1


@numba.njit(cache=True, nogil=True)
def _enough_words(limit: int, words: int) -> int:
    """After how many words an unrelated code is most likely farther than the limit.

    Half of the bits of unrelated codes differ; half a word more makes it very likely.
    """
    return min(words, (2 * limit + 64) // 64 + 1)


@numba.njit(cache=True, nogil=True)
def _scan_columns(
    codes: int, count: int, width: int, start: int, queries: Any, k: int, live: int, best: Any
) -> None:
    """Offer all rows from `start` on to all queries, a transposed block at a time."""
    words = queries.shape[1]
    groups = max(1, _BLOCK_BYTES // (GROUP * words * 8))
    block = np.empty((groups, words, GROUP), np.uint64)
    out = np.empty(GROUP, np.uint64)
    for first in range(start, count, groups * GROUP):
        filled = min(groups, (count - first + GROUP - 1) // GROUP)
        for group in range(filled):
            row = first + group * GROUP
            _transpose(codes + row * width, width, min(GROUP, count - row), block[group])
        for query in range(queries.shape[0]):
            code = queries.ctypes.data + query * words * 8
            enough = _enough_words(best.limit[query], words)
            for group in range(filled):
                columns = block.ctypes.data + group * words * GROUP * 8
                found = nearer_of_columns(enough, words, columns, code, best.limit[query], out.ctypes.data)
                if found:
                    _offer(query, k, found, first + group * GROUP, count, out, live, best)


@numba.njit(cache=True, nogil=True)
def _scan_rows(codes: int, count: int, width: int, queries: Any, k: int, live: int, best: Any) -> Any:
    """Offer all whole groups of rows to all queries without transposing; returns the first row of the remainder."""
    words = width // 8
    repeated = np.empty((queries.shape[0], max(words, LANES)), np.uint64)
    for lane in range(repeated.shape[1]):
        repeated[:, lane] = queries[:, lane % words]
    out = np.empty(GROUP, np.uint64)
    for first in range(0, count - GROUP + 1, GROUP):
        for query in range(queries.shape[0]):
            code = repeated[query].ctypes.data
            found = _nearer_of_rows(words, codes + first * width, code, best.limit[query], out.ctypes.data)
            if found:
                _offer(query, k, found, first, count, out, live, best)
    return count // GROUP * GROUP


@numba.njit(cache=True, nogil=True)
def _in_order(k: int, bits: int, best: Any, sorted_distances: Any, sorted_rows: Any) -> None:
    """Write each query's first k candidates by (distance, row)."""
    filled, distances, rows = best.filled, best.distances, best.rows
    for query in range(len(filled)):
        _compact(query, k, best)
        places = np.zeros(bits + 2, np.int64)
        for place in range(filled[query]):
            places[distances[query, place] + 1] += 1
        places = np.cumsum(places)
        for place in range(filled[query]):
            distance = distances[query, place]
            sorted_distances[query, places[distance]] = distance
            sorted_rows[query, places[distance]] = rows[query, place]
            places[distance] += 1


@numba.njit(cache=True, nogil=True)
def _nearest(
    codes: int, count: int, width: int, queries: Any, k: int, live: int, distances: Any, rows: Any
) -> None:
    """The whole scan in a single call: every call from Python costs as much as comparing a thousand codes."""
    words, number, bits = queries.shape[1], queries.shape[0], width * 8
    room = min(k + min(max(k, 64), 8192), count)
    best = _Candidates(
        np.full(number, bits + 1, np.int64),
        np.zeros(number, np.int64),
        np.zeros((number, bits + 2), np.int32),
        np.zeros(number, np.int64),
        np.empty((number, room), np.uint16),
        np.empty((number, room), np.uint32),
    )
    start = 0
    if number <= _FEW_QUERIES and width == 8 * words and words in ROW_WORDS:
        start = _scan_rows(codes, count, width, queries, k, live, best)
    _scan_columns(codes, count, width, start, queries, k, live, best)
    _in_order(k, bits, best, distances, rows)


class PopcountKernel:
    """The compiled scan on the calling thread; it releases the interpreter lock."""

    name = "popcount"

    def nearest(
        self, codes: Codes, queries: Codes, k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`: codes uint8[M, B], queries uint8[Q, B], results int64[Q, k]."""
        count, width = codes.shape
        words = -(-width // 8)
        padded = np.zeros((len(queries), words * 8), np.uint8)
        padded[:, :width] = queries
        padded_queries = padded.view(np.uint64)
        # Addresses: mapped arrays are another type to the compiler than arrays in memory.
        codes = np.ascontiguousarray(codes)
        live = None if live is None else np.ascontiguousarray(live, dtype=np.bool_)
        marks, here = 0 if live is None else live.ctypes.data, (codes.ctypes.data, count, width)
        distances, rows = (np.full((len(queries), k), -1, np.int64) for _ in range(2))
        _nearest(*here, padded_queries, k, marks, distances, rows)
        return distances, rows
