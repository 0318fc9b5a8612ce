"""Where the time of training steps goes: data, forward pass, backward pass, communication, optimizer, mining."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("data", "forward", "backward", "communication", "optimizer", "mining")


class StepTimes:
    """Seconds of the parts of steps on this worker, added up until `shares` is called.

    Communication is the gathering of embeddings and of the statistics of batch norms, with the wait for slower
    workers; DDP sends gradients while the backward pass goes on, and what is left of that is in `backward`. A GPU
    computes while the CPU goes on: there a part holds what the CPU waits for in it.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count the time of the block as `part`; a part inside another one is not counted as the other one's."""
        self._switch()
        self._running.append(part)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def shares(self) -> dict[str, float]:
        """Each part's share of all time in parts since the last call, 0 to 1; zeros where nothing ran."""
        whole = sum(self._seconds.values())
        shares = {part: seconds / whole if whole else 0.0 for part, seconds in self._seconds.items()}
        self._seconds = dict.fromkeys(PARTS, 0.0)
        return shares

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now


TIMES = StepTimes()
"""Those of this process: it trains one model at a time, and messages between workers start deep inside a pass."""
