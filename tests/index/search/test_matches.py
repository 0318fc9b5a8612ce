"""Lists of matches: taking, joining and grouping keep padding as padding."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.index.search.matches import Matches


def matches(rows: list[list[int]], *, similarity: float = np.nan) -> Matches:
    """Lists of tiles named after their rows; -1 is padding."""
    row = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
    there = row >= 0
    return Matches(
        snapshot_id="s",
        rows=row,
        tile_ids=np.where(there, np.char.add("t", row.astype(str)).astype(object), None),
        lat=np.where(there, row + 0.5, np.nan),
        lon=np.where(there, -row - 0.5, np.nan),
        distance_bits=np.where(there, 2 * row, -1).astype(np.int32),
        similarity=np.where(there, similarity, np.nan).astype(np.float32),
    )


def assert_equal(got: Matches, want: Matches) -> None:
    for name in ("rows", "tile_ids", "lat", "lon", "distance_bits", "similarity"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)


def test_taken_columns_are_those_named_and_padding_else() -> None:
    got = matches([[4, 5, 6], [7, 8, -1]]).take(np.array([[2, -1], [0, 1]]))
    assert_equal(got, matches([[6, -1], [7, 8]]))
    assert got.counts.tolist() == [1, 2]


def test_joined_lists_are_padded_to_the_widest() -> None:
    got = Matches.joined([matches([[1, 2, 3]]), matches([[4], [5]])])
    assert_equal(got, matches([[1, 2, 3], [4, -1, -1], [5, -1, -1]]))
    assert_equal(got.reordered(np.array([2, 0])), matches([[5, -1, -1], [1, 2, 3]]))


def test_grouped_lists_follow_each_other() -> None:
    assert_equal(
        matches([[1, 2], [3, -1], [4, 5], [6, 7]]).grouped(2), matches([[1, 2, 3, -1], [4, 5, 6, 7]])
    )


def test_scores_are_cosines_or_estimates_from_the_distance() -> None:
    np.testing.assert_allclose(matches([[3, -1]], similarity=0.25).scores(64), [[0.25, np.nan]])
    np.testing.assert_allclose(
        matches([[16, -1]]).scores(64), [[np.cos(np.pi * 32 / 64), np.nan]], atol=1e-12
    )


def test_a_list_without_padding_has_one_entry_a_tile() -> None:
    (only,) = matches([[3, -1]]).of(0)
    assert (only.tile_id, only.row, only.lat, only.distance_bits) == ("t3", 3, pytest.approx(3.5), 6)
    assert only.similarity is None


def test_the_first_row_of_a_snapshot_at_no_distance_is_a_tile() -> None:
    found = matches([[0, -1], [-1, -1]])
    assert found.counts.tolist() == [1, 0]
    np.testing.assert_array_equal(found.scores(64), [[1.0, np.nan], [np.nan, np.nan]])
    (only,) = found.of(0)
    assert (only.tile_id, only.row, only.distance_bits, only.similarity) == ("t0", 0, 0, None)
    assert matches([[0]], similarity=0.0).of(0)[0].similarity == 0.0
    assert found.of(1) == []
    assert_equal(found.take(np.array([[0], [0]])), matches([[0], [-1]]))
