"""Which pairs go together into a batch: one sequence of batches for a run, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Int32Array, IntArray
from geoloc.recipe.training import HardNegatives
from geoloc.training.pair_index import PairIndex

_CLASHES = (
    4  # batches' worth of pairs that do not fit into a batch, before it is filled with them all the same
)

Candidates = Callable[[int], Int32Array]
"""The candidates int32[N, K] of every pair in an epoch (from 0), the hardest first, padded with -1."""


def share_of(batch: int, workers: int, rank: int) -> slice:
    """The rows of a batch that one worker computes; the workers' rows in order of rank are the batch."""
    return slice(batch * rank // workers, batch * (rank + 1) // workers)


def random_batches(count: int, size: int, seed: int, *, start: int = 0) -> Iterator[IntArray]:
    """Endless batches int64[size] of rows below `count`; each epoch a new permutation, its remainder dropped.

    `start` skips that many batches without drawing them one by one, so that a resumed run goes on where it was.
    Memory: 4 bytes a row (8 beyond 2**31 rows).
    """
    size = min(size, count)
    per_epoch = count // size
    epoch, first = divmod(start, per_epoch)
    while True:
        order = _shuffled(count, np.random.default_rng((seed, epoch)))
        for batch in range(first, per_epoch):
            yield np.sort(order[batch * size : (batch + 1) * size]).astype(np.int64)
        epoch, first = epoch + 1, 0


def hard_batches(
    index: PairIndex,
    candidates: Candidates,
    recipe: HardNegatives,
    *,
    size: int,
    distance_m: float,
    seed: int,
    start: int = 0,
) -> Iterator[IntArray]:
    """Endless batches int64[size] of pairs that are hard to tell apart; each pair at most once in an epoch.

    Pairs of one place (`PairIndex.same_place` within `distance_m`) come into different batches, while others are
    left. `candidates` is called at the first batch of each epoch that is taken. `start` skips that many batches: those
    of the epoch that it falls into are drawn again. Memory: 5 bytes a pair.
    """
    size = min(size, len(index))
    per_epoch = len(index) // size
    epoch, first = divmod(start, per_epoch)
    while True:
        rng = np.random.default_rng((seed, 2, epoch))
        drawing = _Epoch(index, candidates(epoch), recipe, size, distance_m, rng)
        for batch in range(per_epoch):
            rows = drawing.batch()
            if batch >= first:
                yield rows
        epoch, first = epoch + 1, 0


def _shuffled(count: int, rng: np.random.Generator) -> AnyArray:
    order = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
    rng.shuffle(order)
    return order


@dataclass
class _Epoch:
    """The batches of one epoch, drawn one after the other."""

    index: PairIndex
    candidates: Int32Array
    recipe: HardNegatives
    size: int
    distance_m: float
    rng: np.random.Generator
    used: BoolArray = field(init=False)
    order: AnyArray = field(init=False)
    next: int = 0
    waiting: list[int] = field(default_factory=list)  # did not fit into a batch before; bounded by `_CLASHES`

    def __post_init__(self) -> None:
        self.used = np.zeros(len(self.index), dtype=bool)
        self.order = _shuffled(len(self.index), self.rng)

    def batch(self) -> IntArray:
        """The next batch int64[size], ascending."""
        rows = np.empty(0, dtype=np.int64)
        clashing: list[int] = []
        waiting, self.waiting = iter(self.waiting), []
        while len(rows) < self.size:
            row = self._next(waiting) if len(clashing) < _CLASHES * self.size else None
            if row is None:
                break
            joined = self._joined(rows, np.array([row]))
            if len(joined) == len(rows):
                clashing.append(row)
                continue
            rows = joined
            self.used[row] = True
            if len(rows) < self.size:
                rows = self._joined(rows, self._followers(row))[: self.size]
                self.used[rows] = True
        missing = self.size - len(rows)
        rows = np.concatenate([rows, np.array(clashing[:missing], dtype=np.int64)])
        self.used[rows] = True
        self.waiting = [*clashing[missing:], *waiting]
        return np.sort(rows)

    def _next(self, waiting: Iterator[int]) -> int | None:
        """The next pair that no batch has; None where none is left."""
        for row in waiting:
            if not self.used[row]:
                return row
        while self.next < len(self.order):
            row = int(self.order[self.next])
            self.next += 1
            if not self.used[row]:
                return row
        return None

    def _followers(self, row: int) -> IntArray:
        """The candidates int64[n] that a pair brings along: the hardest, and as many of the others at random."""
        own = np.asarray(self.candidates[row], dtype=np.int64)
        own = own[own >= 0]
        own = own[~self.used[own]]
        half = min(self.recipe.chosen, self.size // 2) // 2
        others = own[half:]
        return np.concatenate([own[:half], others[self.rng.permutation(len(others))[:half]]])

    def _joined(self, rows: IntArray, others: IntArray) -> IntArray:
        """Rows int64[b] and, of others int64[n], those that show another place than all rows before them."""
        if len(others) == 0:
            return rows
        same = self.index.same_place(others[:, None], np.concatenate([rows, others])[None], self.distance_m)
        kept = np.ones(len(rows) + len(others), dtype=bool)
        for number, row in enumerate(same, start=len(rows)):
            kept[number] = not row[:number][kept[:number]].any()
        return np.concatenate([rows, others[kept[len(rows) :]]])
