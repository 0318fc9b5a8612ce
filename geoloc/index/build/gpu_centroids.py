"""Nearest centres on a GPU, where faiss-gpu and a device are there; the same answers as on a CPU.

For building inverted lists, whose cost is the assignment of every code to its nearest centre. Written to
FAISS's interface and tested with its CPU index in the device's place: it has not run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from geoloc.core.arrays import Codes, IntArray
from geoloc.index.search.kernels.gpu_scan import built_for_gpu as built_for_gpu
from geoloc.index.search.kernels.gpu_scan import device_index
from geoloc.index.search.kernels.gpu_scan import has_device as has_device

_TIES = (
    16  # a GPU orders equals arbitrarily: this many are fetched, and all centres compared where all are equal
)
_BLOCK_ROWS = 65_536


def nearest_centres(
    codes: Codes, centres: Codes, make_index: Callable[[int], Any] = device_index
) -> IntArray:
    """The first of the nearest centres uint8[L, B] of each code uint8[N, B]: int64[N]."""
    index = make_index(8 * centres.shape[1])
    index.add(np.ascontiguousarray(centres))
    out = np.empty(len(codes), np.int64)
    for start in range(0, len(codes), _BLOCK_ROWS):
        block = np.ascontiguousarray(codes[start : start + _BLOCK_ROWS])
        out[start : start + len(block)] = _first_of_nearest(index, block, centres)
    return out


def _first_of_nearest(index: Any, codes: Codes, centres: Codes) -> IntArray:
    wanted = min(_TIES, len(centres))
    distances, found = index.search(codes, wanted)
    nearest = distances[:, :1]
    first: IntArray = np.where(distances == nearest, found, len(centres)).min(axis=1).astype(np.int64)
    undecided = (distances[:, -1] == nearest[:, 0]) & (wanted < len(centres))
    for row in np.flatnonzero(undecided):
        # All fetched centres are equally near, and a centre before them may be too: compare all.
        first[row] = np.bitwise_count(centres ^ codes[row]).sum(axis=1, dtype=np.int64).argmin()
    return first
