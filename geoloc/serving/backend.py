"""How the interface asks the replicas: with a pin, again where one died, refusals as errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from geoloc.client.schema import Health, ServedSnapshot
from geoloc.core.errors import QueryError, ServiceUnavailable
from geoloc.serving.answer import (
    Answer,
    Pin,
    PreparedPhoto,
    Query,
    Refused,
    ReplicaState,
    RouteQuery,
    RouteReply,
)
from geoloc.serving.errors import Overloaded

DEFAULT_INDEX = "default"
_TRIES = 3
_REFRESH_S = 2.0  # between questions to the catalog; a reload tells the interface at once
_STATE_TIMEOUT_S = 5.0
_HEALTH_KEPT_S = 1.0


class Backend(Protocol):
    """What the interface asks of the service behind it."""

    async def pin(self, name: str) -> Pin:
        """The snapshot that an index is served from; `QueryError` (`unknown_index`) for an unknown name."""

    async def pins(self) -> dict[str, Pin]:
        """All of them by name."""

    async def locate(self, one: PreparedPhoto, pin: Pin, query: Query) -> Answer:
        """Answer one photo from the snapshot of the pin."""

    async def follow(self, photos: Sequence[PreparedPhoto], pin: Pin, query: RouteQuery) -> RouteReply:
        """Answer the next photos of a route from the snapshot of the pin."""

    async def health(self) -> Health:
        """What is being served; raises `ServiceUnavailable` while it is not."""

    async def reload(self, name: str, snapshot_id: str | None) -> Pin:
        """Serve another snapshot of an index (None: its current one)."""


class ReplicaBackend:
    """The interface's `Backend`: asks the encoder, then the search replica; see the module."""

    def __init__(
        self,
        catalog: DeploymentHandle[Any],
        encoder: DeploymentHandle[Any],
        search: DeploymentHandle[Any],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._search = search
        self._clock_s = clock_s
        self._pins: dict[str, Pin] = {}
        self._asked_s = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self._health: tuple[float, Health] | None = None

    async def pins(self) -> dict[str, Pin]:
        """What is served by name, as the catalog said within the last seconds."""
        if not self._pins:
            await self._refresh()
        elif self._clock_s() - self._asked_s > _REFRESH_S and (
            self._refreshing is None or self._refreshing.done()
        ):
            self._refreshing = asyncio.create_task(self._refresh_quietly())
        return self._pins

    async def pin(self, name: str) -> Pin:
        """The snapshot that an index is served from."""
        pins = await self.pins()
        if name not in pins:
            raise QueryError(
                f"No index is called {name[:100]!r}; served are {', '.join(sorted(pins))}.",
                reason="unknown_index",
            )
        return pins[name]

    async def _refresh(self) -> None:
        pins: dict[str, Pin] = await _result_of(self._catalog.pins.remote)
        self._asked_s = self._clock_s()
        for pin in pins.values():
            self.adopt(pin)

    async def _refresh_quietly(self) -> None:
        try:
            await self._refresh()
        except ServiceUnavailable:  # the pins that we have hold
            self._asked_s = self._clock_s()

    def adopt(self, pin: Pin) -> None:
        """Take over a pin, unless a later one is known."""
        known = self._pins.get(pin.name)
        if known is None or pin.generation >= known.generation:
            self._pins = self._pins | {pin.name: pin}
            self._health = None

    async def locate(self, one: PreparedPhoto, pin: Pin, query: Query) -> Answer:
        """Encode and search, both with the model and snapshot of the pin."""
        started = time.perf_counter()
        queries = await _result_of(lambda: self._encoder.encode.remote(one, pin))
        encoded = {"encode": 1e3 * (time.perf_counter() - started)}
        answer: Answer = await _result_of(lambda: self._search.locate.remote(queries, pin, query))
        return replace(answer, timings_ms=encoded | answer.timings_ms)

    async def follow(self, photos: Sequence[PreparedPhoto], pin: Pin, query: RouteQuery) -> RouteReply:
        """Encode the photos together, and search and follow them in one replica."""
        started = time.perf_counter()
        queries = await asyncio.gather(
            *(_result_of(partial(self._encoder.encode.remote, one, pin)) for one in photos)
        )
        encoded = {"encode": 1e3 * (time.perf_counter() - started)}
        reply: RouteReply = await _result_of(lambda: self._search.follow.remote(queries, pin, query))
        return replace(reply, timings_ms=encoded | reply.timings_ms)

    async def reload(self, name: str, snapshot_id: str | None) -> Pin:
        """Have the catalog roll over to another snapshot."""
        pin: Pin = await _result_of(lambda: self._catalog.reload.remote(name, snapshot_id))
        self.adopt(pin)
        return pin

    async def health(self) -> Health:
        """What all replicas hold, compared; asked at most once a second."""
        if self._health is not None and self._clock_s() - self._health[0] < _HEALTH_KEPT_S:
            return self._health[1]
        pins = await self.pins()
        encoders, searchers = await asyncio.gather(_states(self._encoder), _states(self._search))
        health = compared(pins, encoders, searchers)
        self._health = (self._clock_s(), health)
        return health


def compared(pins: dict[str, Pin], encoders: list[ReplicaState], searchers: list[ReplicaState]) -> Health:
    """What is served, once a replica of each kind holds it; `ServiceUnavailable` names what is missing.

    A replica that lacks a snapshot opens it with the first request that needs it; the counts tell of it.
    """
    indices = []
    for name, pin in sorted(pins.items()):
        encoding = sum(pin.model_id in state.open.get(name, ()) for state in encoders)
        searching = [state for state in searchers if pin.snapshot_id in state.open.get(name, ())]
        if not encoding or not searching:
            missing = "encoder" if not encoding else "search replica"
            raise ServiceUnavailable(
                f"No {missing} holds snapshot {pin.snapshot_id} of index {name} yet; try again in a moment."
            )
        indices.append(
            ServedSnapshot(
                **pin.model_dump(
                    include={"name", "snapshot_id", "model_id", "tiles", "bits", "shards", "located"}
                ),
                bounds=None if pin.bounds is None else pin.bounds.model_dump(),
                calibrated=all(state.calibrated.get(name, False) for state in searching),
                broken_shards=max(state.broken_shards.get(name, 0) for state in searching),
                encoders=f"{encoding}/{len(encoders)}",
                searchers=f"{len(searching)}/{len(searchers)}",
            )
        )
    chosen = next((one for one in indices if one.name == DEFAULT_INDEX), indices[0])
    facts = chosen.model_dump(exclude={"name", "bounds", "broken_shards", "encoders", "searchers"})
    return Health(**facts, indices=tuple(indices))


async def _states(handle: DeploymentHandle[Any]) -> list[ReplicaState]:
    """What each replica holds that answers in time."""
    try:
        response = handle.broadcast("state")
        found = await response.results_async(timeout_s=_STATE_TIMEOUT_S, return_exceptions=True)
    except (DeploymentUnavailableError, TimeoutError):
        return []
    return [state for state in found if isinstance(state, ReplicaState)]


async def _result_of(call: Callable[[], Any]) -> Any:
    """The result of a call to a replica, its errors as they were raised there.

    Calls change nothing that a second one would spoil, so one that died with its replica is made again.
    """
    for left in reversed(range(_TRIES)):
        try:
            result = await call()
        except (BackPressureError, DeploymentUnavailableError) as error:
            raise Overloaded("All replicas are busy; try again in a moment.") from error
        except (RayActorError, ReplicaUnavailableError) as error:
            if not left:
                raise ServiceUnavailable(
                    "The replicas that were asked ended; try again in a moment."
                ) from error
            await asyncio.sleep(0.05)
            continue
        except RayTaskError as error:
            cause = error.cause
            raise (cause if isinstance(cause, Exception) else error) from None
        if isinstance(result, Refused):
            raise result.error
        return result
    raise AssertionError("unreachable")
