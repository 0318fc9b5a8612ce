"""Batches grow while one is worked on; everyone gets the own result, or the error of the own batch."""

from __future__ import annotations

import asyncio
import threading

import pytest

from geoloc.serving.batching import Batcher


class Work:
    """Doubles numbers once it is let through; notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.through = threading.Semaphore(0)

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        self.begun.release()
        assert self.through.acquire(timeout=20)
        if -1 in numbers:
            raise ValueError("a number is negative")
        return [2 * number for number in numbers]

    async def has_begun(self) -> None:
        await asyncio.to_thread(self.begun.acquire, timeout=20)

    def let_through(self, batches: int) -> None:
        self.through.release(batches)


def test_what_comes_meanwhile_is_the_next_batch() -> None:
    work = Work()

    async def script() -> list[int]:
        batcher = Batcher(work, most=4)
        tasks = [asyncio.create_task(batcher.result_of(0))]
        await work.has_begun()
        tasks += [asyncio.create_task(batcher.result_of(number)) for number in range(1, 8)]
        await asyncio.sleep(0)
        work.let_through(3)
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(script()) == [2 * number for number in range(8)]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]  # the first came alone; the others in their order


def test_an_error_is_that_of_its_item_alone_and_work_goes_on() -> None:
    work = Work()

    async def script() -> list[int | BaseException]:
        batcher = Batcher(work, most=2)
        tasks = [asyncio.create_task(batcher.result_of(1))]
        await work.has_begun()
        tasks += [asyncio.create_task(batcher.result_of(number)) for number in (2, -1, 3)]
        await asyncio.sleep(0)
        work.let_through(5)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        work.let_through(1)
        return [*found, await batcher.result_of(4)]  # the worker had ended: another one begins

    one, two, minus, three, four = asyncio.run(script())
    assert (one, two, three, four) == (2, 4, 6, 8)
    assert isinstance(minus, ValueError)
    assert work.batches == [[1], [2, -1], [2], [-1], [3], [4]]


def test_items_that_nobody_waits_for_are_not_worked_on() -> None:
    work = Work()

    async def script() -> int:
        batcher = Batcher(work, most=4)
        first, gone, last = (asyncio.create_task(batcher.result_of(number)) for number in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        work.let_through(2)
        await first
        with pytest.raises(asyncio.CancelledError):
            await gone
        return await last

    assert asyncio.run(script()) == 6
    assert all(2 not in batch for batch in work.batches)


@pytest.mark.parametrize(("wait_s", "batches"), [(0.0, [[1], [2]]), (0.3, [[1, 2]])])
def test_an_idle_worker_begins_at_once_unless_it_is_to_wait(wait_s: float, batches: list[list[int]]) -> None:
    work = Work()
    work.let_through(2)

    async def script() -> None:
        batcher = Batcher(work, most=4, wait_s=wait_s)
        first = asyncio.create_task(batcher.result_of(1))
        if not wait_s:
            await work.has_begun()
        else:
            await asyncio.sleep(0)
        await asyncio.gather(first, batcher.result_of(2))

    asyncio.run(script())
    assert work.batches == batches


def test_a_batch_with_too_few_results_is_an_error_of_those_who_wait() -> None:
    async def script() -> list[int | BaseException]:
        batcher: Batcher[int, int] = Batcher(lambda numbers: numbers[:-1], most=4, wait_s=0.05)
        return list(await asyncio.gather(*(batcher.result_of(one) for one in (1, 2)), return_exceptions=True))

    answers = asyncio.run(asyncio.wait_for(script(), timeout=20))
    assert [type(one) for one in answers] == [ValueError, ValueError]
