"""The replicas behind the interface: one that encodes photos in batches, one that holds all shards of a snapshot.

Both keep what they replaced until the next reload, so that a request which was encoded by the old model is still
answered from the old snapshot while a new one arrives.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from ray import serve

from geoloc.core import storage
from geoloc.core.errors import ServiceUnavailable
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.manifest import read_manifest
from geoloc.index.search.region import Region
from geoloc.localization.locator import EncodedQueries, Locator
from geoloc.localization.query_photos import Photo, encode_prepared
from geoloc.serving.answer import Answer
from geoloc.serving.schema import Health

Prepared = tuple[npt.NDArray[np.uint8], str, float | None, float]  # picture, view, heading, field of view


class EncoderReplica:
    """Turns photos into embeddings and codes with the model of the index, many at a time."""

    def __init__(
        self,
        index: str,
        *,
        device: str,
        threads: int | None,
        headings: int,
        max_batch: int,
        wait_s: float,
    ) -> None:
        self._index = index
        self._options: dict[str, Any] = {"device": device, "threads": threads}
        self._headings = headings
        self._encoder: Any = None
        batching: Any = self.encode_batch  # Serve adds the setters, its annotations leave them out
        batching.set_max_batch_size(max_batch)
        batching.set_batch_wait_timeout_s(wait_s)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the model of the snapshot that `user_config` names (`snapshot_id`, None: the current one)."""
        from geoloc.models.encoder import Encoder

        snapshot_id = user_config.get("snapshot_id") or current_snapshot(self._index)
        model = read_manifest(self._index, snapshot_id).model
        if self._encoder is None or self._encoder.model_id != model.model_id:
            self._encoder = Encoder.open(storage.join(self._index, model.directory), **self._options)

    async def switch(self, snapshot_id: str) -> None:
        """Go over to the model of another snapshot while requests are answered."""
        await asyncio.to_thread(self.reconfigure, {"snapshot_id": snapshot_id})

    async def encode(self, one: Photo) -> EncodedQueries:
        """Encode one photo, together with whatever else arrives within a few milliseconds."""
        encoder = self._encoder
        # Before the batch: a picture that the model refuses must fail alone.
        batch = await asyncio.to_thread(
            encoder.prepare,
            [one.image],
            one.view,
            extent_m=[one.extent_m],
            fov_deg=[one.fov_deg],
            heading_deg=[one.heading_deg],
        )
        encoded: EncodedQueries = await self.encode_batch((batch[0], one.view, one.heading_deg, one.fov_deg))
        return encoded

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.005)
    async def encode_batch(self, batch: list[Prepared]) -> list[EncodedQueries]:
        """Encode prepared pictures; those of one view and kind of heading share a pass."""
        return await asyncio.to_thread(self._encode, self._encoder, batch)

    def _encode(self, encoder: Any, batch: list[Prepared]) -> list[EncodedQueries]:
        groups: dict[tuple[str, bool], list[int]] = {}
        for position, (_, view, heading, _) in enumerate(batch):
            groups.setdefault((view, heading is not None), []).append(position)
        answers: dict[int, EncodedQueries] = {}
        for (view, known), positions in groups.items():
            pictures = np.stack([batch[position][0] for position in positions])
            headings = [batch[position][2] for position in positions] if known else None
            fovs = [batch[position][3] for position in positions]
            encoded = encode_prepared(encoder, pictures, view, headings, self._headings, fov_deg=fovs)
            for row, position in enumerate(positions):
                answers[position] = encoded.rows(slice(row, row + 1))
        return [answers[position] for position in range(len(batch))]


class SearchReplica:
    """Holds all shards of a snapshot and answers from it; a request never sees two snapshots."""

    def __init__(self, index: str, *, rerank: int, min_confidence: float) -> None:
        self._index = index
        self._rerank = rerank
        self._min_confidence = min_confidence
        self._locators: list[Locator] = []

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Open the snapshot that `user_config` names (`snapshot_id`, None: the current one) and swap to it.

        The new one is open before the old one steps back; calibration is read anew each time.
        """
        locator = Locator.open(self._index, user_config.get("snapshot_id"))
        model_id = locator.snapshot.manifest.model.model_id
        others = [old for old in self._locators if old.snapshot.manifest.model.model_id != model_id]
        self._locators = [locator, *others[:1]]

    async def switch(self, snapshot_id: str) -> None:
        """Go over to another snapshot while requests are answered; the old one stays for photos of its model."""
        await asyncio.to_thread(self.reconfigure, {"snapshot_id": snapshot_id})

    async def locate(self, queries: EncodedQueries, region: Region | None, k: int) -> Answer:
        """Search, cluster and calibrate on the newest snapshot that the photo's model made."""
        locator = self._for_model(queries.model_id)
        started = time.perf_counter()
        fixes = await asyncio.to_thread(
            locator.locate,
            queries,
            k=k,
            region=region,
            rerank=self._rerank,
            min_confidence=self._min_confidence,
        )
        shards = len(locator.snapshot.manifest.shards)
        spent = {"search": 1e3 * (time.perf_counter() - started)}
        return Answer(fixes[0], queries.model_id, shards, shards, spent)

    def _for_model(self, model_id: str) -> Locator:
        for locator in self._locators:
            if locator.snapshot.manifest.model.model_id == model_id:
                return locator
        raise ServiceUnavailable("A new index with a new model is being loaded; try again in a moment.")

    async def health(self) -> Health:
        """What this replica serves."""
        locator = self._locators[0]
        snapshot = locator.snapshot
        return Health(
            snapshot_id=snapshot.snapshot_id,
            model_id=snapshot.manifest.model.model_id,
            tiles=snapshot.count,
            bits=snapshot.bits,
            shards=len(snapshot.manifest.shards),
            located=snapshot.located,
            calibrated=locator.calibration is not None,
        )
