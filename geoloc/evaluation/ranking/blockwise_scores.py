"""One scan of all scores of queries against a gallery, block by block: no Q x N matrix is ever made.

A scan counts how many gallery items score above each threshold of a query, and keeps the query's k best items.
The ranks, ties and precisions of `ranks` and `average_precision` are arithmetic on those counts.

Memory, beside the queries and the gallery's files: a block of the gallery in float32, one of the queries, one
block of scores (`SCORES_BYTES` at most), 20 bytes for each query and kept item, 12 for each threshold. None of it
grows with Q x N: 100,000 queries of 512 dimensions against 1,000,000 items with k = 100 need about 0.5 GB, of
which 0.2 GB are the queries; their scores would be 400 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numba import njit

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, IntArray
from geoloc.core.errors import InputError
from geoloc.geometry.azimuth import column_energy, cosine_of_part
from geoloc.index.search.kernels.hamming import code_words, hamming_distances
from geoloc.index.search.kernels.weighted_scan import Weights, similarities, weighted_distances

Blocks = Callable[[], Iterable[AnyArray]]

SCORES_BYTES = 8 * 2**20
FLOAT_TIE = 1e-6  # cosines nearer than float32 rounding are equal: identical tiles must not beat each other
_GALLERY_BLOCK = 8192  # vectors, heading candidates counted one by one
_PAIR_BLOCK = 2048


class Similarity(Protocol):
    """How alike a query and a gallery item are: float32, higher is better; scores within `tie` are equal."""

    tie: float

    def prepare(self, rows: AnyArray, *, query: bool) -> AnyArray:
        """Rows [n, R, D] as `scores` and `pairwise` take them, [n, R, E]."""
        ...

    def scores(self, queries: AnyArray, block: AnyArray) -> Float32Array:
        """Scores float32[q, n] of flat queries [q, E] with a flat block [n, E]."""
        ...

    def pairwise(self, left: AnyArray, right: AnyArray) -> Float32Array:
        """Scores float32[p, R, S] of query p's candidates [p, R, E] with those of its item [p, S, E]."""
        ...


class Cosine:
    """Dot products of embeddings of length 1."""

    tie = FLOAT_TIE

    def prepare(self, rows: AnyArray, *, query: bool) -> AnyArray:
        """Rows float32[n, R, D]."""
        return np.ascontiguousarray(rows, dtype=np.float32)

    def scores(self, queries: AnyArray, block: AnyArray) -> Float32Array:
        """Scores float32[q, n], see `Similarity`."""
        return np.asarray(queries @ block.T, dtype=np.float32)

    def pairwise(self, left: AnyArray, right: AnyArray) -> Float32Array:
        """Scores float32[p, R, S], see `Similarity`."""
        return np.asarray(left @ right.swapaxes(1, 2), dtype=np.float32)


class PartCosine:
    """Cosines of the part of embeddings that a photo of limited view shows (`geometry.azimuth`).

    Queries come as [n, R, D + columns]: unit vectors of that part, zero elsewhere, and which columns it has (1 or 0).
    """

    tie = FLOAT_TIE

    def __init__(self, columns: int) -> None:
        self._columns = columns

    def prepare(self, rows: AnyArray, *, query: bool) -> AnyArray:
        """Rows float32[n, R, D + columns]; gallery items get the energy of each of their columns."""
        wide = np.ascontiguousarray(rows, dtype=np.float32)
        if query:
            return wide
        return np.concatenate([wide, column_energy(wide, self._columns)], axis=-1)

    def scores(self, queries: AnyArray, block: AnyArray) -> Float32Array:
        """Scores float32[q, n], see `Similarity`."""
        return self._of(queries, block.T)

    def pairwise(self, left: AnyArray, right: AnyArray) -> Float32Array:
        """Scores float32[p, R, S], see `Similarity`."""
        return self._of(left, right.swapaxes(1, 2))

    def _of(self, queries: AnyArray, items: AnyArray) -> Float32Array:
        parted = queries.shape[-1] - self._columns
        product = queries[..., :parted] @ items[..., :parted, :]
        energy = queries[..., parted:] @ items[..., parted:, :]
        return np.asarray(cosine_of_part(product, np.ones(1, np.float32), energy), dtype=np.float32)


class Hamming:
    """Minus the Hamming distance of codes; `bits` compares that many first bits only."""

    tie = 0.0

    def __init__(self, code_bytes: int, bits: int | None = None) -> None:
        self._bits = 8 * prefix_bytes(code_bytes, bits)

    def prepare(self, rows: AnyArray, *, query: bool) -> AnyArray:
        """Codes uint8[n, R, B] as words uint64[n, R, ceil(bits / 64)], padded with zeros on both sides alike."""
        return code_words(rows, self._bits)

    def scores(self, queries: AnyArray, block: AnyArray) -> Float32Array:
        """Scores float32[q, n], see `Similarity`."""
        return np.negative(hamming_distances(queries, block), dtype=np.float32)

    def pairwise(self, left: AnyArray, right: AnyArray) -> Float32Array:
        """Scores float32[p, R, S], see `Similarity`."""
        differing = np.bitwise_count(left[:, :, None] ^ right[:, None])
        return np.asarray(-differing.sum(axis=-1, dtype=np.uint32).astype(np.float32))


class Asymmetric:
    """A query's real numbers against bits, as the search compares them (`weighted_scan`); `bits` as in `Hamming`."""

    tie = 0.0

    def __init__(self, code_bytes: int, bits: int | None = None) -> None:
        self._bytes = prefix_bytes(code_bytes, bits)

    def prepare(self, rows: AnyArray, *, query: bool) -> AnyArray:
        """Weights int8[n, R, bits] of queries, codes uint8[n, R, bits / 8] of the gallery: their first bits."""
        return np.ascontiguousarray(rows[..., : 8 * self._bytes if query else self._bytes])

    def scores(self, queries: AnyArray, block: AnyArray) -> Float32Array:
        """Scores float32[q, n], see `Similarity`."""
        weights: Weights = queries
        return similarities(weighted_distances(weights, block), weights)

    def pairwise(self, left: AnyArray, right: AnyArray) -> Float32Array:
        """Scores float32[p, R, S], see `Similarity`."""
        signs = 2 * np.unpackbits(right, axis=-1).astype(np.float32) - 1
        product = (left.astype(np.float32) @ signs.swapaxes(1, 2)).astype(np.int64)  # whole numbers, exact
        total = np.abs(left.astype(np.int64)).sum(axis=-1, keepdims=True)
        return similarities((total - product) // 2, left)


def prefix_bytes(code_bytes: int, bits: int | None) -> int:
    """Bytes of the first `bits` bits of a code (None: all of it); `InputError` when it has no such prefix."""
    if bits is None:
        return code_bytes
    if bits % 8 or not 8 <= bits <= 8 * code_bytes:
        raise InputError(f"bits is {bits}; give a multiple of 8 from 8 to {8 * code_bytes}.")
    return bits // 8


@dataclass(frozen=True)
class Thresholds:
    """Scores to count above: values float32[E] of query int64[E], in any order; NaN and infinity count nothing."""

    query: IntArray
    value: Float32Array


Pairs = tuple[IntArray, IntArray]  # query, gallery row
NO_THRESHOLDS = Thresholds(np.empty(0, np.int64), np.empty(0, np.float32))
NO_PAIRS: Pairs = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True)
class ScanResult:
    """Counts and best items of one scan.

    above: int64[E], items of the gallery that score above each threshold.
    pair_scores: float32[P], the scores of the given pairs in this scan.
    rows, scores: int64[Q, k] and float32[Q, k], the best items, ties in order of rows; -1 and -inf where the
    gallery has fewer.
    gallery: items scanned, dropped ones included.
    """

    above: IntArray
    pair_scores: Float32Array
    rows: IntArray
    scores: Float32Array
    gallery: int

    @classmethod
    def of_nothing(cls, queries: int, k: int, thresholds: Thresholds, pairs: Pairs) -> ScanResult:
        """The result of scanning no item, to be filled."""
        return cls(
            np.zeros(len(thresholds.query), np.int64),
            np.full(len(pairs[0]), -np.inf, np.float32),
            np.full((queries, k), -1, np.int64),
            np.full((queries, k), -np.inf, np.float32),
            0,
        )


def candidates(rows: AnyArray) -> AnyArray:
    """Vectors [n, D] or [n, R, D] as [n, R, D]."""
    return rows if rows.ndim == 3 else rows[:, None]


def gallery_blocks(gallery: Blocks) -> Iterator[tuple[int, AnyArray]]:
    """(row of its first item, block [n, R, D]) of the gallery in blocks of bounded size."""
    start = 0
    for block in gallery():
        rows = candidates(block)
        step = max(1, _GALLERY_BLOCK // rows.shape[1])
        for first in range(0, len(rows), step):
            piece = rows[first : first + step]
            yield start, piece
            start += len(piece)


def pair_scores(
    queries: AnyArray, gallery: Blocks, similarity: Similarity, query: IntArray, item: IntArray
) -> Float32Array:
    """Scores float32[P] of pairs of a query and a gallery row, `item` in ascending order."""
    prepared = similarity.prepare(candidates(queries), query=True)
    out = np.full(len(query), -np.inf, dtype=np.float32)
    for start, raw in gallery_blocks(gallery):
        first, last = np.searchsorted(item, [start, start + len(raw)])
        if first == last:
            continue
        block = similarity.prepare(raw, query=False)
        step = max(1, _PAIR_BLOCK // prepared.shape[1])
        for low in range(first, last, step):
            part = slice(low, min(low + step, last))
            values = similarity.pairwise(prepared[query[part]], block[item[part] - start])
            out[part] = values.max(axis=(1, 2))
    return out


def scan(
    queries: AnyArray,
    gallery: Blocks,
    similarity: Similarity,
    *,
    thresholds: Thresholds = NO_THRESHOLDS,
    pairs: Pairs = NO_PAIRS,
    dropped: BoolArray | None = None,
    k: int = 0,
) -> ScanResult:
    """Scan the scores of queries [Q, D] or [Q, R, D] with all blocks [n, D] or [n, R, D] of a gallery once.

    With several heading candidates on either side the best pair counts. `pairs` (query, gallery row), int64[P] each
    in ascending order of rows, get their scores. `dropped` (bool[N]) are items that no query counts.
    """
    prepared = similarity.prepare(candidates(queries), query=True)
    count, heads = prepared.shape[:2]
    order, values, starts = _sorted_thresholds(thresholds, count)
    bins = np.zeros(len(values), dtype=np.int64)
    found = ScanResult.of_nothing(count, k, thresholds, pairs)
    pair_query, pair_row = pairs
    size = 0
    for start, raw in gallery_blocks(gallery):
        size = start + len(raw)
        block = similarity.prepare(raw, query=False)
        inside = slice(*np.searchsorted(pair_row, [start, size]))
        by_query = inside.start + np.argsort(pair_query[inside], kind="stable")
        out = None if dropped is None else np.flatnonzero(dropped[start:size])
        step = max(1, SCORES_BYTES // (4 * heads * block.shape[0] * block.shape[1]))
        for first in range(0, count, step):
            part = slice(first, min(first + step, count))
            scores = _block_scores(similarity, prepared[part], block)
            pairs_here = by_query[slice(*np.searchsorted(pair_query[by_query], [part.start, part.stop]))]
            found.pair_scores[pairs_here] = scores[
                pair_query[pairs_here] - first, pair_row[pairs_here] - start
            ]
            if out is not None and len(out):
                scores[:, out] = np.nan
            _visit(scores, first, start, values, starts, bins, found.scores, found.rows)
    found.above[order] = _counts_above(bins, starts)
    return replace(found, gallery=size)


class Scanner(Protocol):
    """A gallery that can be compared with queries: in this process, or shard by shard elsewhere (`shard_scores`)."""

    def pair_scores(
        self, queries: AnyArray, similarity: Similarity, query: IntArray, item: IntArray
    ) -> Float32Array:
        """Scores float32[P], see `pair_scores`."""
        ...

    def scan(
        self,
        queries: AnyArray,
        similarity: Similarity,
        *,
        thresholds: Thresholds = NO_THRESHOLDS,
        pairs: Pairs = NO_PAIRS,
        dropped: BoolArray | None = None,
        k: int = 0,
    ) -> ScanResult:
        """Counts and best items of queries [Q, D] or [Q, R, D], see `scan`."""
        ...


@dataclass(frozen=True)
class BlockScanner:
    """Compares queries with a gallery's blocks in this process."""

    gallery: Blocks

    def pair_scores(
        self, queries: AnyArray, similarity: Similarity, query: IntArray, item: IntArray
    ) -> Float32Array:
        """Scores float32[P], see `pair_scores`."""
        return pair_scores(queries, self.gallery, similarity, query, item)

    def scan(self, queries: AnyArray, similarity: Similarity, **wanted: Any) -> ScanResult:
        """Counts and best items of queries [Q, D] or [Q, R, D], see `scan`."""
        return scan(queries, self.gallery, similarity, **wanted)


def _sorted_thresholds(thresholds: Thresholds, queries: int) -> tuple[IntArray, Float32Array, IntArray]:
    """(original position of each threshold, values ascending within each query, start of each query int64[Q + 1])."""
    value = np.where(np.isfinite(thresholds.value), thresholds.value, np.inf).astype(np.float32)
    order = np.lexsort((value, thresholds.query))
    starts = np.searchsorted(thresholds.query[order], np.arange(queries + 1)).astype(np.int64)
    return order.astype(np.int64), value[order], starts


def _block_scores(similarity: Similarity, queries: AnyArray, block: AnyArray) -> Float32Array:
    """Scores float32[q, n] of queries [q, R, E] with a block [n, S, E]: the best pair of candidates."""
    flat = similarity.scores(
        queries.reshape(-1, queries.shape[-1]),
        block.reshape(-1, block.shape[-1]),
    )
    if queries.shape[1] == block.shape[1] == 1:
        return flat
    shape = (queries.shape[0], queries.shape[1], block.shape[0], block.shape[1])
    return np.ascontiguousarray(flat.reshape(shape).max(axis=(1, 3)))


@njit(cache=True, nogil=True)
def _visit(  # pragma: no cover - compiled
    scores: Float32Array,
    first: int,
    start: int,
    thresholds: Float32Array,
    starts: IntArray,
    bins: IntArray,
    best: Float32Array,
    rows: IntArray,
) -> None:
    """Put a block of scores [q, n] into the bins of its queries and among their best; NaN is passed over.

    Bin j of a query counts the scores above its threshold j and not above threshold j + 1.
    """
    k = best.shape[1]
    for line in range(scores.shape[0]):
        query = first + line
        low, high = starts[query], starts[query + 1]
        floor = thresholds[low] if high > low else np.float32(np.inf)
        limit = best[query, k - 1] if k else np.float32(np.inf)
        for column in range(scores.shape[1]):
            value = scores[line, column]
            if value > floor:
                left, right = low, high
                while right - left > 1:
                    middle = (left + right) >> 1
                    if value > thresholds[middle]:
                        left = middle
                    else:
                        right = middle
                bins[left] += 1
            if value > limit:
                place = k - 1
                while place > 0 and value > best[query, place - 1]:
                    best[query, place] = best[query, place - 1]
                    rows[query, place] = rows[query, place - 1]
                    place -= 1
                best[query, place] = value
                rows[query, place] = start + column
                limit = best[query, k - 1]


def _counts_above(bins: IntArray, starts: IntArray) -> IntArray:
    """Counts above each threshold from counts between them: sums from the right within each query."""
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(bins)])
    ends = np.repeat(starts[1:], np.diff(starts))
    return np.asarray(total[ends] - total[:-1], dtype=np.int64)
