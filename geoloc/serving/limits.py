"""What the service takes at most, and the outermost layer that enforces it and numbers the requests."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geoloc.core.images import DEFAULT_LIMITS, ImageLimits

REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    "cache-control": "no-store",
}


# TIFF, which is a container of anything, is for files of people who run geoloc themselves.
_IMAGE = replace(DEFAULT_LIMITS, formats=("JPEG", "PNG", "WEBP", "AVIF", "HEIF"))


@dataclass(frozen=True)
class ServingLimits:
    """Bounds of one request and of how many are worked on at once; images have the limits of ingest and localize."""

    max_fields: int = 16
    max_field_bytes: int = 4096
    max_in_flight: int = 64
    deadline_s: float = 15.0
    retry_after_s: int = 1
    image: ImageLimits = _IMAGE

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a whole form: the image, and room for the fields around it."""
        return self.image.max_bytes + self.max_fields * self.max_field_bytes


class BodyTooLarge(Exception):
    """More bytes arrived than a body may have."""


class RequestEnvelope:
    """ASGI layer: gives each request an id, counts its body as it streams in, adds the answer's headers.

    The declared length is only used to refuse early; what counts are the bytes that arrive.
    """

    def __init__(
        self, app: ASGIApp, limits: ServingLimits, new_id: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        self._app = app
        self._limit_bytes = limits.max_body_bytes
        self._new_id = new_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # What stands in front (Serve's proxy) may have given the request an id; it then labels the answer itself.
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        numbered = _REQUEST_ID.fullmatch(given) is not None
        request_id = given if numbered else self._new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        declared = Headers(scope=scope).get("content-length", "")
        received = int(declared) if declared.isdigit() and int(declared) > self._limit_bytes else 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit_bytes:
                raise BodyTooLarge
            return message

        async def send_labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if not numbered:
                    headers[REQUEST_ID_HEADER] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive_counted, send_labelled)
