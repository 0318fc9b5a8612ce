"""Ranks of the truth in a gallery, counted block by block: no Q x N matrix, ties kept apart from wins.

For each query the best positive is found, then the other tiles that score better and those that score the same.
Other positives never count against a query. What a tie is worth is decided by `metrics`, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geoloc.errors import InputError

IntArray = npt.NDArray[np.int64]
Blocks = Callable[[], Iterable[npt.NDArray[np.generic]]]
Scores = Callable[[npt.NDArray[np.generic], npt.NDArray[np.generic]], npt.NDArray[np.float32]]

FLOAT_TIE = 1e-6  # cosines nearer than float32 rounding are equal: identical tiles must not beat each other
_QUERY_BLOCK = 128  # with the gallery's block: 4 MiB of scores at a time
_GALLERY_BLOCK = 8192


@dataclass(frozen=True)
class Truth:
    """Which gallery tiles are right for which query: parallel arrays of positions, int64[P]."""

    query: IntArray
    tile: IntArray

    def counts(self, queries: int) -> IntArray:
        """Positives of each of the queries, int64[Q]."""
        return np.bincount(self.query, minlength=queries).astype(np.int64)


@dataclass(frozen=True)
class RankCounts:
    """Where the truth stands for Q queries, int64[Q] each.

    Other tiles scoring `better` than the best positive and `tied` with it, and how many positives share that
    best score (`positives`). Queries without a positive have positives 0 and better N.
    """

    better: IntArray
    tied: IntArray
    positives: IntArray
    gallery: int

    def only(self, rows: npt.NDArray[np.bool_]) -> RankCounts:
        """The counts of some of the queries (bool[Q])."""
        return RankCounts(self.better[rows], self.tied[rows], self.positives[rows], self.gallery)


def float_ranks(queries: npt.NDArray[np.float32], gallery: Blocks, truth: Truth) -> RankCounts:
    """Ranks by cosine of embeddings, all of length 1: gallery blocks float[n, D], queries float32[Q, D].

    Queries float32[Q, R, D] have R candidates each, of which the best counts for every tile.
    """
    return _ranks(queries, gallery, truth, float_scores, FLOAT_TIE)


def float_scores(queries: npt.NDArray[np.generic], block: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Cosines float32[q, n] of queries [q, D] or [q, R, D] (the best candidate's) with a block [n, D]."""
    flat = queries.reshape(-1, queries.shape[-1]).astype(np.float32)
    products = flat @ block.astype(np.float32).T
    return np.asarray(products.reshape(len(queries), -1, len(block)).max(axis=1), dtype=np.float32)


def hamming_distances(
    queries: npt.NDArray[np.generic], block: npt.NDArray[np.generic]
) -> npt.NDArray[np.uint16]:
    """Distances uint16[q, n] of codes [q, B] or [q, R, B] (the nearest candidate's) to a block [n, B]."""
    left, right = _words(queries.reshape(-1, queries.shape[-1])), _words(block)
    distance = np.zeros((len(left), len(right)), dtype=np.uint16)
    for word in range(left.shape[1]):
        distance += np.bitwise_count(left[:, None, word] ^ right[None, :, word])
    return np.asarray(distance.reshape(len(queries), -1, len(block)).min(axis=1))


def hamming_ranks(
    queries: npt.NDArray[np.uint8], gallery: Blocks, truth: Truth, *, bits: int | None = None
) -> RankCounts:
    """Ranks by Hamming distance: blocks uint8[n, B], codes uint8[Q, B] or [Q, R, B] with R candidates each.

    `bits` compares that many first bits only; `InputError` unless it is a multiple of 8 that the codes have.
    """
    width = prefix_bytes(queries.shape[-1], bits)

    def scores(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        return -hamming_distances(a[..., :width], b[:, :width]).astype(np.float32)

    return _ranks(queries, gallery, truth, scores, 0.0)


def prefix_bytes(code_bytes: int, bits: int | None) -> int:
    """Bytes of the first `bits` bits of a code (None: all of it); `InputError` when it has no such prefix."""
    if bits is None:
        return code_bytes
    if bits % 8 or not 8 <= bits <= 8 * code_bytes:
        raise InputError(f"bits is {bits}; give a multiple of 8 from 8 to {8 * code_bytes}.")
    return bits // 8


def query_rows(queries: npt.NDArray[np.generic]) -> int:
    """How many queries to compare with a block of the gallery at a time."""
    return max(1, _QUERY_BLOCK // (queries.shape[1] if queries.ndim == 3 else 1))


def _words(codes: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
    """Codes uint8[N, B] as uint64[N, ceil(B / 8)], padded with zeros (equal on both sides, so free)."""
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded.view(np.uint64)


def gallery_blocks(gallery: Blocks) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
    """(row of its first tile, block) of the gallery in blocks of bounded size."""
    start = 0
    for block in gallery():
        for first in range(0, len(block), _GALLERY_BLOCK):
            piece = block[first : first + _GALLERY_BLOCK]
            yield start, piece
            start += len(piece)


def _ranks(
    queries: npt.NDArray[np.generic], gallery: Blocks, truth: Truth, scores: Scores, tie: float
) -> RankCounts:
    order = np.argsort(truth.tile, kind="stable")
    truth = Truth(truth.query[order], truth.tile[order])
    best = np.full(len(queries), -np.inf, dtype=np.float32)
    of_truth = np.full(len(truth.query), -np.inf, dtype=np.float32)
    size = 0
    for start, block in gallery_blocks(gallery):
        size = start + len(block)
        inside = slice(*np.searchsorted(truth.tile, [start, size]))
        for row in range(inside.start, inside.stop, query_rows(queries)):
            part = slice(row, min(row + query_rows(queries), inside.stop))
            left, right = queries[truth.query[part]], block[truth.tile[part] - start]
            of_truth[part] = np.diagonal(scores(left, right))
    np.maximum.at(best, truth.query, of_truth)
    tied_positives = of_truth >= best[truth.query] - tie
    positives = np.bincount(truth.query[tied_positives], minlength=len(queries)).astype(np.int64)
    better, tied = _count(queries, gallery, truth, scores, (best, tie))
    return RankCounts(better, tied, positives, size)


def _count(
    queries: npt.NDArray[np.generic],
    gallery: Blocks,
    truth: Truth,
    scores: Scores,
    level: tuple[npt.NDArray[np.float32], float],
) -> tuple[IntArray, IntArray]:
    best, tie = level
    better, tied = np.zeros(len(queries), dtype=np.int64), np.zeros(len(queries), dtype=np.int64)
    for start, block in gallery_blocks(gallery):
        inside = slice(*np.searchsorted(truth.tile, [start, start + len(block)]))
        right_query, right_tile = truth.query[inside], truth.tile[inside] - start
        for row in range(0, len(queries), query_rows(queries)):
            rows = slice(row, min(row + query_rows(queries), len(queries)))
            values = scores(queries[rows], block)
            here = (right_query >= rows.start) & (right_query < rows.stop)
            values[right_query[here] - rows.start, right_tile[here]] = np.nan  # never better, never tied
            limit = best[rows, None]
            wins = (values > limit + tie).sum(axis=1)
            better[rows] += wins
            tied[rows] += (values >= limit - tie).sum(axis=1) - wins
    return better, tied
