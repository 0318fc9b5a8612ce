"""All Hamming distances of two blocks, against NumPy's unpacked bits."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.index.search.kernels.hamming import code_words, hamming_distances


@pytest.mark.parametrize(
    ("code_bytes", "bits"), [(1, None), (8, None), (20, None), (32, 64), (32, 200), (512, None)]
)
def test_the_distances_are_those_of_the_bits(code_bytes: int, bits: int | None) -> None:
    rng = np.random.default_rng(5)
    queries = rng.integers(0, 256, (7, code_bytes), dtype=np.uint8)
    codes = rng.integers(0, 256, (70, code_bytes), dtype=np.uint8)
    codes[3], codes[4] = queries[0], ~queries[0]
    got = hamming_distances(code_words(queries, bits), code_words(codes, bits))
    left, right = (np.unpackbits(some, axis=1)[:, : bits or 8 * code_bytes] for some in (queries, codes))
    assert got.dtype == np.uint16
    assert np.array_equal(got, (left[:, None] != right[None]).sum(axis=2))


def test_words_keep_leading_axes() -> None:
    codes = np.arange(60, dtype=np.uint8).reshape(2, 3, 10)
    words = code_words(codes)
    assert words.shape == (2, 3, 2)
    assert np.array_equal(words[1, 2], code_words(codes[1, 2:])[0])


def test_no_queries_and_no_codes() -> None:
    none, some = (code_words(np.zeros((rows, 4), np.uint8)) for rows in (0, 5))
    assert hamming_distances(none, some).shape == (0, 5)
    assert hamming_distances(some, none).shape == (5, 0)
