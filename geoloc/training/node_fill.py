"""Work on the node of this process by Ray Data, beside the workers that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ray
import ray.data

from geoloc.core.errors import GeolocError
from geoloc.runtime.ray_session import ensure_ray
from geoloc.runtime.table_job import decode_error, encode_error
from geoloc.training.node_cache import Fill


def fill_on_this_node(at_once: int) -> Fill:
    """Calls functions in tasks on this node, `at_once` at a time.

    The tasks ask for no CPU: they use those of the workers of this node, which hold them and wait.
    """

    def fill(function: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
        listed = list(calls)
        node = ray.get_runtime_context().get_node_id()
        ensure_ray()  # with our settings of Ray Data
        # Items need no task that reads them: such a task would wait for a CPU that the workers hold.
        rows = ray.data.from_items(
            [{"id": number} for number in range(len(listed))], override_num_blocks=len(listed)
        )
        results = rows.map(
            _Call(function, listed),
            num_cpus=0,
            concurrency=min(at_once, len(listed)),
            label_selector={"ray.io/node-id": node},
        )
        for row in results.iter_rows():
            if row["failure"]:
                raise decode_error(row["failure"])

    return fill


class _Call:
    """A plain callable that Ray ships with the arguments of all calls."""

    def __init__(self, function: Callable[..., None], calls: list[tuple[Any, ...]]) -> None:
        self.function = function
        self.calls = calls
        self.__name__ = "fill"

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        try:
            self.function(*self.calls[int(row["id"])])
        except GeolocError as error:
            return {"failure": encode_error(error)}
        return {"failure": ""}
