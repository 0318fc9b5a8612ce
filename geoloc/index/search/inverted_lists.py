"""Inverted lists: an approximate search that looks only where like codes lie; optional, and asked for by name.

The codes of a shard are dealt out to the nearest of some hundred or thousand centres, found by k-means in Hamming
space (assign to the nearest, ties to the first; a centre's bit is what most of its codes have). A search compares
the query with the centres and scans, exactly, the lists of the `probes` nearest. The lists hold row numbers, the
codes stay where they are. What is found of the true neighbours depends on the codes: `geoloc bench search` tells
it for a user's own.

    ivf-centres.npy   uint8[L, bits // 8]
    ivf-starts.npy    int64[L + 1], where each list begins in
    ivf-rows.npy      uint32[N], the rows of each list, ascending
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Codes, IntArray
from geoloc.core.errors import ConfigError, CorruptArtifact
from geoloc.index.search import gpu_centroids, topk
from geoloc.index.search.kernels.scan_kernel import Kernel, default_kernel

CENTRES_NAME = "ivf-centres.npy"
STARTS_NAME = "ivf-starts.npy"
ROWS_NAME = "ivf-rows.npy"

_ROUNDS = 10
_SAMPLE_PER_LIST = 64
_BLOCK_ROWS = 16_384


@dataclass(frozen=True)
class Lists:
    """The lists of a shard: centres uint8[L, B], starts int64[L + 1], rows uint32[N]."""

    centres: Codes
    starts: IntArray
    rows: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.centres)

    def near(self, queries: Codes, probes: int, kernel: Kernel) -> list[IntArray]:
        """For each query the rows of the lists whose centres are nearest, ascending."""
        _, chosen = kernel.nearest(self.centres, queries, min(probes, len(self)))
        return [
            np.sort(np.concatenate([self.rows[self.starts[one] : self.starts[one + 1]] for one in lists]))
            for lists in chosen
        ]


def usual_lists(count: int) -> int:
    """How many lists suit so many codes: four times their root, so that centres and lists cost about the same."""
    return max(1, min(count, round(4 * math.sqrt(count))))


def make_lists(codes: Codes, lists: int, *, threads: int = 1, seed: int = 0) -> Lists:
    """Deal codes uint8[N, B] out to lists; the same codes and seed give the same lists, with a GPU or without.

    Raises `ConfigError` unless 1 <= lists <= N.
    """
    if not 1 <= lists <= len(codes):
        raise ConfigError(f"lists is {lists}, it must lie between 1 and the number of codes ({len(codes)}).")
    kernel, on_device = default_kernel(), gpu_centroids.has_device()
    with ThreadPoolExecutor(threads) as pool:

        def nearest_centre(some: Codes, centres: Codes) -> IntArray:
            if on_device:
                return gpu_centroids.nearest_centres(some, centres)
            parts = [some[start : start + _BLOCK_ROWS] for start in range(0, len(some), _BLOCK_ROWS)]
            return np.concatenate(
                list(pool.map(lambda part: kernel.nearest(centres, part, 1)[1][:, 0], parts))
            )

        list_of = nearest_centre(codes, centres := _centres(codes, lists, seed, nearest_centre))
    order = np.argsort(list_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(list_of, minlength=lists))])
    return Lists(centres, starts.astype(np.int64), order.astype(np.uint32))


def _centres(
    codes: Codes, lists: int, seed: int, nearest_centre: Callable[[Codes, Codes], IntArray]
) -> Codes:
    """k-means in Hamming space over an even sample of the codes; a centre without codes stays where it was."""
    wanted = min(len(codes), _SAMPLE_PER_LIST * lists)
    sample = np.ascontiguousarray(codes[np.linspace(0, len(codes) - 1, wanted).astype(np.int64)])
    distinct = np.unique(sample, axis=0)
    pool = distinct if len(distinct) >= lists else sample
    centres = pool[np.sort(np.random.default_rng(seed).choice(len(pool), lists, replace=False))]
    for _ in range(_ROUNDS):
        moved = _majority(sample, nearest_centre(sample, centres), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.ascontiguousarray(centres)


def _majority(codes: Codes, list_of: IntArray, centres: Codes) -> Codes:
    """What most codes of each list have, bit by bit; zero where they are even."""
    moved = centres.copy()
    order = np.argsort(list_of, kind="stable")
    filled, starts = np.unique(list_of[order], return_index=True)
    edges = [*starts.tolist(), len(order)]
    for place, one in enumerate(filled):
        mine = codes[order[edges[place] : edges[place + 1]]]
        ones = np.unpackbits(mine, axis=1).sum(axis=0, dtype=np.int64)
        moved[one] = np.packbits(2 * ones > len(mine))
    return moved


def write_lists(directory: Path, lists: Lists) -> None:
    """Write the lists beside a shard's own files."""
    for name, array in ((CENTRES_NAME, lists.centres), (STARTS_NAME, lists.starts), (ROWS_NAME, lists.rows)):
        np.save(directory / name, array, allow_pickle=False)


def open_lists(directory: Path, count: int, bits: int) -> Lists:
    """The lists of a shard, mapped; `CorruptArtifact` unless they fit it."""
    try:
        centres, starts, rows = (
            np.load(directory / name, mmap_mode="r", allow_pickle=False)
            for name in (CENTRES_NAME, STARTS_NAME, ROWS_NAME)
        )
    except (ValueError, OSError) as error:
        raise CorruptArtifact(
            f"The lists in {str(directory)!r} cannot be read; build the index again."
        ) from error
    fits = (
        centres.shape[1:] == (bits // 8,) and starts.shape == (len(centres) + 1,) and rows.shape == (count,)
    )
    if not fits or int(starts[-1]) != count:
        raise CorruptArtifact(
            f"The lists in {str(directory)!r} are not of {count} codes of {bits} bits; build the index again."
        )
    return Lists(np.asarray(centres), np.asarray(starts), np.asarray(rows))


def scan_lists(
    codes: Codes, lists: Lists, queries: Codes, k: int, probes: int, kernel: Kernel, live: BoolArray | None
) -> IntArray:
    """Packed keys int64[Q, k] of the nearest rows within the lists of the `probes` nearest centres.

    live: bool[N], the rows that take part, None for all of them.
    """
    keys = np.full((len(queries), k), topk.PADDING_KEY, np.int64)
    for query, rows in enumerate(lists.near(queries, probes, kernel)):
        mine = rows if live is None else rows[live[rows]]
        wanted = min(k, len(mine))
        if wanted:
            distances, places = kernel.nearest(codes[mine], queries[query : query + 1], wanted)
            keys[query, :wanted] = topk.pack(distances[0], mine[places[0]])
    return keys
