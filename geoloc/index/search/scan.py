"""Exact search over open shards: scan, merge, re-rank. Never more than a block of queries times a block of rows.

The codes of all shards are split evenly over threads, whether one query comes or a thousand: each thread scans
its own rows, so one query uses all cores too. Ties are ordered by (distance, tile_id):
within a shard that is the order of rows, across shards the tile ids of the candidates are compared.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core.arrays import BoolArray, Codes, Embeddings, FloatArray, IntArray
from geoloc.index.format.shard import Shard
from geoloc.index.search import inverted_lists, topk
from geoloc.index.search.cell_cover import cell_ranges, rows_between
from geoloc.index.search.inverted_lists import InvertedLists
from geoloc.index.search.kernels.dot_products import default_products
from geoloc.index.search.kernels.scan_kernel import Kernel, Query, RowScan
from geoloc.index.search.region import Region

QUERY_BLOCK = 256
_LEAST_ROWS_PER_THREAD = 16_384
_SPANS_PER_THREAD = 4
_LEAST_LONG_SPAN = 524_288
# Cost of gathering a row, and of passing over a row, in units of comparing a code with a query.
_GATHER_COST = 24
_SCAN_COST = 3
_GATHER_ROWS = 65_536
_LEAST_PRODUCTS_PER_THREAD = 2_048


@dataclass(frozen=True)
class Selection:
    """The rows of a shard that take part: those of `rows` (ascending), else those marked in `live`, else all.

    count: how many they are. codes: what a scan compares, uint8[N, B] of all rows; None: the shard's codes.
    """

    shard: Shard
    count: int
    rows: IntArray | None = None
    live: BoolArray | None = None
    codes: Codes | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def span(self) -> int:
        """How many rows a scan goes over."""
        return len(self.shard) if self.rows is None else self.count

    def marks(self) -> BoolArray | None:
        """bool[N], which rows of the shard take part; None when all do."""
        if self.rows is None:
            return self.live
        live = np.zeros(len(self.shard), np.bool_)
        live[self.rows] = True
        return live

    def for_scan(self, queries: int) -> Selection:
        """The same, marked instead of named where going over the whole shard costs less than gathering rows."""
        total = len(self.shard)
        share = (_SCAN_COST + queries) / (_GATHER_COST + queries)
        if self.rows is None or self.count < share * total:
            return self
        return replace(self, rows=None, live=self.marks())

    def blocks(self, start: int, stop: int, size: int) -> Iterator[slice | IntArray]:
        """Slices or int64[M] of the shard's rows at the positions from start to stop, `size` rows at a time."""
        for first in range(start, stop, size):
            last = min(first + size, stop)
            yield slice(first, last) if self.rows is None else self.rows[first:last]


@dataclass(frozen=True)
class Candidates:
    """Candidates of Q queries from one or more shards, unordered: [Q, M] each, row -1 is padding.

    scores: smaller is better; rows: of the snapshot; shards: how many shards they can come from.
    """

    scores: IntArray
    rows: IntArray
    shards: int


def select(shards: Sequence[Shard], region: Region | None) -> list[Selection]:
    """The rows that marks and a region leave; only shards and cells that it touches are looked into."""
    if region is None:
        everything = (Selection(shard, shard.entry.live, live=shard.live_rows) for shard in shards)
        return [selection for selection in everything if len(selection)]
    ranges = cell_ranges(region)
    found = []
    for shard in shards:
        rows = _inside(shard, region, ranges)
        if len(rows) == len(shard) > 0:
            found.append(Selection(shard, len(rows)))
        elif len(rows):
            found.append(Selection(shard, len(rows), rows))
    return found


def _inside(shard: Shard, region: Region, ranges: IntArray) -> IntArray:
    """The live rows of a shard whose tiles have their centre in the region, ascending."""
    entry = shard.entry
    if entry.bounds is None or shard.space is None or not region.touches(entry.bounds):
        return np.empty(0, np.int64)
    rows = rows_between(shard.space, ranges)
    if shard.live_rows is not None:
        rows = rows[shard.live_rows[rows]]
    return np.sort(rows[region.contains(shard.lat[rows], shard.lon[rows])])


def thread_count() -> int:
    """Threads of a search: `OMP_NUM_THREADS` (Ray sets it to a task's CPUs), else the CPUs we may use."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(wanted)) if wanted.isdigit() else len(os.sched_getaffinity(0))


@lru_cache(maxsize=4)
def _pool(threads: int, _pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "geoloc-scan")


def scan(
    selections: Sequence[Selection], queries: npt.NDArray[Query], k: int, kernel: RowScan[Query], threads: int
) -> Candidates:
    """The k nearest codes of each selection to queries [Q, ...], Q <= `QUERY_BLOCK`, by the kernel's distance.

    Queries are codes uint8[Q, B] for Hamming distances, or weights int8[Q, 8 B] for `WeightedKernel`.
    """
    selections = [selection.for_scan(len(queries)) for selection in selections]
    spans = _spans(selections, threads)

    def keys_of(span: tuple[int, tuple[Selection, int, int]]) -> IntArray:
        return _scan_span(*span[1], queries, k, kernel)

    if len(spans) < 2 or threads == 1:
        found = list(map(keys_of, spans))
    else:
        # This thread takes the first span itself: it would only wait, and waking another one takes time.
        others = [_pool(threads, os.getpid()).submit(keys_of, span) for span in spans[1:]]
        found = [keys_of(spans[0]), *(future.result() for future in others)]
    scores, rows = [], []
    for number, selection in enumerate(selections):
        parts = [keys for keys, (chosen, _) in zip(found, spans, strict=True) if chosen == number]
        best = topk.smallest(np.concatenate(parts, axis=1), min(k, len(selection)))
        found_scores, found_rows = topk.unpack(best)
        scores.append(found_scores)
        rows.append(np.where(found_rows < 0, -1, found_rows + selection.shard.first_row))
    return _candidates(scores, rows, len(queries))


def scan_lists(
    selections: Sequence[tuple[Selection, InvertedLists]],
    queries: Codes,
    k: int,
    probes: int,
    kernel: Kernel,
    threads: int,
) -> Candidates:
    """As `scan` for queries uint8[Q, B], but only within the lists of the `probes` nearest centres of each shard."""
    edges = np.linspace(0, len(queries), min(threads, len(queries)) + 1).astype(int)
    parts = [queries[start:stop] for start, stop in itertools.pairwise(edges)]
    pool = _pool(threads, os.getpid())
    scores, rows = [], []
    for selection, lists in selections:
        wanted, codes, live = min(k, len(selection)), selection.shard.codes, selection.marks()
        work = partial(_scan_part, codes, lists, wanted, probes, kernel, live)
        found = list(pool.map(work, parts)) if len(parts) > 1 else [work(part) for part in parts]
        found_scores, found_rows = topk.unpack(np.concatenate(found))
        scores.append(found_scores)
        rows.append(np.where(found_rows < 0, -1, found_rows + selection.shard.first_row))
    return _candidates(scores, rows, len(queries))


def _scan_part(
    codes: Codes,
    lists: InvertedLists,
    k: int,
    probes: int,
    kernel: Kernel,
    live: BoolArray | None,
    queries: Codes,
) -> IntArray:
    return inverted_lists.scan_lists(codes, lists, queries, k, probes, kernel, live)


def together(one: Candidates, other: Candidates) -> Candidates:
    """The candidates of both."""
    return Candidates(
        np.concatenate([one.scores, other.scores], axis=1),
        np.concatenate([one.rows, other.rows], axis=1),
        one.shards + other.shards,
    )


def _candidates(scores: list[IntArray], rows: list[IntArray], queries: int) -> Candidates:
    if not scores:
        empty = np.empty((queries, 0), np.int64)
        return Candidates(empty, empty, 0)
    return Candidates(np.concatenate(scores, axis=1), np.concatenate(rows, axis=1), len(scores))


def _spans(selections: Sequence[Selection], threads: int) -> list[tuple[int, tuple[Selection, int, int]]]:
    """(number of the selection, (selection, start, stop)): spans of about equal size.

    One for each thread, or several when there is much to do: a thread that is held up then leaves more to others.
    """
    total = sum(selection.span for selection in selections)
    size = max(-(-total // (_SPANS_PER_THREAD * threads)), _LEAST_LONG_SPAN)
    size = max(min(size, -(-total // threads)), _LEAST_ROWS_PER_THREAD)
    spans = []
    for number, selection in enumerate(selections):
        pieces = -(-selection.span // size)
        edges = np.linspace(0, selection.span, pieces + 1).astype(int)
        spans += [(number, (selection, int(a), int(b))) for a, b in itertools.pairwise(edges)]
    return spans


def _scan_span(
    selection: Selection,
    start: int,
    stop: int,
    queries: npt.NDArray[Query],
    k: int,
    kernel: RowScan[Query],
) -> IntArray:
    """Packed keys [Q, <= k] of the nearest rows of a span."""
    best = np.empty((len(queries), 0), np.int64)
    # All rows of a shard are scanned where they lie; chosen ones are gathered, a block at a time.
    size = max(1, stop - start) if selection.rows is None else _GATHER_ROWS
    for block in selection.blocks(start, stop, size):
        codes = (selection.shard.codes if selection.codes is None else selection.codes)[block]
        live = selection.live[block] if selection.live is not None else None
        distances, found = kernel.nearest(codes, queries, min(k, len(codes)), live)
        rows = np.where(found < 0, -1, found + block.start) if isinstance(block, slice) else block[found]
        keys = np.concatenate([best, topk.pack(distances, rows)], axis=1)
        best = topk.smallest(keys, min(k, keys.shape[1]))
    return best


def rerank(shards: Sequence[Shard], rows: IntArray, queries: Embeddings, threads: int) -> Embeddings:
    """Dot products float32[Q, R] of each query float32[Q, D] with the embeddings of its rows int64[Q, R]; NaN pads."""
    similarity = np.full(rows.shape, np.nan, np.float32)
    products = default_products()

    def fill(part: slice) -> None:
        for shard in shards:
            assert shard.embeddings is not None
            products.fill(queries[part], shard.embeddings, rows[part], shard.first_row, similarity[part])

    pieces = min(threads, len(rows), -(-rows.size // _LEAST_PRODUCTS_PER_THREAD))
    edges = np.linspace(0, len(rows), max(pieces, 1) + 1).astype(int)
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    if len(parts) == 1:
        fill(parts[0])
    else:
        list(_pool(threads, os.getpid()).map(fill, parts))
    return similarity


def best_columns(shards: Sequence[Shard], candidates: Candidates, k: int) -> IntArray:
    """Columns int64[Q, k] of the candidates in the order (score, tile_id); -1 where there are fewer."""
    queries, width = candidates.rows.shape
    scores = np.where(candidates.rows < 0, topk.PADDING_SCORE, candidates.scores)
    columns = np.full((queries, k), -1, np.int64)
    if not k or not width:
        return columns
    # Only what is no worse than the k-th best can be among the first k: the tile ids of those are compared.
    limit = np.partition(scores, min(k, width) - 1, axis=1)[:, min(k, width) - 1 : min(k, width)]
    query, column = np.nonzero((scores <= limit) & (candidates.rows >= 0))
    rows = candidates.rows[query, column]
    # Rows of a shard are in the order of their ids already.
    tie = _ranks(take_ids(shards, rows)) if candidates.shards > 1 else rows
    order = np.lexsort((tie, scores[query, column], query))
    query, column = query[order], column[order]
    position = np.arange(len(query)) - np.searchsorted(query, query)
    kept = position < k
    columns[query[kept], position[kept]] = column[kept]
    return columns


def _ranks(ids: pa.LargeStringArray) -> IntArray:
    """Each string's place in the order of UTF-8 bytes, which is that of code points."""
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return np.asarray(place[encoded.indices.to_numpy()])


def take_ids(shards: Sequence[Shard], rows: IntArray) -> pa.LargeStringArray:
    """The tile ids of rows [M] of the snapshot."""
    pieces, places = [], []
    for shard in shards:
        mine = np.flatnonzero((rows >= shard.first_row) & (rows < shard.first_row + len(shard)))
        if len(mine):
            pieces.append(shard.tiles()[0].take(pa.array(rows[mine] - shard.first_row)))
            places.append(mine)
    if not pieces:
        return pa.array([], pa.large_string())
    back = np.empty(len(rows), np.int64)
    back[np.concatenate(places)] = np.arange(len(rows))
    return pa.concat_arrays(pieces).take(pa.array(back))


def take_positions(shards: Sequence[Shard], rows: IntArray) -> tuple[FloatArray, FloatArray]:
    """(lat, lon) float64[...] in degrees of rows int64[...]; NaN without coordinates and for row -1."""
    lat, lon = np.full(rows.shape, np.nan), np.full(rows.shape, np.nan)
    for shard in shards:
        mine = (rows >= shard.first_row) & (rows < shard.first_row + len(shard))
        if mine.any():
            _, shard_lat, shard_lon = shard.tiles()
            lat[mine] = shard_lat[rows[mine] - shard.first_row]
            lon[mine] = shard_lon[rows[mine] - shard.first_row]
    return lat, lon
