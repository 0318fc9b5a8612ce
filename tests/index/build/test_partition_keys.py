from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import geodesy
from geoloc.index.build.partition_keys import KEY_BITS, Histogram, hash_ids, partition_keys


def strings(values: list[str]) -> pa.LargeStringArray:
    return pa.array(values, pa.large_string())


def fnv_splitmix(text: str) -> int:
    """The same hash in Python's own integers."""
    value, limit = 0xCBF29CE484222325, 2**64
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % limit
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % limit
    value = (value ^ value >> 27) * 0x94D049BB133111EB % limit
    return value ^ value >> 31


@settings(deadline=None)
@given(st.lists(st.text(), max_size=8), st.integers(0, 3))
def test_hashes_are_those_of_the_strings(values: list[str], start: int) -> None:
    ids = strings(values).slice(min(start, len(values)))
    assert hash_ids(ids).tolist() == [fnv_splitmix(value) for value in values[start:]]


def test_keys_follow_the_curve_and_split_a_crowded_cell() -> None:
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-35.1, -35, 2000), rng.uniform(149, 149.1, 2000)
    hashes = hash_ids(strings([str(number) for number in range(2000)]))
    keys = partition_keys(hashes, lat, lon, "space")
    np.testing.assert_array_equal(keys >> np.uint64(20), geodesy.cells(lat, lon).astype(np.uint64))
    crowded = partition_keys(hashes, np.full(2000, -35.0), np.full(2000, 149.0), "space")
    assert len(np.unique(crowded)) > 1990
    nowhere = np.full(2000, np.nan)
    np.testing.assert_array_equal(
        partition_keys(hashes, nowhere, nowhere, "space"), partition_keys(hashes, lat, lon, "even")
    )
    assert max(int(keys.max()), int(partition_keys(hashes, lat, lon, "even").max())) < 2**KEY_BITS


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 2**KEY_BITS - 1), min_size=1, max_size=80),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 40),
)
def test_cuts_are_balanced_and_do_not_depend_on_the_parts(
    values: list[int], pieces: int, parts: int, limit: int
) -> None:
    keys = np.array(values, np.uint64)
    whole = Histogram.of(keys, limit)
    merged = Histogram.merged([Histogram.of(some, limit) for some in np.array_split(keys, parts)], limit)
    assert merged.shift == whole.shift
    assert merged.cuts(pieces) == whole.cuts(pieces)
    borders, counts = whole.cuts(pieces)
    assert (borders[0], borders[-1]) == (0, 2**KEY_BITS)
    found = np.searchsorted(np.sort(keys), np.array(borders, np.uint64))
    assert np.diff(found).tolist() == counts
    assert len(counts) <= pieces
    assert min(counts) > 0
    # As even as buckets allow: no piece is larger than its share and the largest bucket.
    assert max(counts) <= -(-len(values) // pieces) + int(whole.counts.max())


def test_distinct_keys_are_cut_exactly() -> None:
    keys = np.random.default_rng(1).choice(10**9, 10_000, replace=False).astype(np.uint64)
    _, counts = Histogram.of(keys).cuts(7)
    assert max(counts) - min(counts) <= 1
    assert Histogram.of(keys[:3]).cuts(10)[1] == [1, 1, 1]


def test_a_histogram_stays_small() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.integers(0, 2**KEY_BITS, 5000, dtype=np.uint64) for _ in range(10)]
    merged = Histogram.merged((Histogram.of(part, 1024) for part in parts), 1024)
    assert len(merged.buckets) <= 1024
    assert merged.counts.sum() == 50_000
    _, counts = merged.cuts(16)
    assert max(counts) < 1.05 * 50_000 / 16
