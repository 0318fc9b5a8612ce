"""Batches that grow with the load: while one is worked on, the next collects.

Ray Serve's own batching closes a batch when a stated time is over, also while earlier batches still wait for their
turn: under load they stay as small as what arrives within that time. Here a batch closes when its turn has come.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Works on items of one event loop in batches, one batch at a time, in a thread."""

    def __init__(
        self, work: Callable[[list[Item]], Sequence[Result]], *, most: int, wait_s: float = 0.0
    ) -> None:
        """`work` gives a result for each of up to `most` items; an idle worker waits `wait_s` for more than one."""
        self._work = work
        self._most = most
        self._wait_s = wait_s
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def result_of(self, item: Item) -> Result:
        """The result of one item; raises what `work` raised for it."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work_on_all())
        return await future

    async def _work_on_all(self) -> None:
        if self._wait_s > 0:
            await asyncio.sleep(self._wait_s)
        while batch := self._next_batch():
            await self._answer(batch)

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        """Work on a batch; where that fails on each item alone, since one of them need not spoil the others."""
        try:
            results = await asyncio.to_thread(self._work, [item for item, _ in batch])
            answered = list(zip((future for _, future in batch), results, strict=True))
        except Exception as error:  # noqa: BLE001 (those who wait must hear of it, whatever it is)
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            elif not batch[0][1].done():
                batch[0][1].set_exception(error)
            return
        for future, result in answered:
            if not future.done():  # cancelled meanwhile
                future.set_result(result)

    def _next_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Up to `most` items, the oldest first, without those that nobody waits for any longer."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._most:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch
