"""Making inverted lists (search/inverted_lists.py) for the codes of a shard: k-means in Hamming space.

A code goes to the nearest centre, of equals to the first. A bit of a centre is what most of its codes have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Codes, IntArray
from geoloc.core.errors import ConfigError
from geoloc.index.build import gpu_centroids
from geoloc.index.format.manifest import LIST_CENTRES_NAME, LIST_ROWS_NAME, LIST_STARTS_NAME
from geoloc.index.format.shard import save_array
from geoloc.index.search.inverted_lists import InvertedLists
from geoloc.index.search.kernels.scan_kernel import default_kernel

_ROUNDS = 10
_SAMPLE_PER_LIST = 64
_BLOCK_ROWS = 16_384


def usual_lists(count: int) -> int:
    """How many lists suit so many codes: four times the square root, so that centres and lists cost about the same."""
    return max(1, min(count, round(4 * math.sqrt(count))))


def make_lists(codes: Codes, lists: int, *, threads: int = 1, seed: int = 0) -> InvertedLists:
    """Distribute codes uint8[N, B] over lists; the same codes and seed give the same lists, with a GPU or without.

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
    return InvertedLists(centres, starts.astype(np.int64), order.astype(np.uint32))


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


def write_lists(directory: Path, lists: InvertedLists) -> None:
    """Write the lists beside a shard's own files."""
    arrays: tuple[npt.NDArray[Any], ...] = (lists.centres, lists.starts, lists.rows)
    for name, array in zip((LIST_CENTRES_NAME, LIST_STARTS_NAME, LIST_ROWS_NAME), arrays, strict=True):
        save_array(directory / name, array)
