"""How the interface asks its replicas, with handles that answer here: health and pins are asked once in a while."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from geoloc.core.errors import ServiceUnavailable
from geoloc.serving.answer import ReplicaState
from geoloc.serving.backend import ReplicaBackend
from tests.serving.fake_backend import PIN


class Handle:
    """A handle of one replica that holds `open`; counts what it is asked."""

    def __init__(self, open_: tuple[str, ...] = ()) -> None:
        self.open = open_
        self.asked = 0
        self.pins = self

    async def remote(self) -> Any:
        self.asked += 1
        return {"default": PIN}

    def broadcast(self, method: str) -> Handle:
        assert method == "state"
        self.asked += 1
        return self

    async def results_async(self, **options: Any) -> list[ReplicaState]:
        return [ReplicaState("any", {"default": self.open})]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_health_is_kept_for_a_second_and_until_another_snapshot_is_served() -> None:
    clock, encoder, search = Clock(), Handle(("m",)), Handle(("s", "t"))

    async def script() -> list[int]:
        backend = ReplicaBackend(Handle(), encoder, search, clock)  # type: ignore[arg-type]
        asked = []
        for step_s in (0.0, 0.9, 0.2):
            clock.now_s += step_s
            health = await backend.health()
            assert (health.indices[0].encoders, health.indices[0].searchers) == ("1/1", "1/1")
            asked.append(search.asked)
        backend.adopt(PIN.model_copy(update={"snapshot_id": "t", "generation": 1}))
        assert (await backend.health()).snapshot_id == "t"
        return [*asked, search.asked]

    assert asyncio.run(script()) == [1, 1, 2, 3]
    assert encoder.asked == 3


def test_health_that_failed_is_asked_again_at_once() -> None:
    clock, encoder, search = Clock(), Handle(("m",)), Handle()

    async def script() -> str:
        backend = ReplicaBackend(Handle(), encoder, search, clock)  # type: ignore[arg-type]
        with pytest.raises(ServiceUnavailable, match="No search replica holds snapshot s"):
            await backend.health()
        search.open = ("s",)
        return (await backend.health()).status

    assert asyncio.run(script()) == "ready"


def test_the_catalog_is_asked_again_after_two_seconds_while_requests_go_on() -> None:
    clock, catalog = Clock(), Handle()

    async def script() -> list[int]:
        backend = ReplicaBackend(catalog, Handle(), Handle(), clock)  # type: ignore[arg-type]
        asked = []
        for step_s in (0.0, 1.9, 0.2, 0.2):
            clock.now_s += step_s
            await backend.pin("default")
            await asyncio.sleep(0)  # the question in the background
            asked.append(catalog.asked)
        return asked

    assert asyncio.run(script()) == [1, 1, 2, 2]
