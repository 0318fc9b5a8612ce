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
from ray.serve.handle import DeploymentHandle

from geoloc.core import storage
from geoloc.core.errors import GeolocError, ServiceUnavailable
from geoloc.index.format.manifest import read_manifest
from geoloc.localization.locator import EncodedQueries, Locator
from geoloc.localization.query_photos import Compass, encode_prepared
from geoloc.serving.answer import (
    Answer,
    Pin,
    PreparedPhoto,
    Query,
    ReplicaState,
    RouteQuery,
    RouteReply,
    refusals_as_values,
)
from geoloc.serving.batching import Batcher
from geoloc.serving.metrics import ENCODE, record_broken_shards, record_photo, record_step
from geoloc.serving.route_follower import RouteFollower
from geoloc.serving.search_batch import AnswerSettings, Asked, Located, locate_together

# Picture, view, heading, field of view, encoder, compass, and when it came (of `time.perf_counter`).
Prepared = tuple[npt.NDArray[np.uint8], str, float | None, float, Any, Compass | None, float]
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
        self._batcher: Batcher[Prepared, EncodedQueries] = Batcher(
            self._encode, most=max_batch, wait_s=wait_s
        )

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
        """Encode one photo, together with what came while others were encoded."""
        encoder = self._encoders.get(pin.model_id) or await self._open(pin)
        came_s = time.perf_counter()
        row: Prepared = (one.image, one.view, one.heading_deg, one.fov_deg, encoder, one.compass, came_s)
        return await self._batcher.result_of(row)

    def _encode(self, batch: list[Prepared]) -> list[EncodedQueries]:
        """Encode prepared pictures; those of one model, view and kind of heading share a pass."""
        began_s = time.perf_counter()
        groups: dict[tuple[int, str, bool], list[int]] = {}
        for position, (_, view, heading, _, encoder, *_) in enumerate(batch):
            groups.setdefault((id(encoder), view, heading is not None), []).append(position)
        answers: dict[int, EncodedQueries] = {}
        for (_, view, known), positions in groups.items():
            rows = [batch[position] for position in positions]
            pictures = np.stack([row[0] for row in rows])
            headings = [row[2] for row in rows] if known else None
            fovs = [row[3] for row in rows]
            encoded = encode_prepared(
                rows[0][4],
                pictures,
                view,
                headings,
                self._headings,
                fov_deg=fovs,
                compass=[row[5] for row in rows],
            )
            for row, position in enumerate(positions):
                answers[position] = encoded.rows(slice(row, row + 1))
        worked_s = time.perf_counter() - began_s
        for *_, came_s in batch:
            record_step(ENCODE, worked_s, began_s - came_s)
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
        asymmetric: bool = True,
        max_batch: int = 16,
    ) -> None:
        self._catalog = catalog
        self._asymmetric = asymmetric
        self._locators: dict[str, OrderedDict[str, Locator]] = {}  # of each index, the latest last
        self._opening = asyncio.Lock()
        self._routes = RouteFollower()
        settings = AnswerSettings(rerank, min_confidence, uncalibrated)
        self._batcher: Batcher[Asked, Located | GeolocError] = Batcher(
            lambda asked: locate_together(asked, settings), most=max_batch
        )

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
                    Locator.open,
                    pin.uri,
                    pin.snapshot_id,
                    skip_broken=pin.proven,
                    asymmetric=self._asymmetric,
                )
                locator.snapshot.skip_broken = True  # what breaks from now on is left out and counted
            kept[pin.snapshot_id] = locator
            kept.move_to_end(pin.snapshot_id)
            while len(kept) > _KEPT:
                kept.popitem(last=False)
            return locator

    @refusals_as_values
    async def locate(self, queries: EncodedQueries, pin: Pin, query: Query) -> Answer:
        """Search, cluster and calibrate on the snapshot that the request carries, with what came meanwhile."""
        kept = self._locators.get(pin.name)
        locator = (kept.get(pin.snapshot_id) if kept else None) or await self._open(pin)
        total = len(locator.snapshot.manifest.shards)
        found = await self._batcher.result_of(Asked(locator, queries, query, time.perf_counter()))
        if isinstance(found, GeolocError):
            raise found
        fix, broken = found.fix, found.broken_shards
        record_broken_shards(pin.name, broken)
        if broken and query.complete:
            raise ServiceUnavailable(
                f"{broken} of {total} shards cannot be searched and require_complete was set; leave it out for an "
                "answer from the others."
            )
        record_photo(pin.name, "located" if fix.located else fix.reason or "not_located")
        return Answer(fix, queries.model_id, total - broken, total, found.timings_ms)

    @refusals_as_values
    async def follow(self, queries: list[EncodedQueries], pin: Pin, query: RouteQuery) -> RouteReply:
        """Search the next photos of a route, and filter them on the snapshot that the request carries."""
        kept = self._locators.get(pin.name)
        locator = (kept.get(pin.snapshot_id) if kept else None) or await self._open(pin)
        reply = await asyncio.to_thread(self._routes.follow, locator, queries, query)
        record_broken_shards(pin.name, reply.shards_total - reply.shards_answered)
        for position in reply.fix.positions:
            record_photo(pin.name, "wide_posterior" if position.radius_m is None else "located")
        return reply

    async def state(self) -> ReplicaState:
        """What this replica holds."""
        latest = {name: next(reversed(kept.values())) for name, kept in self._locators.items() if kept}
        return ReplicaState(
            "Search",
            {name: tuple(kept) for name, kept in self._locators.items()},
            {name: locator.calibration is not None for name, locator in latest.items()},
            {name: len(locator.snapshot.broken_shards()) for name, locator in latest.items()},
        )
