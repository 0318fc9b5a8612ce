"""The interface without replicas: a backend that answers at once, later, or with an error; and how to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import numpy as np
from small_index import small_recipe

from geoloc.client.schema import Health
from geoloc.core.errors import QueryError
from geoloc.localization.fix import Fix
from geoloc.localization.routes.filter import FilterState
from geoloc.localization.routes.route_answer import RouteFix, RoutePosition
from geoloc.recipe.model import ModelInputs
from geoloc.serving.access import KeyEntry
from geoloc.serving.answer import Answer, Pin, PreparedPhoto, Query, RouteQuery, RouteReply
from geoloc.serving.api import create_api
from geoloc.serving.decoder import DecoderPool
from geoloc.serving.limits import ServingLimits

PIN = Pin(
    name="default",
    uri="/nowhere",
    snapshot_id="s",
    current_id="s",
    model_id="m",
    tiles=1,
    bits=128,
    shards=1,
    located=True,
    bounds=None,
    inputs=ModelInputs(**small_recipe().model.model_dump(include=set(ModelInputs.model_fields))),
)


class FakeBackend:
    """Answers one fix after `wait_s`, or raises; keeps the photos that arrived."""

    def __init__(self, wait_s: float = 0.0, error: Exception | None = None) -> None:
        self.wait_s = wait_s
        self.error = error
        self.photos: list[PreparedPhoto] = []
        self.queries: list[Query] = []

    async def pins(self) -> dict[str, Pin]:
        return {"default": PIN}

    async def pin(self, name: str) -> Pin:
        if name != "default":
            raise QueryError(f"No index is called {name!r}; served are default.", reason="unknown_index")
        return PIN

    async def locate(self, one: PreparedPhoto, pin: Pin, query: Query) -> Answer:
        self.photos.append(one)
        self.queries.append(query)
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        return Answer(
            Fix(located=True, lat=1.0, lon=2.0, snapshot_id=pin.snapshot_id), pin.model_id, 1, 1, {}
        )

    async def follow(self, photos: Sequence[PreparedPhoto], pin: Pin, query: RouteQuery) -> RouteReply:
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        here = RoutePosition(
            lat=1.0, lon=2.0, radius_m=5.0, off_map=0.0, path_id="t", path_lat=1.0, path_lon=2.0
        )
        fix = RouteFix(
            located=True, positions=(here,) * len(photos), calibrated=False, snapshot_id=pin.snapshot_id
        )
        one = np.ones(1)
        return RouteReply(fix, FilterState(np.zeros(1, np.int64), one, one, 0.0, 0.0), 1, pin.model_id, 1, 1)

    async def health(self) -> Health:
        facts = PIN.model_dump(include={"snapshot_id", "model_id", "tiles", "bits", "shards", "located"})
        return Health(**facts, calibrated=False)

    async def reload(self, name: str, snapshot_id: str | None) -> Pin:
        return await self.pin(name)


def talk(
    backend: Any,
    limits: ServingLimits,
    script: Callable[[httpx.AsyncClient], Awaitable[Any]],
    *,
    keys: tuple[KeyEntry, ...] = (),
) -> Any:
    """Run a script of requests against the interface, in process."""
    pool = DecoderPool(limits.decoders, limits.decoder)

    async def run() -> Any:
        api = create_api(backend, limits, keys=keys, pool=pool)
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await script(client)

    try:
        return asyncio.run(run())
    finally:
        pool.close()
