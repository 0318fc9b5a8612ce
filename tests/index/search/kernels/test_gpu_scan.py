"""The scan on a GPU, with a CPU index that shuffles equals in the device's place."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from geoloc.index.search.kernels import gpu_scan
from geoloc.index.search.kernels.gpu_scan import GpuKernel, search_kernel
from geoloc.index.search.kernels.popcount import PopcountKernel
from geoloc.index.search.kernels.scan_kernel import default_kernel


class ShufflingIndex:
    """FAISS's exact index whose order of equal distances is random, as a GPU's is."""

    made = 0

    def __init__(self, bits: int) -> None:
        self._flat = faiss.IndexBinaryFlat(bits)
        self._rng = np.random.default_rng(bits)
        ShufflingIndex.made += 1

    def add(self, codes: np.ndarray) -> None:
        self._codes = codes.copy()
        self._order = self._rng.permutation(len(codes))
        self._flat.add(np.ascontiguousarray(codes[self._order]))

    def search(self, queries: np.ndarray, k: int) -> tuple[Any, Any]:
        distances, rows = self._flat.search(queries, k)
        return distances, self._order[rows]


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_scan, "_LEAST_ROWS", 100)
    ShufflingIndex.made = 0


def mapped(codes: np.ndarray) -> np.ndarray:
    codes.flags.writeable = False
    return codes


@pytest.mark.parametrize("kinds", [3, 40, 5000])
def test_answers_and_ties_are_those_of_the_cpu(kinds: int) -> None:
    rng = np.random.default_rng(kinds)
    few = rng.integers(0, 256, (kinds, 16), dtype=np.uint8)
    codes = mapped(few[rng.integers(0, kinds, 5000)])
    queries = rng.integers(0, 256, (9, 16), dtype=np.uint8)
    kernel = GpuKernel(PopcountKernel(), 1 << 20, ShufflingIndex)
    for k in (1, 10, 500, 5000):
        got, want = kernel.nearest(codes, queries, k), PopcountKernel().nearest(codes, queries, k)
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])
    assert ShufflingIndex.made == 1  # copied to the device once


def test_what_a_device_cannot_do_is_left_to_the_cpu() -> None:
    rng = np.random.default_rng(1)
    codes, queries = (
        rng.integers(0, 256, (500, 8), dtype=np.uint8),
        rng.integers(0, 256, (2, 8), dtype=np.uint8),
    )
    small = GpuKernel(PopcountKernel(), 500, ShufflingIndex)
    large = GpuKernel(PopcountKernel(), 1 << 20, ShufflingIndex)
    live = rng.random(500) < 0.5
    want = PopcountKernel().nearest(codes, queries, 5)
    np.testing.assert_array_equal(large.nearest(codes, queries, 5)[1], want[1])  # gathered rows, no mapping
    np.testing.assert_array_equal(small.nearest(mapped(codes), queries, 5)[1], want[1])  # too many bytes
    np.testing.assert_array_equal(
        large.nearest(codes, queries, 5, live)[1], PopcountKernel().nearest(codes, queries, 5, live)[1]
    )
    assert ShufflingIndex.made == 0


def test_without_a_device_the_cpu_searches() -> None:
    if not gpu_scan.has_device():
        assert search_kernel() is default_kernel()
