"""The outermost layer of the interface: it numbers requests and takes in their bodies, within limits."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from geoloc.serving.errors import Overloaded, Rejected
from geoloc.serving.limits import ServingLimits
from geoloc.serving.metrics import record_request

REQUEST_ID_HEADER = "x-request-id"
_CLIENT_WENT = 499  # what the metrics say of a client that went before its answer
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
}


class BodyIntake:
    """Counts the bodies that arrive and those that are held, in this process."""

    def __init__(self, limits: ServingLimits) -> None:
        self._limits = limits
        self._arriving: Counter[str] = Counter()
        self._held_bytes = 0

    def begin(self, client: str) -> None:
        """A body begins to arrive; `Overloaded` or `Rejected` when there are too many."""
        if self._arriving.total() >= self._limits.max_bodies:
            raise Overloaded(
                f"{self._arriving.total()} bodies are arriving, the most there may be; try again in a moment."
            )
        if self._arriving[client] >= self._limits.max_bodies_per_client:
            raise Rejected(
                f"{self._arriving[client]} of your requests are sending their bodies, the most that one client may; "
                "finish some first.",
                status=429,
                reason="too_many_bodies",
                headers={"Retry-After": str(self._limits.retry_after_s)},
            )
        self._arriving[client] += 1

    def end(self, client: str) -> None:
        """A body has arrived, or will not."""
        self._arriving[client] -= 1
        if not self._arriving[client]:
            del self._arriving[client]

    def hold(self, size_bytes: int) -> None:
        """Bytes have arrived; `Overloaded` when too many are held."""
        self._held_bytes += size_bytes
        if self._held_bytes > self._limits.max_held_bytes:
            raise Overloaded("The requests being answered hold too many bytes; try again in a moment.")

    def free(self, size_bytes: int) -> None:
        """Bytes are held no longer."""
        self._held_bytes -= size_bytes


class _Body:
    """The body of one request on its way in."""

    def __init__(self, receive: Receive, intake: BodyIntake, limits: ServingLimits, scope: Scope) -> None:
        self._receive = receive
        self._intake = intake
        self._limits = limits
        self._client = str((scope.get("client") or ("",))[0])
        declared = Headers(scope=scope).get("content-length", "")
        self._declared = int(declared) if declared.isdecimal() else 0
        self._received = 0
        self._held = 0
        self._end_s: float | None = None  # on the loop's clock; None before the body begins
        self._done = False

    async def receive(self) -> Message:
        """The next message; refuses a body that is too large, too slow or one too many."""
        if self._done:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._end_s is None:
            self._intake.begin(self._client)
            self._end_s = loop.time() + self._limits.body_s
        try:
            async with asyncio.timeout_at(self._end_s):
                message = await self._receive()
        except TimeoutError as error:
            raise Rejected(
                f"The body did not arrive within {self._limits.body_s:g} s; send it faster, or a smaller image.",
                status=408,
                reason="body_too_slow",
            ) from error
        size = len(message.get("body", b""))
        self._received += size
        if max(self._received, self._declared) > self._limits.max_body_bytes:
            raise Rejected(
                f"The body is larger than {self._limits.max_body_bytes:,} bytes; send a smaller image.",
                status=413,
                reason="body_too_large",
            )
        self._held += size
        self._intake.hold(size)
        if not message.get("more_body", False):
            self._arrived()
        return message

    def _arrived(self) -> None:
        if self._end_s is not None and not self._done:
            self._intake.end(self._client)
        self._done = True

    def close(self) -> None:
        """The request is over."""
        self._arrived()
        self._intake.free(self._held)


class RequestEnvelope:
    """ASGI layer: gives each request an id, takes in its body, adds the answer's headers.

    The declared length is only used to refuse early; what counts are the bytes that arrive.
    """

    def __init__(
        self, app: ASGIApp, limits: ServingLimits, new_id: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        self._app = app
        self._limits = limits
        self._intake = BodyIntake(limits)
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
        body = _Body(receive, self._intake, self._limits, scope)
        began_s, status = time.perf_counter(), 0

        async def send_labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if not numbered:
                    headers[REQUEST_ID_HEADER] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, body.receive, send_labelled)
        except (ClientDisconnect, asyncio.CancelledError):
            status = status or _CLIENT_WENT
            raise
        finally:
            body.close()
            reason = scope["state"].get("reason", "" if status else "internal")
            record_request(_route(scope), status or 500, reason, time.perf_counter() - began_s)


def _route(scope: Scope) -> str:
    """The pattern of the route that took a request, as `/v1/tiles/{tile_id}/image`; `other` where none did."""
    return str(getattr(scope.get("route"), "path_format", "other"))
