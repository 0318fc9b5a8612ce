from __future__ import annotations

import numpy as np
import pytest

from geoloc.index.kernels import FaissKernel, Kernel, NumpyKernel, default_kernel, orders_ties_by_row


@pytest.mark.parametrize("kernel", [FaissKernel(), NumpyKernel()], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("bits", [8, 64, 128, 160, 256, 512, 1024])
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


def test_faiss_is_used_where_it_orders_ties_by_row() -> None:
    assert orders_ties_by_row(FaissKernel())
    assert default_kernel().name == "faiss"


def test_a_kernel_that_keeps_the_last_of_equals_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(FaissKernel):
        def nearest(self, codes, queries, k):  # type: ignore[no-untyped-def]
            distances, rows = super().nearest(np.ascontiguousarray(codes[::-1]), queries, k)
            return distances, len(codes) - 1 - rows

    assert not orders_ties_by_row(Backwards())
    monkeypatch.setattr("geoloc.index.kernels.FaissKernel", Backwards)
    default_kernel.cache_clear()
    try:
        assert default_kernel().name == "numpy"
    finally:
        default_kernel.cache_clear()
