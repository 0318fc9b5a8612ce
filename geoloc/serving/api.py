"""The HTTP interface itself, on whatever answers questions behind it (`Backend`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse

from geoloc.index.search.region import Region, circle
from geoloc.localization.localizer import answer_for
from geoloc.localization.query_photos import Photo, photo
from geoloc.serving.answer import Answer
from geoloc.serving.errors import Overloaded, install
from geoloc.serving.home_page import PAGE
from geoloc.serving.limits import RequestEnvelope, ServingLimits
from geoloc.serving.schema import Health, LocalizeAnswer, LocalizeParameters, Problem
from geoloc.serving.upload import decode_upload, read_form


class Backend(Protocol):
    """What the interface asks of the service behind it."""

    async def locate(self, one: Photo, region: Region | None, k: int) -> Answer:
        """Answer one photo from one snapshot."""

    async def health(self) -> Health:
        """What is being served; raises `ServiceUnavailable` while it is not."""


def create_api(backend: Backend, limits: ServingLimits) -> FastAPI:
    """The application: POST /v1/localize, GET /healthz, GET /openapi.json and a plain page at /."""
    app = FastAPI(
        title="geoloc",
        version="1",
        description="Say where a photo was taken by matching it with geo-tagged aerial tiles.",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    install(app, limits)
    app.add_middleware(RequestEnvelope, limits=limits)
    gate = _Gate(limits)

    @app.head("/", response_class=HTMLResponse, include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return PAGE

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses=_errors(503), summary="What is served, once it is ready")
    async def healthz() -> Health:
        async with asyncio.timeout(limits.deadline_s):
            return await backend.health()

    @app.post(
        "/v1/localize",
        response_model=LocalizeAnswer,
        responses=_errors(400, 413, 415, 422, 503, 504),
        openapi_extra={"requestBody": _request_body()},
        summary="Where was this photo taken?",
    )
    async def localize(request: Request) -> JSONResponse:
        async with gate.enter(), asyncio.timeout(limits.deadline_s):
            answer = await _localize(request, backend, limits)
        return JSONResponse(answer.model_dump(mode="json"))

    return app


async def _localize(request: Request, backend: Backend, limits: ServingLimits) -> LocalizeAnswer:
    data, parameters = await read_form(request, limits)
    started = time.perf_counter()
    taken = await asyncio.to_thread(decode_upload, data, limits.image)
    one = photo(
        taken.pixels,
        view=parameters.view,
        heading_deg=parameters.heading_deg,
        fov_deg=parameters.fov_deg,
        extent_m=parameters.extent_m,
        facts=taken.facts,
    )
    region = _region(parameters)
    decoded = time.perf_counter()
    answer = await backend.locate(one, region, parameters.k)
    fix = answer_for(one, answer.fix)
    timings = {
        "decode": 1e3 * (decoded - started),
        **answer.timings_ms,
        "total": 1e3 * (time.perf_counter() - started),
    }
    return LocalizeAnswer(
        **dict(fix),
        request_id=request.state.request_id,
        model_id=answer.model_id,
        shards_answered=answer.shards_answered,
        shards_total=answer.shards_total,
        timings_ms={name: round(value, 2) for name, value in timings.items()},
    )


def _region(parameters: LocalizeParameters) -> Region | None:
    if parameters.lat is None or parameters.lon is None or parameters.radius_m is None:
        return None
    return circle(parameters.lat, parameters.lon, parameters.radius_m)


class _Gate:
    """Counts requests in flight and refuses those beyond the limit, at once and with a time to come back."""

    def __init__(self, limits: ServingLimits) -> None:
        self._limit = limits.max_in_flight
        self._inside = 0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        if self._inside >= self._limit:
            raise Overloaded(
                f"{self._inside} requests are being answered, the most there may be; try again in a moment."
            )
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "content": {"application/problem+json": {}}} for status in statuses}


def _request_body() -> dict[str, Any]:
    """OpenAPI of the form; the fields are those of `LocalizeParameters`."""
    schema = LocalizeParameters.model_json_schema()
    image = {
        "type": "string",
        "format": "binary",
        "description": "JPEG, PNG, WebP, AVIF or HEIF; its first bytes decide.",
    }
    properties = {"image": image, **schema["properties"]}
    form = {"type": "object", "required": ["image"], "properties": properties, "additionalProperties": False}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}
