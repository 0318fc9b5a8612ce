"""Which snapshot each index is served from: resolved once, kept through restarts, rolled over in order.

One replica, the catalog, decides. Encoders and searchers that start ask it, so a replaced one comes up with what the
others serve. A new snapshot is first opened by every searcher, then its model by every encoder; only then do
requests carry it. The decision lies in Ray's key-value store, under the name of this very deployment.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pydantic import TypeAdapter
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.experimental import internal_kv
from ray.serve.exceptions import DeploymentUnavailableError

from geoloc.client.client import OPEN_TIMEOUT_S
from geoloc.core import storage
from geoloc.core.errors import GeolocError, QueryError, ServiceUnavailable, StoreUnavailable
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.manifest import read_manifest
from geoloc.models.card import read_inputs
from geoloc.serving.answer import Pin, Refused, ServedIndex, refusals_as_values
from geoloc.serving.metrics import record_served

INGRESS, ENCODER, SEARCH, CATALOG = "Ingress", "Encoder", "Search", "Catalog"
_STORE = b"geoloc"
_PINS = TypeAdapter(dict[str, Pin])

logger = logging.getLogger("geoloc.serving")


def resolve_pin(name: str, index: ServedIndex) -> Pin:
    """The pin of an index, its snapshot resolved now; raises as `read_manifest` does."""
    uri = storage.absolute(index.uri)
    current = current_snapshot(uri)  # read once: a commit meanwhile is then noticed later
    snapshot_id = index.snapshot_id or current
    manifest = read_manifest(uri, snapshot_id)
    return Pin(
        name=name,
        uri=uri,
        snapshot_id=snapshot_id,
        current_id=current,
        model_id=manifest.model.model_id,
        tiles=manifest.count,
        bits=manifest.bits,
        shards=len(manifest.shards),
        located=manifest.located,
        bounds=manifest.bounds,
        inputs=read_inputs(storage.join(uri, manifest.model.directory)),
    )


class CatalogReplica:
    """Holds the pins of a service; see the module. `service_id` tells this deployment from an earlier one."""

    def __init__(self, service_id: str, indices: dict[str, ServedIndex], watch_s: float) -> None:
        self._key = f"pins/{service_id}".encode()
        self._indices = indices
        self._watch_s = watch_s
        self._turn = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        stored = internal_kv._internal_kv_get(self._key, namespace=_STORE)
        self._pins = _PINS.validate_json(stored) if stored else self._resolved()
        self._store()
        for pin in self._pins.values():
            record_served(pin.name, pin.snapshot_id, pin.model_id, serving=True)

    def _resolved(self) -> dict[str, Pin]:
        return {name: resolve_pin(name, index) for name, index in self._indices.items()}

    def _store(self) -> None:
        internal_kv._internal_kv_put(self._key, _PINS.dump_json(self._pins), namespace=_STORE)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Start to watch the indices; Serve calls it once the replica is made."""
        if self._watch_s > 0 and self._watching is None:
            self._watching = asyncio.create_task(self._watch())

    async def pins(self) -> dict[str, Pin]:
        """What is served now, by name."""
        return self._pins

    async def prove(self, name: str, snapshot_id: str) -> None:
        """A replica has opened all of a snapshot: those that start later may come up without what broke since."""
        pin = self._pins[name]
        if pin.snapshot_id == snapshot_id and not pin.proven:
            self._pins[name] = pin.model_copy(update={"proven": True})
            self._store()

    @refusals_as_values
    async def reload(self, name: str, snapshot_id: str | None = None) -> Pin:
        """Serve another snapshot of an index (None: its current one) and return its pin once all requests carry it.

        Raises what a replica raised that could not open it; the old snapshot is then served on.
        """
        if name not in self._indices:
            raise QueryError(
                f"No index is called {name!r}; served are {', '.join(sorted(self._indices))}.",
                reason="unknown_index",
            )
        async with self._turn:
            return await self._roll_over(name, snapshot_id)

    async def _roll_over(self, name: str, snapshot_id: str | None) -> Pin:
        """Open a snapshot everywhere, then have requests carry it; the caller has the turn."""
        chosen = ServedIndex(uri=self._indices[name].uri, snapshot_id=snapshot_id)
        pin = await asyncio.to_thread(resolve_pin, name, chosen)
        pin = pin.model_copy(update={"generation": self._pins[name].generation + 1})
        opened = await _on_all(SEARCH, "open", pin)
        await _on_all(ENCODER, "open", pin)
        # Where every search replica had just ended, the first one that starts proves the snapshot.
        before, self._pins[name] = self._pins[name], pin.model_copy(update={"proven": opened > 0})
        self._store()
        record_served(name, before.snapshot_id, before.model_id, serving=False)
        record_served(name, pin.snapshot_id, pin.model_id, serving=True)
        await _on_all(INGRESS, "adopt", self._pins[name])
        return self._pins[name]

    async def _watch(self) -> None:
        """Take up what becomes current in indices whose snapshot nobody chose."""
        failed: dict[str, str] = {}  # by index; tried once: it stays broken until something else is current
        while True:
            await asyncio.sleep(self._watch_s)
            for name, index in self._indices.items():
                if index.snapshot_id is None:
                    async with self._turn:  # whoever reloads meanwhile has the last word
                        await self._follow(name, index, failed)

    async def _follow(self, name: str, index: ServedIndex, failed: dict[str, str]) -> None:
        """Serve the current snapshot of an index if it is a new one; what failed for good is noted."""
        current = await _current(name, index)
        served = self._pins[name]
        if current in ("", served.current_id, failed.get(name)):
            return
        try:
            await self._roll_over(name, None)
        except (ServiceUnavailable, StoreUnavailable) as error:  # it passes: the next look tries again
            logger.warning("Index %s stays at snapshot %s for now: %s", name, served.snapshot_id, error)
        except Exception as error:  # the watch goes on, whatever a replica or a file did
            failed[name] = current
            trace = None if isinstance(error, GeolocError) else error
            logger.error("Index %s stays at snapshot %s: %s", name, served.snapshot_id, error, exc_info=trace)


async def _current(name: str, index: ServedIndex) -> str:
    """The current snapshot of an index; empty while it cannot be read."""
    try:
        return await asyncio.to_thread(current_snapshot, storage.absolute(index.uri))
    except GeolocError as error:
        logger.warning("The current snapshot of index %s cannot be read: %s", name, error)
        return ""


async def _on_all(deployment: str, method: str, pin: Pin) -> int:
    """Call a method of every replica; returns how many answered.

    One that died meanwhile is replaced by one that asks for the pins itself.
    """
    handle = serve.get_deployment_handle(deployment, serve.get_replica_context().app_name)
    try:
        response = handle.broadcast(method, pin)
        results = await response.results_async(timeout_s=OPEN_TIMEOUT_S, return_exceptions=True)
    except DeploymentUnavailableError:
        return 0
    except TimeoutError as error:
        raise ServiceUnavailable(
            f"Not every replica of {deployment} opened snapshot {pin.snapshot_id} within {OPEN_TIMEOUT_S:g} s; the old "
            "one is served on."
        ) from error
    for result in results:
        if isinstance(result, Refused):
            raise result.error
        if isinstance(result, RayTaskError) and isinstance(result.cause, Exception):
            raise result.cause
        if isinstance(result, Exception) and not isinstance(result, RayActorError):
            raise result
    return sum(not isinstance(result, Exception) for result in results)
