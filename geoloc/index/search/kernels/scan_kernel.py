"""Exact scans of a block of codes on one thread; scan.py distributes blocks over threads.

Every kernel gives the same answer, ordered by (distance, row). The compiled scan of popcount.py is the default, then
FAISS, then NumPy. Each process first checks a kernel on codes full of ties: the compiled kernel because it is compiled
on the user's machine, FAISS because its order of equal distances is not documented.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, TypeVar

import faiss
import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Codes, IntArray
from geoloc.index.search import topk

# Codes of one FAISS pass: small enough to stay in the L2 cache while all queries of a block walk over them.
_FAISS_PASS_CODES = 4096
_NUMPY_PASS_CODES = 4096


Query = TypeVar("Query", bound=np.generic, contravariant=True)


class RowScan(Protocol[Query]):
    """An exact scan of codes by queries of one type: codes (`Kernel`), or weights (weighted_scan.py)."""

    name: str

    def nearest(
        self, codes: Codes, queries: npt.NDArray[Query], k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """(distances, rows) int64[Q, k] of the first k rows by (distance, row), padded with -1.

        codes: uint8[M, B], C-contiguous; queries: [Q, ...]; 1 <= k <= M. live: bool[M], the rows that take
        part, None for all of them.
        """
        ...


class Kernel(RowScan[np.uint8], Protocol):
    """An exact scan by Hamming distance: queries uint8[Q, B] are codes."""


class FaissKernel:
    """FAISS's heap scan over the raw codes, on the calling thread only."""

    name = "faiss"

    def __init__(self) -> None:
        faiss.cvar.hamming_batch_size = _FAISS_PASS_CODES  # type: ignore[attr-defined]

    def nearest(
        self, codes: Codes, queries: Codes, k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`: codes uint8[M, B], queries uint8[Q, B], results int64[Q, k]."""
        if live is not None:
            return _among_live(self, codes, queries, k, live)
        # FAISS would split the queries over OpenMP threads; we split the rows. The setting holds for this thread alone.
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            distances, rows = faiss.knn_hamming(np.ascontiguousarray(queries), codes, k, variant="hc")
        finally:
            faiss.omp_set_num_threads(before)
        return distances.astype(np.int64), rows


class NumpyKernel:
    """NumPy's population count, block by block: slow, but needs no compiler."""

    name = "numpy"

    def nearest(
        self, codes: Codes, queries: Codes, k: int, live: BoolArray | None = None
    ) -> tuple[IntArray, IntArray]:
        """See `Kernel.nearest`: codes uint8[M, B], queries uint8[Q, B], results int64[Q, k]."""
        if live is not None:
            return _among_live(self, codes, queries, k, live)
        best = np.empty((len(queries), 0), np.int64)
        for start in range(0, len(codes), _NUMPY_PASS_CODES):
            block = codes[start : start + _NUMPY_PASS_CODES]
            rows = np.arange(start, start + len(block))
            keys = np.stack([topk.pack(_distances(block, query), rows) for query in queries])
            best = topk.smallest(np.concatenate([best, keys], axis=1), min(k, start + len(block)))
        return topk.unpack(best)


def _distances(codes: Codes, query: Codes) -> npt.NDArray[np.uint16]:
    return np.asarray(np.bitwise_count(codes ^ query).sum(axis=1, dtype=np.uint16))


def _among_live(
    kernel: Kernel, codes: Codes, queries: Codes, k: int, live: BoolArray
) -> tuple[IntArray, IntArray]:
    """The answer of a kernel without deletion marks: it scans a copy of the live rows."""
    rows = np.flatnonzero(live)
    distances, found = (np.full((len(queries), k), -1, np.int64) for _ in range(2))
    wanted = min(k, len(rows))
    if wanted:
        distances[:, :wanted], places = kernel.nearest(np.ascontiguousarray(codes[rows]), queries, wanted)
        found[:, :wanted] = rows[places]
    return distances, found


@lru_cache(maxsize=1)
def default_kernel() -> Kernel:
    """The fastest kernel whose answers are right on this machine, compiled before its first request."""
    compiled = compiled_kernel()
    candidates = [FaissKernel()] if compiled is None else [compiled, FaissKernel()]
    return next((kernel for kernel in candidates if orders_ties_by_row(kernel)), NumpyKernel())


def compiled_kernel() -> Kernel | None:
    """The kernel of popcount.py; None where numba is missing or cannot write its cache."""
    try:
        from geoloc.index.search.kernels.popcount import PopcountKernel
    except (ImportError, RuntimeError):
        return None
    return PopcountKernel()


def orders_ties_by_row(kernel: Kernel) -> bool:
    """Whether a kernel keeps and orders equal distances by row, checked on codes full of ties."""
    rng = np.random.default_rng(20230)
    for code_bytes in (8, 20, 32, 64):
        few = rng.integers(0, 256, (7, code_bytes), dtype=np.uint8)
        codes = np.ascontiguousarray(few[rng.integers(0, len(few), 3 * _FAISS_PASS_CODES // 2 + 5)])
        for k, queries in ((1, few[:1]), (10, few[:3]), (2000, few[:3])):
            got = kernel.nearest(codes, queries, k)
            wanted = NumpyKernel().nearest(codes, queries, k)
            if not all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True)):
                return False
    return True
