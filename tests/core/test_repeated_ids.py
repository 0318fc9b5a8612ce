"""Ids that a list has more than once, against a plain count."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import repeated_ids
from geoloc.core.repeated_ids import RepeatedIds


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(max_size=2), max_size=120), st.integers(1, 50))
def test_places_of_ids_that_are_there_twice(ids: list[str], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeated_ids, "_PIECE", piece)
        repeated = RepeatedIds(iter(ids))
    counted = Counter(ids)
    assert [place in repeated for place in range(len(ids))] == [counted[key] > 1 for key in ids]
    assert len(ids) not in repeated


def test_an_id_takes_less_than_16_bytes() -> None:
    """Of 20,000 and of 80,000 ids, each made when it is reached."""
    peaks = []
    for count in (20_000, 80_000):
        tracemalloc.start()
        repeated = RepeatedIds(
            f"a rather long name of a photo, {number // 2 * 2 if number < 4 else number}"
            for number in range(count)
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert [number for number in range(count) if number in repeated] == [0, 1, 2, 3]
    assert (peaks[1] - peaks[0]) / 60_000 < 16
