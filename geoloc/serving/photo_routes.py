"""The interface's routes of photos: one request begins a route, others continue it.

The service keeps nothing between them: the state travels with the client (`route_state`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from geoloc.client.schema import BeginRoute, ContinueRoute, PhotoFields, RouteAnswer, RouteStep
from geoloc.core.errors import QueryError
from geoloc.index.search.region import Box, Circle, Outside, Polygon, Region
from geoloc.localization.routes.motion import Step
from geoloc.serving.answer import Pin, RouteQuery
from geoloc.serving.backend import Backend
from geoloc.serving.decoder import DecoderPool
from geoloc.serving.limits import ServingLimits
from geoloc.serving.route_state import read_state, write_state
from geoloc.serving.upload import prepare_upload, region_of

_STEPS = TypeAdapter(list[RouteStep])


class RouteService:
    """Answers the photos of routes with a backend."""

    def __init__(self, backend: Backend, limits: ServingLimits, pool: DecoderPool) -> None:
        self._backend, self._limits, self._pool = backend, limits, pool

    async def begin(self, images: Sequence[bytes], fields: BeginRoute, request_id: str) -> RouteAnswer:
        """The answer to the first photos of a route."""
        steps = _steps(fields.steps, len(images))
        pin = await self._backend.pin(fields.index)
        query = RouteQuery(tuple(map(_step, steps)), region_of(fields))
        return await self._answer(images, fields, steps, pin, query, 0, request_id)

    async def go_on(self, images: Sequence[bytes], fields: ContinueRoute, request_id: str) -> RouteAnswer:
        """The answer to the next photos; `QueryError` (`snapshot_changed`) where another snapshot is served by now."""
        steps = _steps(fields.steps, len(images))
        state = read_state(fields.state)
        pin = await self._backend.pin(state.index)
        if pin.snapshot_id != state.snapshot_id:
            raise QueryError(
                f"The route began on snapshot {state.snapshot_id}, and {pin.snapshot_id} is served now; begin a new "
                "route with its last photos.",
                reason="snapshot_changed",
            )
        query = RouteQuery(tuple(map(_step, steps)), state.region, state.places, state.filter_state())
        return await self._answer(images, fields, steps, pin, query, state.photos, request_id)

    async def _answer(
        self,
        images: Sequence[bytes],
        fields: PhotoFields,
        steps: Sequence[RouteStep],
        pin: Pin,
        query: RouteQuery,
        before: int,
        request_id: str,
    ) -> RouteAnswer:
        started = time.perf_counter()
        each = (
            prepare_upload(data, _photo_fields(fields, step), pin, self._pool, self._limits.image)
            for data, step in zip(images, steps, strict=True)
        )
        photos = await asyncio.gather(*each)
        decoded = time.perf_counter()
        reply = await self._backend.follow(photos, pin, query)
        state = write_state(
            reply.after, index=pin.name, snapshot_id=pin.snapshot_id, region=_plain(query.region),
            places=reply.places, photos=before + len(images),
        )  # fmt: skip
        timings = {
            "decode": 1e3 * (decoded - started),
            **reply.timings_ms,
            "total": 1e3 * (time.perf_counter() - started),
        }
        return RouteAnswer(
            **dict(reply.fix),
            photos=before + len(images),
            state=state,
            request_id=request_id,
            index=pin.name,
            model_id=reply.model_id,
            shards_answered=reply.shards_answered,
            shards_total=reply.shards_total,
            timings_ms={name: round(value, 2) for name, value in timings.items()},
        )


def _steps(text: str | None, images: int) -> list[RouteStep]:
    """What is known of each image; `QueryError` where it is no list of so many."""
    if text is None:
        return [RouteStep()] * images
    try:
        steps = _STEPS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(["steps", *map(str, first["loc"])])[:60]
        message = f"Field {where}: {first['msg']}; give a JSON list with an object for each image."
        raise QueryError(message, reason="bad_field") from error
    if len(steps) != images:
        raise QueryError(
            f"Field steps: it has {len(steps)} objects for {images} images; give one for each.",
            reason="bad_field",
        )
    return steps


def _step(one: RouteStep) -> Step:
    return Step(
        moved_m=one.moved_m, moved_sd_m=one.moved_sd_m, turn_deg=one.turn_deg, course_deg=one.course_deg
    )


def _photo_fields(fields: PhotoFields, step: RouteStep) -> PhotoFields:
    return fields if step.heading_deg is None else fields.model_copy(update={"heading_deg": step.heading_deg})


def _plain(region: Region | None) -> Circle | Box | Polygon | None:
    """An area that a request can name."""
    if isinstance(region, Outside):
        raise QueryError("The area of a route cannot be an outside.", reason="bad_region")
    return region
