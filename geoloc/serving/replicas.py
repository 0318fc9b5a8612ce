"""The replicas behind the interface: one that encodes photos in batches, one that holds all shards of snapshots.

Each request names its snapshot. A replica that does not hold it opens it; what a new snapshot replaced stays open until
the next one comes, for the requests that still carry it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
from ray import serve
from ray.serve.handle import DeploymentHandle

from geoloc.core import storage
from geoloc.core.errors import ServiceUnavailable
from geoloc.index.format.manifest import read_manifest
from geoloc.localization.locator import EncodedQueries, Locator
from geoloc.localization.query_photos import encode_prepared
from geoloc.serving.answer import Answer, Pin, PreparedPhoto, Query, ReplicaState, refusals_as_values

# Picture, view, heading, field of view, encoder.
Prepared = tuple[npt.NDArray[np.uint8], str, float | None, float, Any]
_KEPT = 2  # snapshots or models of an index: the one that is served, and the one before it


class EncoderReplica:
    """Turns photos into embeddings and codes with the models of the indices, many at a time."""

    def __init__(
        self,
        catalog: DeploymentHandle[Any],
        *,
        device: str,
        threads: int | None,
        headings: int,
        max_batch: int,
        wait_s: float,
    ) -> None:
        self._catalog = catalog
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._headings = headings
        self._encoders: dict[str, Any] = {}
        self._models: dict[str, OrderedDict[str, None]] = {}  # of each index, the latest last
        self._opening = asyncio.Lock()
        batching: Any = self.encode_batch  # Serve adds the setters, its annotations leave them out
        batching.set_max_batch_size(max_batch)
        batching.set_batch_wait_timeout_s(wait_s)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Open the models of what is served; Serve calls it before the replica gets requests."""
        for pin in (await self._catalog.pins.remote()).values():
            await self._open(pin)

    @refusals_as_values
    async def open(self, pin: Pin) -> None:
        """Open the model of a snapshot while requests are answered."""
        await self._open(pin)

    async def _open(self, pin: Pin) -> Any:
        async with self._opening:
            encoder = self._encoders.get(pin.model_id)
            if encoder is None:
                encoder = await asyncio.to_thread(self._load, pin)
                self._encoders[pin.model_id] = encoder
            kept = self._models.setdefault(pin.name, OrderedDict())
            kept[pin.model_id] = None
            kept.move_to_end(pin.model_id)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
            needed = {model for models in self._models.values() for model in models}
            self._encoders = {model: one for model, one in self._encoders.items() if model in needed}
            return encoder

    def _load(self, pin: Pin) -> Any:
        from geoloc.models.encoder import Encoder

        model = read_manifest(pin.uri, pin.snapshot_id).model
        return Encoder.open(storage.join(pin.uri, model.directory), **self._options)

    async def state(self) -> ReplicaState:
        """What this replica holds."""
        return ReplicaState("Encoder", {name: tuple(kept) for name, kept in self._models.items()})

    @refusals_as_values
    async def encode(self, one: PreparedPhoto, pin: Pin) -> EncodedQueries:
        """Encode one photo, together with whatever else arrives within a few milliseconds."""
        encoder = self._encoders.get(pin.model_id) or await self._open(pin)
        row: Prepared = (one.image, one.view, one.heading_deg, one.fov_deg, encoder)
        encoded: EncodedQueries = await self.encode_batch(row)
        return encoded

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def encode_batch(self, batch: list[Prepared]) -> list[EncodedQueries]:
        """Encode prepared pictures; those of one model, view and kind of heading share a pass."""
        return await asyncio.to_thread(self._encode, batch)

    def _encode(self, batch: list[Prepared]) -> list[EncodedQueries]:
        groups: dict[tuple[int, str, bool], list[int]] = {}
        for position, (_, view, heading, _, encoder) in enumerate(batch):
            groups.setdefault((id(encoder), view, heading is not None), []).append(position)
        answers: dict[int, EncodedQueries] = {}
        for (_, view, known), positions in groups.items():
            rows = [batch[position] for position in positions]
            pictures = np.stack([row[0] for row in rows])
            headings = [row[2] for row in rows] if known else None
            fovs = [row[3] for row in rows]
            encoded = encode_prepared(rows[0][4], pictures, view, headings, self._headings, fov_deg=fovs)
            for row, position in enumerate(positions):
                answers[position] = encoded.rows(slice(row, row + 1))
        return [answers[position] for position in range(len(batch))]


class SearchReplica:
    """Holds all shards of the served snapshots; a request is answered from the one that it names."""

    def __init__(
        self,
        catalog: DeploymentHandle[Any],
        *,
        rerank: int,
        min_confidence: float,
        uncalibrated: bool = False,
    ) -> None:
        self._catalog = catalog
        self._rerank = rerank
        self._min_confidence = min_confidence
        self._uncalibrated = uncalibrated
        self._locators: dict[str, OrderedDict[str, Locator]] = {}  # of each index, the latest last
        self._opening = asyncio.Lock()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Open what is served; Serve calls it before the replica gets requests."""
        for pin in (await self._catalog.pins.remote()).values():
            await self._open(pin)
            if not pin.proven:
                await self._catalog.prove.remote(pin.name, pin.snapshot_id)

    @refusals_as_values
    async def open(self, pin: Pin) -> None:
        """Open a snapshot while requests are answered from others; its calibration is read anew."""
        await self._open(pin, anew=True)

    async def _open(self, pin: Pin, *, anew: bool = False) -> Locator:
        async with self._opening:
            kept = self._locators.setdefault(pin.name, OrderedDict())
            locator = kept.get(pin.snapshot_id)
            if locator is None or anew:
                locator = await asyncio.to_thread(
                    Locator.open, pin.uri, pin.snapshot_id, skip_broken=pin.proven
                )
                locator.snapshot.skip_broken = True  # what breaks from now on is left out and counted
            kept[pin.snapshot_id] = locator
            kept.move_to_end(pin.snapshot_id)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
            return locator

    @refusals_as_values
    async def locate(self, queries: EncodedQueries, pin: Pin, query: Query) -> Answer:
        """Search, cluster and calibrate on the snapshot that the request carries."""
        kept = self._locators.get(pin.name)
        locator = (kept.get(pin.snapshot_id) if kept else None) or await self._open(pin)
        started = time.perf_counter()
        total = len(locator.snapshot.manifest.shards)
        fixes, broken = await asyncio.to_thread(self._located, locator, queries, query)
        if broken and query.complete:
            raise ServiceUnavailable(
                f"{broken} of {total} shards cannot be searched and require_complete was set; leave it out for an "
                "answer from the others."
            )
        spent = {"search": 1e3 * (time.perf_counter() - started)}
        return Answer(fixes[0], queries.model_id, total - broken, total, spent)

    def _located(self, locator: Locator, queries: EncodedQueries, query: Query) -> tuple[Any, int]:
        fixes = locator.locate(
            queries,
            k=query.k,
            region=query.region,
            rerank=self._rerank if query.rerank is None else query.rerank,
            min_confidence=self._min_confidence,
            uncalibrated=self._uncalibrated,
        )
        return fixes, len(locator.snapshot.broken_shards())

    async def state(self) -> ReplicaState:
        """What this replica holds."""
        latest = {name: next(reversed(kept.values())) for name, kept in self._locators.items() if kept}
        return ReplicaState(
            "Search",
            {name: tuple(kept) for name, kept in self._locators.items()},
            {name: locator.calibration is not None for name, locator in latest.items()},
            {name: len(locator.snapshot.broken_shards()) for name, locator in latest.items()},
        )
