"""Which shards share a task."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoloc.runtime.shard_job import _TASK_BYTES, in_groups

MB = 2**20


@pytest.mark.parametrize(
    ("shards", "size_bytes", "workers", "wanted"),
    [
        (4, 2 * MB, 2, [2, 2]),
        (1000, 1 * MB, 2, [62, 63]),  # 64 MB a task
        (3, 200 * MB, 16, [1]),
        (5, 1 * MB, 16, [1]),  # a worker for each
        (1, 1, 8, [1]),
    ],
)
def test_small_shards_share_a_task_and_large_ones_do_not(
    shards: int, size_bytes: int, workers: int, wanted: list[int]
) -> None:
    groups = in_groups([size_bytes] * shards, workers)
    assert {len(group) for group in groups} == set(wanted)
    assert sum(len(group) for group in groups) == shards
    assert len(groups) >= min(workers, shards)


@given(st.lists(st.integers(0, 300 * MB), max_size=60), st.integers(1, 8))
def test_groups_are_neighbours_cover_all_and_stay_small(sizes: list[int], workers: int) -> None:
    groups = in_groups(sizes, workers)
    assert list(itertools.chain.from_iterable(groups)) == list(range(len(sizes)))
    assert all(len(group) for group in groups)
    for group in groups:
        others = sum(sizes[place] for place in group) - max(sizes[place] for place in group)
        assert others <= _TASK_BYTES + max(sizes)  # the middles of a group lie within one task's bytes
