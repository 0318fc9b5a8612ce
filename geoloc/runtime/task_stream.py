"""Many small Ray tasks whose descriptions and results are never all in the driver at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from geoloc.core.errors import GeolocError
from geoloc.runtime.ray_session import cpu_count, ensure_ray, remote_task

_TASKS_PER_CPU = 2


def results_in_order(function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
    """The results of `function(*arguments)` for each of `tasks`, in order, computed by Ray tasks.

    Tasks are described while earlier ones run, twice as many as the cluster has CPUs at a time. An argument that is a
    reference of `ray.put` arrives as its value. A `GeolocError` is raised as itself, without Ray's wrapper.
    """
    ensure_ray()
    remote = remote_task(function)
    window = _TASKS_PER_CPU * cpu_count()
    waiting: deque[Any] = deque()
    try:
        for arguments in tasks:
            waiting.append(remote.remote(*arguments))
            if len(waiting) >= window:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except RayTaskError as error:
        if isinstance(error.cause, GeolocError):
            raise error.cause from None
        raise
    finally:
        for reference in waiting:
            ray.cancel(reference)


def shuffle_tasks(
    split: Callable[..., Sequence[Any]],
    tasks: Sequence[tuple[Any, ...]],
    merge: Callable[[Sequence[Any]], Any],
    partitions: int,
) -> list[Any]:
    """Rows regrouped by Ray tasks: `merge` of what `split(*task)` gave for each partition, partition by partition.

    What is between lies in Ray's store, which spills to disk; the driver holds references and the merged results.
    """
    ensure_ray()
    remote = remote_task(split, num_returns=partitions)
    made = [remote.remote(*task) for task in tasks]
    parts = made if partitions > 1 else [[reference] for reference in made]
    if partitions == 1:
        merged = results_in_order(_merge_lists, [(merge, *(part[0] for part in parts))])
    else:
        merged = results_in_order(
            _merge, ((merge, *(part[number] for part in parts)) for number in range(partitions))
        )
    return list(merged)


def _merge(merge: Callable[[Sequence[Any]], Any], *parts: Any) -> Any:
    return merge(parts)


def _merge_lists(merge: Callable[[Sequence[Any]], Any], *parts: Sequence[Any]) -> Any:
    """As `_merge`, where each part is the list of the single partition: Ray does not unpack a single return."""
    return merge([part[0] for part in parts])
