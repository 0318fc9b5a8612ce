"""Scans: the exact nearest codes of a block of rows, single-threaded; search.py spreads blocks over threads.

Every kernel gives the same answer, ordered by (distance, row). FAISS's scan is the default. What of its
behaviour the answer rests on (it walks rows in order, keeps the first of equals and evicts the last) is no
documented promise, so it is looked at once in each process; a FAISS that does otherwise gives way to NumPy.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import faiss
import numpy as np
import numpy.typing as npt

from geoloc.index import topk

Codes = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

# Codes of one FAISS pass: small enough to stay in the L2 cache while all queries of a block walk over them.
_FAISS_PASS_CODES = 4096
_NUMPY_PASS_CODES = 4096


class Kernel(Protocol):
    """An exact scan."""

    name: str

    def nearest(self, codes: Codes, queries: Codes, k: int) -> tuple[IntArray, IntArray]:
        """(distances, rows) int64[Q, k] of the first k rows by (distance, row).

        codes: uint8[M, B], C-contiguous; queries: uint8[Q, B]; 1 <= k <= M.
        """
        ...


class FaissKernel:
    """FAISS's heap scan over the raw codes, on the calling thread alone."""

    name = "faiss"

    def __init__(self) -> None:
        faiss.cvar.hamming_batch_size = _FAISS_PASS_CODES  # type: ignore[attr-defined]

    def nearest(self, codes: Codes, queries: Codes, k: int) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`."""
        # FAISS would split the queries over OpenMP threads; we split the rows. The setting is this thread's own.
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            distances, rows = faiss.knn_hamming(np.ascontiguousarray(queries), codes, k, variant="hc")
        finally:
            faiss.omp_set_num_threads(before)
        return distances.astype(np.int64), rows


class NumpyKernel:
    """NumPy's popcount, block by block: slower, needs nothing but its own arithmetic."""

    name = "numpy"

    def nearest(self, codes: Codes, queries: Codes, k: int) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`."""
        best = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(codes), _NUMPY_PASS_CODES):
            block = codes[start : start + _NUMPY_PASS_CODES]
            rows = np.arange(start, start + len(block))
            keys = np.stack([topk.pack(_distances(block, query), rows) for query in queries])
            best = topk.smallest(np.concatenate([best, keys], axis=1), min(k, start + len(block)))
        return topk.unpack(best)


def _distances(codes: Codes, query: Codes) -> npt.NDArray[np.uint16]:
    return np.asarray(np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.uint16))


@lru_cache(maxsize=1)
def default_kernel() -> Kernel:
    """The fastest kernel whose answers are right on this machine."""
    kernel = FaissKernel()
    return kernel if orders_ties_by_row(kernel) else NumpyKernel()


def orders_ties_by_row(kernel: Kernel) -> bool:
    """Whether a kernel keeps and orders equal distances by row, tried on codes full of ties."""
    rng = np.random.default_rng(20230)
    for code_bytes in (8, 32, 64):
        few = rng.integers(0, 256, (7, code_bytes), dtype=np.uint8)
        codes = np.ascontiguousarray(few[rng.integers(0, len(few), 3 * _FAISS_PASS_CODES // 2)])
        for k in (1, 10, 2000):
            got = kernel.nearest(codes, few[:3], k)
            wanted = NumpyKernel().nearest(codes, few[:3], k)
            if not all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True)):
                return False
    return True
