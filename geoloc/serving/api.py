"""The HTTP interface itself, on whatever answers questions behind it (`Backend`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from geoloc.client.schema import (
    Alive,
    BatchAnswer,
    BeginRoute,
    ContinueRoute,
    Health,
    IndexFacts,
    JsonRequest,
    LocalizeAnswer,
    LocalizeParameters,
    Problem,
    ReloadRequest,
    RouteAnswer,
)
from geoloc.core.errors import GeolocError
from geoloc.localization.localizer import answer_for
from geoloc.serving.access import Doorkeeper, KeyEntry
from geoloc.serving.answer import Pin, Query
from geoloc.serving.backend import Backend
from geoloc.serving.decoder import DecoderPool
from geoloc.serving.envelope import RequestEnvelope
from geoloc.serving.errors import Overloaded, install, problem_document, problem_of
from geoloc.serving.geojson import GEOJSON, as_geojson
from geoloc.serving.imagery import TileImagery
from geoloc.serving.limits import ServingLimits
from geoloc.serving.metrics import record_in_flight
from geoloc.serving.photo_routes import RouteService
from geoloc.serving.upload import Fields, prepare_upload, read_form, read_request, region_of
from geoloc.serving.web import add_imagery, add_page


def create_api(
    backend: Backend,
    limits: ServingLimits,
    *,
    keys: tuple[KeyEntry, ...] = (),
    pool: DecoderPool | None = None,
    imagery: TileImagery | None = None,
) -> FastAPI:
    """The application: POST /v1/localize, liveness and readiness, GET /openapi.json and a page at /."""
    app = FastAPI(
        title="geoloc",
        version="1",
        description="Say where a photo was taken by matching it with geo-tagged aerial tiles.",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
    )
    install(app, limits)
    app.add_middleware(RequestEnvelope, limits=limits)
    service = _Service(backend, limits, pool or DecoderPool(limits.decoders, limits.decoder))
    door = Doorkeeper(keys, limits)
    _add_probes(app, backend, limits)
    add_page(app)
    add_imagery(app, imagery, door)
    _add_localize(app, service, door)
    _add_routes(app, service, door)
    _add_indices(app, backend, door)
    return app


def _add_localize(app: FastAPI, service: _Service, door: Doorkeeper) -> None:
    limits = service.limits
    refused = _errors(400, 401, 403, 404, 408, 413, 415, 422, 429, 503, 504)

    @app.post(
        "/v1/localize",
        response_model=LocalizeAnswer,
        responses=refused | {200: {"content": {GEOJSON: {}}}},
        openapi_extra={"requestBody": _request_body()},
        summary="Where was this photo taken?",
    )
    async def localize(request: Request) -> JSONResponse:
        door.admit(request, "query")
        (data,), parameters = await read_request(request, limits)
        async with service.gate.enter(), asyncio.timeout(limits.deadline_s):
            answer = await service.localize(data, parameters, request.state.request_id)
        if GEOJSON in request.headers.get("accept", ""):
            return JSONResponse(as_geojson(answer), media_type=GEOJSON)
        return JSONResponse(answer.model_dump(mode="json"))

    @app.post(
        "/v1/localize/batch",
        response_model=BatchAnswer,
        responses=refused,
        openapi_extra={"requestBody": _request_body(many=True)},
        summary="Where were these photos taken? The fields hold for all of them.",
    )
    async def localize_batch(request: Request) -> JSONResponse:
        door.admit(request, "query")
        photos, parameters = await read_request(request, limits, most=limits.max_images)
        async with service.gate.enter(), asyncio.timeout(limits.deadline_s):
            each = (service.answer_or_problem(data, parameters, request) for data in photos)
            answers = BatchAnswer(answers=await asyncio.gather(*each))
        return JSONResponse(answers.model_dump(mode="json"))


def _add_routes(app: FastAPI, service: _Service, door: Doorkeeper) -> None:
    limits = service.limits
    refused = _errors(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 504)
    routes = RouteService(service.backend, limits, service.pool)

    async def answered(
        request: Request,
        model: type[Fields],
        answer: Callable[[Sequence[bytes], Fields, str], Awaitable[RouteAnswer]],
    ) -> RouteAnswer:
        door.admit(request, "query")
        images, fields = await read_form(request, limits, model, limits.max_images)
        async with service.gate.enter(), asyncio.timeout(limits.deadline_s):
            return await answer(images, fields, request.state.request_id)

    @app.post(
        "/v1/routes",
        response_model=RouteAnswer,
        responses=refused,
        openapi_extra={"requestBody": _form_of(BeginRoute, many=True)},
        summary="Where was this ordered sequence of photos taken? Each is answered by all of them.",
    )
    async def begin_route(request: Request) -> RouteAnswer:
        return await answered(request, BeginRoute, routes.begin)

    @app.post(
        "/v1/routes/continue",
        response_model=RouteAnswer,
        responses=refused,
        openapi_extra={"requestBody": _form_of(ContinueRoute, many=True)},
        summary="The next photos of a route, with the state of the answer before.",
    )
    async def continue_route(request: Request) -> RouteAnswer:
        return await answered(request, ContinueRoute, routes.go_on)


def _add_indices(app: FastAPI, backend: Backend, door: Doorkeeper) -> None:
    @app.get(
        "/v1/indices", responses=_errors(401, 403, 429), summary="The indices and what each is served from"
    )
    async def indices(request: Request) -> list[IndexFacts]:
        door.admit(request, "query")
        return [_facts(pin) for _, pin in sorted((await backend.pins()).items())]

    @app.post(
        "/v1/indices/{name}/reload",
        responses=_errors(401, 403, 404, 415, 422, 429, 503),
        summary="Serve another snapshot of an index (scope admin)",
    )
    async def reload(request: Request, name: str, chosen: ReloadRequest) -> IndexFacts:
        door.admit(request, "admin")
        await backend.pin(name)
        return _facts(await backend.reload(name, chosen.snapshot_id))


def _facts(pin: Pin) -> IndexFacts:
    return IndexFacts(**pin.model_dump(include=set(IndexFacts.model_fields)))


def _add_probes(app: FastAPI, backend: Backend, limits: ServingLimits) -> None:
    @app.head("/livez", include_in_schema=False)
    @app.get("/livez", summary="Whether the process answers")
    async def livez() -> Alive:
        return Alive()

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses=_errors(503), summary="What is served, once it is ready")
    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz", responses=_errors(503), summary="Whether photos can be answered: the same as /healthz"
    )
    async def healthz() -> Health:
        async with asyncio.timeout(limits.deadline_s):
            return await backend.health()


class _Service:
    """What the routes share: the replicas behind, the decoder, and the gate before both."""

    def __init__(self, backend: Backend, limits: ServingLimits, pool: DecoderPool) -> None:
        self.backend = backend
        self.limits = limits
        self.pool = pool
        self.gate = _Gate(limits)

    async def localize(self, data: bytes, parameters: LocalizeParameters, request_id: str) -> LocalizeAnswer:
        """Decode, encode, search and locate one photo, all for the snapshot that is served as it begins."""
        started = time.perf_counter()
        region = region_of(parameters)
        pin = await self.backend.pin(parameters.index)
        one = await prepare_upload(data, parameters, pin, self.pool, self.limits.image)
        decoded = time.perf_counter()
        query = Query(parameters.k, region, parameters.rerank, parameters.require_complete)
        answer = await self.backend.locate(one, pin, query)
        timings = {
            "decode": 1e3 * (decoded - started),
            **answer.timings_ms,
            "total": 1e3 * (time.perf_counter() - started),
        }
        return LocalizeAnswer(
            **dict(answer_for(one, answer.fix)),
            request_id=request_id,
            index=parameters.index,
            model_id=answer.model_id,
            shards_answered=answer.shards_answered,
            shards_total=answer.shards_total,
            timings_ms={name: round(value, 2) for name, value in timings.items()},
        )

    async def answer_or_problem(
        self, data: bytes, parameters: LocalizeParameters, request: Request
    ) -> LocalizeAnswer | Problem:
        """The answer to one photo of a batch; what is wrong with it does not end the others."""
        try:
            return await self.localize(data, parameters, request.state.request_id)
        except GeolocError as error:
            if (known := problem_of(error)) is None:
                raise
            return problem_document(request, *known)


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
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._inside += change
        record_in_flight(self._inside)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "content": {"application/problem+json": {}}} for status in statuses}


def _form_of(fields: type[BaseModel], *, many: bool = False) -> dict[str, Any]:
    """OpenAPI of a form with images and the fields of a model."""
    schema = fields.model_json_schema()
    image: dict[str, Any] = {
        "type": "string",
        "format": "binary",
        "description": "JPEG, PNG, WebP, AVIF or HEIF; its first bytes decide.",
    }
    if many:
        image = {"type": "array", "items": image, "minItems": 1}
    form = {
        "type": "object",
        "required": ["image", *schema.get("required", ())],
        "properties": {"image": image, **schema["properties"]},
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": form}}}


def _request_body(*, many: bool = False) -> dict[str, Any]:
    """OpenAPI of the form and of the JSON document; the fields are those of `LocalizeParameters`."""
    body = _form_of(LocalizeParameters, many=many)
    if not many:
        body["content"]["application/json"] = {"schema": JsonRequest.model_json_schema()}
    return body
