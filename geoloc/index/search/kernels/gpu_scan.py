"""The scan on a GPU, where faiss-gpu and a device are there; the same answers and ties as on a CPU.

Written to FAISS's interface and tested with its CPU index in the device's place: it has not run on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from geoloc.core.arrays import BoolArray, Codes, IntArray
from geoloc.index.search import topk
from geoloc.index.search.kernels.scan_kernel import Kernel, default_kernel

# A GPU orders equals arbitrarily: this many more are fetched, and a CPU answers where these are equal too.
_TIES = 64
_MOST = 2048  # results of a query that FAISS gives from a GPU
_LEAST_ROWS = 65_536
_DEVICE_SHARE = 0.5


def built_for_gpu() -> bool:
    """Whether the FAISS that is installed has GPU code; it may still see no device."""
    return hasattr(faiss, "StandardGpuResources")


def has_device() -> bool:
    """Whether this process may use a GPU through FAISS. Ray hides devices from tasks that request none."""
    return built_for_gpu() and faiss.get_num_gpus() > 0


def device_index(bits: int) -> Any:
    """An empty exact index of codes on the first device that this process sees."""
    resources = faiss.StandardGpuResources()
    index: Any = faiss.GpuIndexBinaryFlat(resources, bits)
    index.geoloc_resources = resources  # FAISS keeps no reference
    return index


def device_bytes() -> int:
    """Bytes of codes that may lie on the device: half of what is free on it now."""
    return int(_DEVICE_SHARE * faiss.getFreeMemory(0))  # type: ignore[attr-defined]


class GpuKernel:
    """Mapped codes are copied to the device when they are first searched, and stay there; see `Kernel`.

    What does not fit, rows that marks or a region chose, few rows and many results are left to `other`, and so is a
    query of which more rows than are fetched are equally near.
    """

    name = "gpu"

    def __init__(
        self, other: Kernel, most_bytes: int, make_index: Callable[[int], Any] = device_index
    ) -> None:
        self._other = other
        self._free = most_bytes
        self._make = make_index
        self._held: dict[tuple[int, int, int], tuple[Codes, Any]] = {}
        self._lock = threading.Lock()  # one stream: FAISS's GPU indexes are searched by one thread at a time

    def nearest(
        self, codes: Codes, queries: Codes, k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`: codes uint8[M, B], queries uint8[Q, B], results int64[Q, k]."""
        with self._lock:
            index = self._index_of(codes) if live is None and k <= _MOST - _TIES else None
            if index is not None:
                wanted = min(k + _TIES, len(codes))
                distances, rows = index.search(np.ascontiguousarray(queries), wanted)
        if index is None:
            return self._other.nearest(codes, queries, k, live)
        keys = topk.smallest(topk.pack(distances, rows), k)
        nearest, found = topk.unpack(keys)
        undecided = (distances.max(axis=1) == nearest[:, -1]) & (wanted < len(codes))
        for query in np.flatnonzero(undecided):
            own = self._other.nearest(codes, queries[query : query + 1], k)
            nearest[query], found[query] = own[0][0], own[1][0]
        return nearest, found

    def _index_of(self, codes: Codes) -> Any:
        """The device's copy of mapped codes; None for others, for few, and for what does not fit."""
        if codes.flags.writeable or len(codes) < _LEAST_ROWS:
            return None
        key = (codes.ctypes.data, *codes.shape)
        if key not in self._held:
            if codes.nbytes > self._free:
                return None
            index = self._make(8 * codes.shape[1])
            index.add(np.ascontiguousarray(codes))
            self._free -= codes.nbytes
            self._held[key] = (codes, index)  # the mapping stays, so no other codes get its address
        return self._held[key][1]


def search_kernel() -> Kernel:
    """What a snapshot is searched with: on the GPU that this process may use through FAISS, else `default_kernel`."""
    return GpuKernel(default_kernel(), device_bytes()) if has_device() else default_kernel()
