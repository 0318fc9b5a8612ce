"""A photo's real numbers against bits: the compiled scan against NumPy, and the weights against the real numbers."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import QueryError
from geoloc.index.search.kernels.weighted_scan import (
    WeightedKernel,
    bit_weights,
    similarities,
    weighted_distances,
)

KERNELS = [WeightedKernel(shuffles=False), WeightedKernel()]


def by_hand(weights: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What the bits cost that differ from the signs of the weights, by NumPy: int64[Q, N]."""
    signs = 2 * np.unpackbits(codes, axis=1).astype(np.int64) - 1
    wide = weights.astype(np.int64)
    differs = np.sign(wide)[:, None] * signs[None] < 0
    return (np.abs(wide)[:, None] * differs).sum(axis=2)


@pytest.mark.parametrize("kernel", KERNELS, ids=["one by one", "shuffles"])
@pytest.mark.parametrize("bits", [8, 40, 64, 72, 128, 256, 512, 1024, 2048])
@pytest.mark.parametrize("count", [1, 31, 32, 33, 97, 1003])
def test_a_kernel_equals_the_definition(kernel: WeightedKernel, bits: int, count: int) -> None:
    rng = np.random.default_rng(bits + count)
    few = rng.integers(0, 256, (20, bits // 8), dtype=np.uint8)
    codes = few[rng.integers(0, 20, count)]  # full of ties
    weights = bit_weights(rng.normal(size=(5, bits)))
    distances = by_hand(weights, codes)
    np.testing.assert_array_equal(weighted_distances(weights, codes), distances)
    order = np.argsort(distances, axis=1, kind="stable")
    for k in {1, min(7, count), count}:
        got, rows = kernel.nearest(codes, weights, k)
        np.testing.assert_array_equal(rows, order[:, :k])
        np.testing.assert_array_equal(got, np.take_along_axis(distances, order[:, :k], axis=1))


@pytest.mark.parametrize("kernel", KERNELS, ids=["one by one", "shuffles"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_rows_that_are_not_live_are_never_found(kernel: WeightedKernel, share: float) -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 256, (301, 16), dtype=np.uint8)
    live = rng.random(301) < share
    weights = bit_weights(rng.normal(size=(3, 128)))
    distances = np.where(live, by_hand(weights, codes), 1 << 20)
    got, rows = kernel.nearest(codes, weights, 20, live)
    for query in range(3):
        order = np.argsort(distances[query], kind="stable")[: min(20, live.sum())]
        padding = [-1] * (20 - len(order))
        assert rows[query].tolist() == order.tolist() + padding
        assert got[query].tolist() == distances[query, order].tolist() + padding


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_weights_keep_the_order_of_the_real_numbers(scale: float) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(8, 512)) * scale
    codes = rng.integers(0, 256, (2000, 64), dtype=np.uint8)
    signs = 2.0 * np.unpackbits(codes, axis=1) - 1
    product = (logits / scale) @ signs.T
    weights = bit_weights(logits)
    assert weights.dtype == np.int8
    assert np.abs(weights).max() == 63
    assert (np.sign(weights) * np.sign(logits) >= 0).all()
    # Rounding: one part in a thousand of the variance of the product, and the few logits beyond four times the mean.
    got = similarities(weighted_distances(weights, codes), weights)
    for query in range(8):
        assert np.corrcoef(product[query], got[query])[0, 1] > 0.999
        best = np.argsort(-product[query])[:100]
        assert len(set(best) & set(np.argsort(-got[query], kind="stable")[:100])) >= 95


def test_similarities_reach_from_minus_one_to_one() -> None:
    weights = bit_weights(np.linspace(-3, 4, 64)[None])
    same = np.packbits(weights > 0, axis=1)
    distances = weighted_distances(weights, np.concatenate([same, ~same]))
    np.testing.assert_allclose(similarities(distances, weights), [[1.0, -1.0]])
    nothing = bit_weights(np.zeros((2, 64)))
    np.testing.assert_array_equal(nothing, 0)
    np.testing.assert_array_equal(similarities(weighted_distances(nothing, same), nothing), 0.0)


def test_one_odd_logit_leaves_the_others_their_levels() -> None:
    logits = np.ones((1, 512))
    logits[0, 7] = 1000.0
    assert (bit_weights(logits)[0] > 0).all()


def test_sums_of_the_longest_codes_fit() -> None:
    for bits in (1024, 2048, 4096):
        weights = bit_weights(np.ones((1, bits)))
        codes = np.zeros((33, bits // 8), np.uint8)
        total = int(weights.astype(np.int64).sum())
        assert total < 65_535
        got, rows = WeightedKernel().nearest(codes, weights, 1)
        assert (got[0, 0], rows[0, 0]) == (total, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    logits = np.ones((2, 64))
    logits[1, 3] = bad
    with pytest.raises(QueryError, match="finite numbers"):
        bit_weights(logits)
    with pytest.raises(QueryError, match="at most 4096"):
        bit_weights(np.ones((1, 4104)))


def test_no_queries_and_prefixes() -> None:
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 256, (100, 64), dtype=np.uint8)
    none = np.empty((0, 512), np.int8)
    assert WeightedKernel().nearest(codes, none, 3)[1].shape == (0, 3)
    weights = bit_weights(rng.normal(size=(3, 512)))
    # The first bits of a code against the first weights: the rest counts nothing.
    first = np.where(np.arange(512) < 128, weights, 0).astype(np.int8)
    np.testing.assert_array_equal(
        weighted_distances(weights[:, :128], codes[:, :16]), weighted_distances(first, codes)
    )
