"""Several codes a query: a row once, at its smallest distance, and rows of several shards in the order asked."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.index.search import multi_code


@dataclass
class Stored:
    """The parts of a shard that are read here."""

    first_row: int
    codes: np.ndarray
    embeddings: np.ndarray


def stored(rng: np.random.Generator, sizes: list[int]) -> tuple[list[Any], np.ndarray, np.ndarray]:
    codes = rng.integers(0, 256, (sum(sizes), 3), dtype=np.uint8)
    embeddings = rng.normal(size=(sum(sizes), 4)).astype(np.float16)
    shards = [
        Stored(first, codes[first:last], embeddings[first:last])
        for first, last in itertools.pairwise(np.cumsum([0, *sizes]).tolist())
    ]
    return shards, codes, embeddings


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 12))
def test_each_row_stays_once_at_its_smallest_distance(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 5, (3, width))
    distances = np.where(rows < 0, -1, rng.integers(0, 4, rows.shape))
    distances[rows == 4] += 65_530  # as far as sixteen bits reach
    got_rows, got = multi_code.without_repeats(rows, distances)
    assert got_rows.shape == got.shape == rows.shape
    for query in range(3):
        nearest: dict[int, int] = {}
        for row, away in zip(rows[query].tolist(), distances[query].tolist(), strict=True):
            if row >= 0:
                nearest[row] = min(away, nearest.get(row, away))
        found = [
            (row, away)
            for row, away in zip(got_rows[query].tolist(), got[query].tolist(), strict=True)
            if (row, away) != (-1, -1)
        ]
        assert found == sorted(nearest.items())


def test_distances_are_those_from_the_nearest_code_and_padding_has_none() -> None:
    rng = np.random.default_rng(1)
    shards, codes, _ = stored(rng, [4, 1, 3])
    asked = rng.integers(0, 256, (3, 2, 3), dtype=np.uint8)
    rows = np.array([[7, 0, 4, -1], [3, 3, -1, 5], [-1, -1, -1, -1]])
    got = multi_code.distances_of(shards, rows, asked)
    for query in range(3):
        for place, row in enumerate(rows[query]):
            away = [int(np.bitwise_count(codes[row] ^ code).sum()) for code in asked[query]]
            assert got[query, place] == (-1 if row < 0 else min(away))


def test_scores_are_asked_for_with_the_query_s_number_and_its_own_embeddings() -> None:
    shards, _, embeddings = stored(np.random.default_rng(2), [2, 0, 5])
    rows = np.array([[6, -1, 0], [-1, -1, -1], [1, 2, 2]])

    def score(query: int, vectors: np.ndarray) -> np.ndarray:
        return 100 * query + vectors[:, 0].astype(np.float32)

    got = multi_code.scores_of(shards, rows, score, first=10)
    want = np.where(
        rows < 0, np.nan, 100 * np.arange(10, 13)[:, None] + embeddings[rows, 0].astype(np.float32)
    )
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.float32
