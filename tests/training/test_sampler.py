from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core.arrays import FloatArray, Int32Array, IntArray
from geoloc.recipe.training import HardNegatives
from geoloc.training.neighbours import NeighbourLists
from geoloc.training.pair_index import PairIndex
from geoloc.training.sampler import hard_batches, random_batches, share_of


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(1, 5))
def test_workers_share_a_batch_evenly_in_order_of_rank(each: int, workers: int) -> None:
    rows = np.arange(each * workers)
    shares = [rows[share_of(len(rows), workers, rank)] for rank in range(workers)]
    assert [len(share) for share in shares] == [each] * workers
    np.testing.assert_array_equal(np.concatenate(shares), rows)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 9), st.integers(0, 40))
def test_a_resumed_run_sees_the_batches_it_would_have_seen(
    count: int, size: int, seed: int, start: int
) -> None:
    whole = list(islice(random_batches(count, size, seed), start + 3))
    resumed = list(islice(random_batches(count, size, seed, start=start), 3))
    for a, b in zip(whole[start:], resumed, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 9))
def test_an_epoch_takes_every_pair_at_most_once(count: int, size: int, seed: int) -> None:
    size = min(size, count)
    epoch = np.concatenate(list(islice(random_batches(count, size, seed), count // size)))
    assert len(set(epoch.tolist())) == len(epoch) == count // size * size


DISTANCE_M = 12.0


def index_of(east: FloatArray, north: FloatArray, tile: IntArray | None = None) -> PairIndex:
    """Pairs with a photo each, and a tile each where no tiles are given."""
    rows, zero = np.arange(len(east)), np.zeros(len(east))
    tile = rows if tile is None else tile
    return PairIndex(rows, tile, zero, zero, east, north, rows, np.unique(tile))


def town(count: int, seed: int = 0, side_m: float = 1000.0) -> PairIndex:
    """Pairs in a square, a few without a position, every tile with two pairs."""
    rng = np.random.default_rng(seed)
    east, north = rng.uniform(0, side_m, (2, count))
    east[:5] = north[:5] = np.nan
    return index_of(east, north, np.arange(count) // 2)


def batches_of(
    index: PairIndex, size: int, seed: int, start: int = 0, recipe: HardNegatives | None = None
) -> Iterator[IntArray]:
    lists = NeighbourLists().geographic(index, 128, DISTANCE_M)

    def candidates(epoch: int) -> Int32Array:
        return lists

    return hard_batches(
        index,
        candidates,
        recipe or HardNegatives(),
        size=size,
        distance_m=DISTANCE_M,
        seed=seed,
        start=start,
    )


def test_hard_batches_hold_neighbourhoods_of_different_places() -> None:
    index = town(600)
    hard = list(islice(batches_of(index, 32, 1), 18))
    random = list(islice(random_batches(600, 32, 1), 18))

    def nearest(rows: IntArray) -> float:
        east, north = index.east_m[rows], index.north_m[rows]
        squared = (east[:, None] - east) ** 2 + (north[:, None] - north) ** 2
        np.fill_diagonal(squared, np.inf)
        return float(np.nanmedian(np.sqrt(np.nanmin(squared, axis=1))))

    assert np.mean([nearest(rows) for rows in hard]) < 0.6 * np.mean([nearest(rows) for rows in random])
    for rows in hard[:15]:  # the last ones of an epoch take what is left
        same = index.same_place(rows[:, None], rows[None], DISTANCE_M)
        assert same.sum() == len(rows)


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 90), st.integers(2, 20), st.integers(0, 9))
def test_an_epoch_of_hard_batches_takes_every_pair_at_most_once(count: int, size: int, seed: int) -> None:
    """Also where all of them are one place, which no batch can keep apart."""
    size = min(size, count)
    for side_m in (500.0, 5.0):
        index = town(count, seed, side_m)
        epoch = list(islice(batches_of(index, size, seed), count // size))
        assert all(len(rows) == size for rows in epoch)
        assert len(np.unique(np.concatenate(epoch))) == count // size * size


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 40), st.integers(0, 5))
def test_a_resumed_run_sees_the_hard_batches_it_would_have_seen(start: int, seed: int) -> None:
    index = town(100)
    whole = list(islice(batches_of(index, 16, seed), start + 3))
    resumed = list(islice(batches_of(index, 16, seed, start), 3))
    np.testing.assert_array_equal(whole[start:], resumed)


def test_a_pair_brings_its_hardest_candidates_and_some_of_the_others() -> None:
    """With one anchor in a batch: half of what it brings are the first of its list."""
    count, size = 64, 32
    index = index_of(np.full(count, np.nan), np.full(count, np.nan))
    lists = np.array([np.delete((row + np.arange(count)) % count, 0) for row in range(count)], dtype=np.int32)
    recipe = HardNegatives(candidates=63, chosen=16)
    rng = np.random.default_rng((7, 2, 0))
    order = np.arange(count, dtype=np.int32)
    rng.shuffle(order)
    first = next(hard_batches(index, lambda _: lists, recipe, size=size, distance_m=12.0, seed=7))
    hardest = (order[0] + 1 + np.arange(8)) % count
    assert {int(order[0]), *hardest.tolist()} <= set(first.tolist())
    others = [row for row in first if (row - order[0]) % count > 8]
    assert len(others) == size - 9
