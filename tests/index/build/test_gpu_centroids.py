"""Assignment on a GPU, with FAISS's CPU index in the device's place."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from geoloc.index.build import gpu_centroids, list_build


class Backwards:
    """An exact index that orders equals from the last to the first, as a device may."""

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def add(self, codes: np.ndarray) -> None:
        self._codes = codes

    def search(self, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        apart = np.bitwise_count(codes[:, None] ^ self._codes[None]).sum(axis=2, dtype=np.int32)
        order = np.lexsort((np.broadcast_to(-np.arange(len(self._codes)), apart.shape), apart))[:, :k]
        return np.take_along_axis(apart, order, axis=1), order


@pytest.mark.parametrize("make_index", [faiss.IndexBinaryFlat, Backwards])
@pytest.mark.parametrize("centres", [1, 5, 16, 40])
@pytest.mark.parametrize("kinds", [3, 1000])
def test_the_first_of_the_nearest_is_taken(make_index: Any, centres: int, kinds: int) -> None:
    rng = np.random.default_rng(centres + kinds)
    distinct = rng.integers(0, 256, (kinds, 8), dtype=np.uint8)
    codes, middles = distinct[rng.integers(0, kinds, 300)], distinct[rng.integers(0, kinds, centres)]
    wanted = np.bitwise_count(codes[:, None] ^ middles[None]).sum(axis=2, dtype=np.int64).argmin(axis=1)
    np.testing.assert_array_equal(gpu_centroids.nearest_centres(codes, middles, make_index), wanted)


def test_lists_are_the_same_with_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(3).integers(0, 256, (2000, 16), dtype=np.uint8)
    without = list_build.make_lists(codes, 30)
    asked: list[int] = []

    def assign(some: np.ndarray, centres: np.ndarray) -> np.ndarray:
        asked.append(len(some))
        return real(some, centres, Backwards)

    real = gpu_centroids.nearest_centres
    monkeypatch.setattr(gpu_centroids, "has_device", lambda: True)
    monkeypatch.setattr(gpu_centroids, "nearest_centres", assign)
    with_device = list_build.make_lists(codes, 30)
    assert asked[-1] == 2000
    for name in ("centres", "starts", "rows"):
        np.testing.assert_array_equal(getattr(with_device, name), getattr(without, name))


def test_without_gpu_code_in_faiss_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "StandardGpuResources", raising=False)
    assert not gpu_centroids.has_device()
