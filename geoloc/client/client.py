"""Clients of a running service, for programs: `Client`, and `AsyncClient` with the same methods to await.

They need no Ray and no model: `from geoloc import Client`.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import TypeAdapter, ValidationError

from geoloc.client.schema import (
    BatchAnswer,
    Health,
    IndexFacts,
    LocalizeAnswer,
    Problem,
    RouteAnswer,
    RouteStep,
)
from geoloc.core.errors import InputError, QueryError, ServiceUnavailable
from geoloc.index.search.region import Box, Circle, Polygon, Region

ImageFile = str | os.PathLike[str] | bytes
_BUSY = (429, 503)
_LONGEST_WAIT_S = 30.0
OPEN_TIMEOUT_S = 600.0  # a large snapshot is copied to the machines, and its checksums are verified
_INDICES = TypeAdapter(list[IndexFacts])


class _Requests:
    """What both clients send, and what they make of the answers."""

    def __init__(self, url: str, key: str | None, timeout_s: float, retries: int) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self.options: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "headers": headers,
            "timeout": timeout_s,
            "trust_env": False,
        }
        self.url = url
        self.retries = retries

    def unreachable(self, error: httpx.HTTPError) -> ServiceUnavailable:
        """The error for a service that does not answer."""
        return ServiceUnavailable(
            f"The service at {self.url} does not answer ({type(error).__name__}: {error})."
        )

    def wait_s(self, response: httpx.Response, tries: int) -> float | None:
        """Seconds until a request is to be sent again; None: its answer holds."""
        if response.status_code not in _BUSY or tries >= self.retries:
            return None
        given = response.headers.get("retry-after", "")
        return min(float(given) if given.isdecimal() else 1.0, _LONGEST_WAIT_S)

    def document(self, response: httpx.Response) -> bytes:
        """The body of a good answer; raises what a problem document says."""
        if response.status_code == 200:
            return response.content
        try:
            problem = Problem.model_validate_json(response.content)
        except ValidationError:
            detail = f"The service at {self.url} answered {response.status_code} and no problem document."
            raise ServiceUnavailable(detail) from None
        if response.status_code >= 500 or response.status_code == 429:
            raise ServiceUnavailable(f"{problem.detail} (request {problem.request_id})")
        raise QueryError(f"{problem.detail} (request {problem.request_id})", reason=problem.reason)


def _file(image: ImageFile) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        return "photo", image
    try:
        return "photo", Path(image).read_bytes()
    except OSError as error:
        raise InputError(
            f"{os.fspath(image)!r} cannot be read: {error.strerror}.", reason="unreadable"
        ) from error


def _form(images: Sequence[ImageFile], asked: dict[str, Any]) -> dict[str, Any]:
    """The multipart form of a request; `region` becomes its fields, what is None is left out."""
    fields = {name: value for name, value in asked.items() if value is not None and name != "region"}
    fields |= _region_fields(asked.get("region"))
    data = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()
    }
    return {"data": data, "files": [("image", _file(image)) for image in images]}


def _steps_text(steps: Sequence[RouteStep] | None) -> str | None:
    if steps is None:
        return None
    return json.dumps([step.model_dump(exclude_none=True) for step in steps])


def _region_fields(region: Region | None) -> dict[str, Any]:
    if isinstance(region, Circle):
        return region.model_dump()
    if isinstance(region, Box):
        return {"bbox": f"{region.west},{region.south},{region.east},{region.north}"}
    if isinstance(region, Polygon):
        rings = [[[lon, lat] for lat, lon in (*ring, ring[0])] for ring in (region.corners, *region.holes)]
        return {"polygon": json.dumps({"type": "Polygon", "coordinates": rings})}
    return {}


class Client:
    """A running service, asked over HTTP; close it, or use it in a `with` block.

    `key` is an API key. A request that the service is too busy for is sent again when it says, `retries` times at most.
    Methods raise `QueryError` for what the service refuses, with its reason code, and `ServiceUnavailable` when it does
    not answer.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._requests = _Requests(url, key, timeout_s, retries)
        self._http = httpx.Client(**self._requests.options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, **content: Any) -> bytes:
        for tries in range(self._requests.retries + 1):
            try:
                response = self._http.request(method, path, **content)
            except httpx.HTTPError as error:
                raise self._requests.unreachable(error) from error
            if (wait_s := self._requests.wait_s(response, tries)) is None:
                break
            time.sleep(wait_s)
        return self._requests.document(response)

    def localize(self, image: ImageFile, *, region: Region | None = None, **fields: Any) -> LocalizeAnswer:
        """Where a photo (a path, or the bytes of an image file) was taken.

        `region` restricts the search (geoloc.index.search.region); `fields` are those of `LocalizeParameters`: `view`,
        `heading_deg`, `fov_deg`, `extent_m`, `k`, `index` and others.
        """
        form = _form([image], {**fields, "region": region})
        return LocalizeAnswer.model_validate_json(self._send("POST", "/v1/localize", **form))

    def localize_batch(
        self, images: Sequence[ImageFile], *, region: Region | None = None, **fields: Any
    ) -> list[LocalizeAnswer | Problem]:
        """The same for up to 32 photos with the same fields: an answer or a problem for each, in their order."""
        form = _form(images, {**fields, "region": region})
        return BatchAnswer.model_validate_json(self._send("POST", "/v1/localize/batch", **form)).answers

    def begin_route(
        self,
        images: Sequence[ImageFile],
        steps: Sequence[RouteStep] | None = None,
        *,
        region: Region | None = None,
        **fields: Any,
    ) -> RouteAnswer:
        """Where ordered photos of one camera were taken, each by all of them; `RouteAnswer.state` continues the route.

        `steps` say of each photo what is known of the way to it. `region` bounds the places; `fields` are those of
        `BeginRoute`.
        """
        form = _form(images, {**fields, "region": region, "steps": _steps_text(steps)})
        return RouteAnswer.model_validate_json(self._send("POST", "/v1/routes", **form))

    def continue_route(
        self,
        state: str,
        images: Sequence[ImageFile],
        steps: Sequence[RouteStep] | None = None,
        **fields: Any,
    ) -> RouteAnswer:
        """The next photos of a route, after the `state` of the answer before; `fields` are those of `ContinueRoute`.

        Raises `QueryError` with the reason `snapshot_changed` where another snapshot is served by now.
        """
        form = _form(images, {**fields, "state": state, "steps": _steps_text(steps)})
        return RouteAnswer.model_validate_json(self._send("POST", "/v1/routes/continue", **form))

    def indices(self) -> list[IndexFacts]:
        """The indices of the service."""
        return _INDICES.validate_json(self._send("GET", "/v1/indices"))

    def health(self) -> Health:
        """What is served; `ServiceUnavailable` while nothing is."""
        return Health.model_validate_json(self._send("GET", "/readyz"))

    def reload(self, index: str = "default", snapshot_id: str | None = None) -> IndexFacts:
        """Serve another snapshot (None: the current one); needs a key of the scope admin, where there are keys.

        It returns once every replica has opened the snapshot; `timeout_s` does not bound that.
        """
        path, body = f"/v1/indices/{index}/reload", {"snapshot_id": snapshot_id}
        return IndexFacts.model_validate_json(self._send("POST", path, json=body, timeout=OPEN_TIMEOUT_S))


class AsyncClient:
    """`Client` for asyncio: the same methods, to await; use it in an `async with` block."""

    def __init__(
        self, url: str, *, key: str | None = None, timeout_s: float = 30.0, retries: int = 3
    ) -> None:
        self._requests = _Requests(url, key, timeout_s, retries)
        self._http = httpx.AsyncClient(**self._requests.options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _send(self, method: str, path: str, **content: Any) -> bytes:
        for tries in range(self._requests.retries + 1):
            try:
                response = await self._http.request(method, path, **content)
            except httpx.HTTPError as error:
                raise self._requests.unreachable(error) from error
            if (wait_s := self._requests.wait_s(response, tries)) is None:
                break
            await asyncio.sleep(wait_s)
        return self._requests.document(response)

    async def localize(
        self, image: ImageFile, *, region: Region | None = None, **fields: Any
    ) -> LocalizeAnswer:
        """See `Client.localize`."""
        form = _form([image], {**fields, "region": region})
        return LocalizeAnswer.model_validate_json(await self._send("POST", "/v1/localize", **form))

    async def localize_batch(
        self, images: Sequence[ImageFile], *, region: Region | None = None, **fields: Any
    ) -> list[LocalizeAnswer | Problem]:
        """See `Client.localize_batch`."""
        form = _form(images, {**fields, "region": region})
        return BatchAnswer.model_validate_json(await self._send("POST", "/v1/localize/batch", **form)).answers

    async def begin_route(
        self,
        images: Sequence[ImageFile],
        steps: Sequence[RouteStep] | None = None,
        *,
        region: Region | None = None,
        **fields: Any,
    ) -> RouteAnswer:
        """See `Client.begin_route`."""
        form = _form(images, {**fields, "region": region, "steps": _steps_text(steps)})
        return RouteAnswer.model_validate_json(await self._send("POST", "/v1/routes", **form))

    async def continue_route(
        self,
        state: str,
        images: Sequence[ImageFile],
        steps: Sequence[RouteStep] | None = None,
        **fields: Any,
    ) -> RouteAnswer:
        """See `Client.continue_route`."""
        form = _form(images, {**fields, "state": state, "steps": _steps_text(steps)})
        return RouteAnswer.model_validate_json(await self._send("POST", "/v1/routes/continue", **form))

    async def indices(self) -> list[IndexFacts]:
        """See `Client.indices`."""
        return _INDICES.validate_json(await self._send("GET", "/v1/indices"))

    async def health(self) -> Health:
        """See `Client.health`."""
        return Health.model_validate_json(await self._send("GET", "/readyz"))

    async def reload(self, index: str = "default", snapshot_id: str | None = None) -> IndexFacts:
        """See `Client.reload`."""
        path, body = f"/v1/indices/{index}/reload", {"snapshot_id": snapshot_id}
        answer = await self._send("POST", path, json=body, timeout=OPEN_TIMEOUT_S)
        return IndexFacts.model_validate_json(answer)
