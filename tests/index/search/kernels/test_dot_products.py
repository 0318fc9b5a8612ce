from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoloc.index.search.kernels import dot_products
from geoloc.index.search.kernels.dot_products import (
    CompiledProducts,
    NumpyProducts,
    Products,
    default_products,
    quantize,
)

WAYS = [CompiledProducts(), NumpyProducts()]


def exact(query: np.ndarray, row: np.ndarray) -> float:
    """A dot product in Python's own exact sum."""
    import math

    return float(np.float32(math.fsum(float(a) * float(b) for a, b in zip(query, row, strict=True))))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("dim", [1, 7, 32, 45, 512])
def test_products_equal_the_exact_sum(way: Products, dim: int) -> None:
    rng = np.random.default_rng(dim)
    stored = (rng.normal(size=(30, dim)) * 10.0 ** rng.integers(-6, 3, (30, dim))).astype(np.float16)
    queries, rows = rng.normal(size=(4, dim)).astype(np.float32), rng.integers(-1, 50, (4, 9))
    out = np.full((4, 9), np.nan, np.float32)
    way.fill(queries, stored, rows, 10, out)
    for query, place in np.ndindex(4, 9):
        row = rows[query, place] - 10
        if 0 <= row < 30:
            assert out[query, place] == pytest.approx(exact(queries[query], stored[row]), rel=1e-6, abs=1e-6)
        else:
            assert np.isnan(out[query, place])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_int8_rows_give_what_they_stand_for(way: Products) -> None:
    rng = np.random.default_rng(1)
    floats = rng.normal(size=(200, 64)).astype(np.float32)
    floats[7] = 0
    stored = quantize(floats)
    assert stored.values.nbytes + stored.scales.nbytes == 200 * (64 + 4)
    np.testing.assert_allclose(stored[np.arange(200)], floats, atol=np.abs(floats).max() / 250)
    rows, out = np.arange(200)[None], np.zeros((1, 200), np.float32)
    way.fill(floats[:1], stored, rows, 0, out)
    wanted = [
        exact(floats[0], stored.values[row].astype(float) * float(stored.scales[row])) for row in range(200)
    ]
    np.testing.assert_allclose(out[0], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out[0], floats @ floats[0], atol=0.35)


def test_rows_may_lie_in_a_file_that_is_only_read(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(12, dtype=np.float16).reshape(4, 3))
    stored = np.load(tmp_path / "rows.npy", mmap_mode="r")
    out = np.zeros((1, 2), np.float32)
    CompiledProducts().fill(np.ones((1, 3), np.float32), stored, np.array([[3, 0]]), 0, out)
    assert out.tolist() == [[30.0, 3.0]]


def test_the_compiled_way_is_used_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_products().name == "compiled"
    for broken in ("_converts_halves", "_agrees"):
        with monkeypatch.context() as patch:
            patch.setattr(dot_products, broken, lambda *_: False)
            default_products.cache_clear()
            assert default_products().name == "numpy"
    default_products.cache_clear()
