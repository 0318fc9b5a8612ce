"""The page and the map's pictures over HTTP. Everything that the page loads comes from this service."""

from __future__ import annotations

import asyncio
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from geoloc.client.schema import Problem
from geoloc.core.errors import QueryError
from geoloc.core.leaflet import leaflet_file
from geoloc.serving.access import Doorkeeper
from geoloc.serving.imagery import MAX_ZOOM, TileImagery

_PAGE = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "route.js": "text/javascript",
    "style.css": "text/css",
}
_LEAFLET = {"leaflet.js": "text/javascript", "leaflet.css": "text/css"}
_KEPT = {"cache-control": "private, max-age=3600"}
_MOST_AT_ONCE = 4


def add_page(app: FastAPI) -> None:
    """GET / and the files that it loads."""
    own = resources.files("geoloc.serving") / "page"
    files = {name: ((own / name).read_bytes(), kind) for name, kind in _PAGE.items()}
    files |= {name: (leaflet_file(name), kind) for name, kind in _LEAFLET.items()}

    def serve(path: str, name: str, headers: dict[str, str]) -> None:
        content, kind = files[name]

        async def answer() -> Response:
            return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)

        app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)(answer)

    serve("/", "index.html", {})
    for name in files:
        if name != "index.html":
            serve(f"/page/{name}", name, {"cache-control": "no-cache"})


def add_imagery(app: FastAPI, imagery: TileImagery | None, door: Doorkeeper) -> None:
    """GET /v1/tiles/ID/image and /v1/map/ZOOM/X/Y."""
    turn = asyncio.Semaphore(_MOST_AT_ONCE)
    refused: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "content": {"application/problem+json": {}}}
        for status in (401, 403, 404, 422, 429)
    }

    def known() -> TileImagery:
        if imagery is None:
            raise QueryError(
                "This service has no imagery; start it with --imagery, a table of tiles.", reason="no_imagery"
            )
        return imagery

    @app.get(
        "/v1/tiles/{tile_id:path}/image",
        response_class=Response,
        responses=refused | {200: {"content": {"image/*": {}}}},
        summary="The picture of a tile",
    )
    async def tile_image(request: Request, tile_id: str) -> Response:
        door.admit(request, "query", counted=False)
        async with turn:
            data, kind = await asyncio.to_thread(known().image, tile_id)
        return Response(data, media_type=kind, headers=_KEPT)

    @app.get(
        "/v1/map/{zoom}/{x}/{y}",
        response_class=Response,
        responses=refused | {200: {"content": {"image/webp": {}}}, 204: {"description": "No imagery there"}},
        summary="A web-mercator tile of the imagery",
    )
    async def map_tile(request: Request, zoom: int, x: int, y: int) -> Response:
        door.admit(request, "query", counted=False)
        if not 0 <= zoom <= MAX_ZOOM or not (0 <= x < 2**zoom and 0 <= y < 2**zoom):
            raise QueryError(
                f"There is no map tile {zoom}/{x}/{y}; zoom is 0 to {MAX_ZOOM}, x and y are below 2 to its power.",
                reason="bad_field",
            )
        async with turn:
            data = await asyncio.to_thread(known().map_tile, zoom, x, y)
        if data is None:
            return Response(status_code=204, headers=_KEPT)
        return Response(data, media_type="image/webp", headers=_KEPT)
