from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoloc.training.sampler import neighbour_batches, random_batches, split_pairs


@given(st.integers(1, 200), st.integers(1, 5), st.integers(0, 99))
def test_workers_share_the_pairs_evenly(count: int, workers: int, seed: int) -> None:
    shares = [split_pairs(count, workers, rank, seed) for rank in range(workers)]
    together = np.concatenate(shares)
    assert len({len(share) for share in shares}) == 1
    assert len(set(together.tolist())) == len(together) >= count - workers + 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 9), st.integers(0, 40))
def test_a_resumed_run_sees_the_batches_it_would_have_seen(
    count: int, size: int, seed: int, start: int
) -> None:
    whole = list(islice(random_batches(count, size, seed), start + 3))
    resumed = list(islice(random_batches(count, size, seed, start=start), 3))
    for a, b in zip(whole[start:], resumed, strict=True):
        np.testing.assert_array_equal(a, b)


@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 9))
def test_an_epoch_takes_every_pair_at_most_once(count: int, size: int, seed: int) -> None:
    size = min(size, count)
    epoch = np.concatenate(list(islice(random_batches(count, size, seed), count // size)))
    assert len(set(epoch.tolist())) == len(epoch) == count // size * size


def test_neighbour_batches_hold_neighbourhoods() -> None:
    rng = np.random.default_rng(0)
    east, north = rng.uniform(0, 1000, (2, 400))
    east[:5] = np.nan
    batches = list(islice(neighbour_batches(east, north, 32, 1), 20))
    random = list(islice(random_batches(400, 32, 1), 20))

    def nearest(rows: np.ndarray) -> float:
        squared = (east[rows][:, None] - east[rows]) ** 2 + (north[rows][:, None] - north[rows]) ** 2
        np.fill_diagonal(squared, np.inf)
        return float(np.nanmedian(np.sqrt(np.nanmin(squared, axis=1))))

    for rows in batches:
        assert len(rows) == len(set(rows.tolist())) == 32
    assert np.mean([nearest(rows) for rows in batches]) < 0.7 * np.mean([nearest(rows) for rows in random])
    again = list(islice(neighbour_batches(east, north, 32, 1, start=7), 2))
    np.testing.assert_array_equal(again[0], batches[7])
