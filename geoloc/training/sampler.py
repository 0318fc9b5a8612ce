"""Which pairs go together into a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray


def split_pairs(count: int, workers: int, rank: int, seed: int) -> IntArray:
    """Rows int64[n] of one worker: an equal part of a seeded shuffle (up to workers - 1 pairs are left out)."""
    order = np.random.default_rng((seed, 0x5EED)).permutation(count)
    share = count // workers
    return np.sort(order[rank * share : (rank + 1) * share])


def random_batches(count: int, size: int, seed: int, *, start: int = 0) -> Iterator[IntArray]:
    """Endless batches int64[size] of rows below `count`; each epoch a new permutation, its remainder dropped.

    `start` skips that many batches without drawing them one by one, so that a resumed run goes on where it was.
    """
    size = min(size, count)
    per_epoch = count // size
    epoch, first = divmod(start, per_epoch)
    while True:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for batch in range(first, per_epoch):
            yield np.sort(order[batch * size : (batch + 1) * size])
        epoch, first = epoch + 1, 0


def neighbour_batches(
    east_m: FloatArray, north_m: FloatArray, size: int, seed: int, *, start: int = 0
) -> Iterator[IntArray]:
    """Endless batches int64[size], each half one neighbourhood: harder negatives, as Sample4Geo's GPS sampling.

    Every batch takes the size / 4 nearest of two random anchors that share its epoch's permutation, the rest at
    random. Rows without a position are only drawn at random.
    """
    count = len(east_m)
    size = min(size, count)
    near = size // 4
    for batch, rows in enumerate(random_batches(count, size, seed, start=start), start=start):
        rng = np.random.default_rng((seed, 1, batch))
        chosen: list[int] = []
        for anchor in rng.choice(rows, 2, replace=False):
            squared = (east_m - east_m[anchor]) ** 2 + (north_m - north_m[anchor]) ** 2
            order = np.argsort(squared, kind="stable")[: near + 1]
            chosen.extend(int(row) for row in order if np.isfinite(squared[row]))
        mixed = np.concatenate([np.array(chosen, dtype=np.int64), rng.permutation(rows)])
        _, firsts = np.unique(mixed, return_index=True)
        yield np.sort(mixed[np.sort(firsts)][:size])
