from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from geoloc.index.search.kernels.popcount import PopcountKernel
from geoloc.index.search.kernels.scan_kernel import (
    FaissKernel,
    Kernel,
    NumpyKernel,
    compiled_kernel,
    default_kernel,
    orders_ties_by_row,
)

KERNELS = [PopcountKernel(), FaissKernel(), NumpyKernel()]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("bits", [8, 40, 64, 128, 160, 192, 256, 512, 1024])
def test_a_kernel_equals_the_definition(kernel: Kernel, bits: int) -> None:
    rng = np.random.default_rng(bits)
    few = rng.integers(0, 256, (30, bits // 8), dtype=np.uint8)
    # More than one FAISS pass and one NumPy block, full of equal codes.
    codes = few[rng.integers(0, 30, 9001)]
    queries = rng.integers(0, 256, (4, bits // 8), dtype=np.uint8)
    distances = np.bitwise_count(codes[None] ^ queries[:, None]).sum(axis=2, dtype=np.int64)
    order = np.lexsort((np.broadcast_to(np.arange(9001), distances.shape), distances), axis=1)
    for k in (1, 7, 1000, 9001):
        got_distances, got_rows = kernel.nearest(codes, queries, k)
        np.testing.assert_array_equal(got_rows, order[:, :k])
        np.testing.assert_array_equal(got_distances, np.take_along_axis(distances, order[:, :k], axis=1))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_rows_that_are_not_live_are_never_found(kernel: Kernel, share: float) -> None:
    rng = np.random.default_rng(7)
    codes = rng.integers(0, 4, (5003, 16), dtype=np.uint8)
    live = rng.random(5003) < share
    rows = np.flatnonzero(live)
    for queries in (codes[:1], codes[:6]):
        distances, found = kernel.nearest(codes, queries, 20, live)
        for query in range(len(queries)):
            apart = np.bitwise_count(codes[rows] ^ queries[query]).sum(axis=1, dtype=np.int64)
            order = np.argsort(apart, kind="stable")[:20]
            padding = [-1] * (20 - len(order))
            assert found[query].tolist() == rows[order].tolist() + padding
            assert distances[query].tolist() == apart[order].tolist() + padding


def test_the_compiled_kernel_is_used_where_it_is_right() -> None:
    assert orders_ties_by_row(FaissKernel())
    assert default_kernel().name == "popcount"


def test_faiss_stands_in_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geoloc.index.search.kernels.popcount", None)  # as if the import failed
    assert compiled_kernel() is None
    default_kernel.cache_clear()
    try:
        assert default_kernel().name == "faiss"
    finally:
        default_kernel.cache_clear()


@pytest.mark.slow
def test_a_machine_without_vector_counts_gets_the_same_answers() -> None:
    script = (
        "import numpy as np\n"
        "from geoloc.index.search.kernels.scan_kernel import default_kernel\n"
        "assert default_kernel().name == 'popcount'\n"
    )
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)


def test_a_kernel_that_keeps_the_last_of_equals_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(FaissKernel):
        def nearest(self, codes, queries, k, live=None):  # type: ignore[no-untyped-def]
            distances, rows = super().nearest(np.ascontiguousarray(codes[::-1]), queries, k)
            return distances, len(codes) - 1 - rows

    assert not orders_ties_by_row(Backwards())
    monkeypatch.setattr("geoloc.index.search.kernels.scan_kernel.FaissKernel", Backwards)
    monkeypatch.setattr("geoloc.index.search.kernels.scan_kernel.compiled_kernel", lambda: Backwards())
    default_kernel.cache_clear()
    try:
        assert default_kernel().name == "numpy"
    finally:
        default_kernel.cache_clear()
