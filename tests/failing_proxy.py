"""An HTTP proxy in front of a real server that fails on purpose: errors, resets, lost answers, half bodies, stalls."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

FAULTS = ("error", "reset", "lost", "half", "stall")
_LINGER_ZERO = struct.pack("ii", 1, 0)  # closing then sends a reset
_SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
)


@dataclass
class Faults:
    """What the proxy does to requests.

    error: answers 503. reset: breaks the connection before the server sees the request. lost: the server does the
    request, and the answer is lost. half: half of the answer's body arrives. stall: nothing arrives for `stall_s`.
    `shares` are drawn for each request; `script` comes first, a fault (or "" for none) for each next request.
    """

    shares: dict[str, float] = field(default_factory=dict)
    script: deque[str] = field(default_factory=deque)
    stall_s: float = 3600.0
    methods: tuple[str, ...] = ()  # of requests that may fail; empty: all


class FailingProxy:
    """Listens on loopback and forwards to `upstream` (host:port); `faults` may be changed while it runs."""

    def __init__(self, upstream: str, faults: Faults | None = None, seed: int = 0) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self.faults = faults or Faults()
        self.requests: list[str] = []  # "METHOD path" of every request, in order
        self.failed: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def __enter__(self) -> FailingProxy:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def endpoint(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await self._one_request(reader, writer):
                pass
        writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        if b"100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(head, reader)
        method, path = head.split(b" ", 2)[:2]
        self.requests.append(f"{method.decode()} {path.decode()}")
        fault = self._fault(method.decode())
        if fault == "stall":
            await asyncio.sleep(self.faults.stall_s)
            return False
        if fault == "reset":
            return _reset(writer)
        if fault == "error":
            answer = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
            writer.write(answer % len(_SLOW_DOWN) + (b"" if method == b"HEAD" else _SLOW_DOWN))
            await writer.drain()
            return True
        answer = await self._forward(head, body)
        if fault == "lost":
            return _reset(writer)
        if fault == "half":
            start = answer.index(b"\r\n\r\n") + 4
            writer.write(answer[: start + (len(answer) - start) // 2])
            await writer.drain()
            return False
        writer.write(answer)
        await writer.drain()
        return True

    def _fault(self, method: str) -> str:
        faults = self.faults
        if faults.methods and method not in faults.methods:
            return ""
        if faults.script:
            fault = faults.script.popleft()
        else:
            names = [*faults.shares, ""]
            weights = [*faults.shares.values(), 1.0 - sum(faults.shares.values())]
            fault = self._random.choices(names, weights)[0]
        if fault:
            self.failed[fault] += 1
        return fault

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        """The server's whole answer; its connection is used once."""
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        kept = [line for line in lines if not line.lower().startswith((b"connection:", b"expect:"))]
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(b"\r\n".join([first, *kept, b"Connection: close"]) + b"\r\n\r\n" + body)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
        start, end, rest = answer.partition(b"\r\n\r\n")
        lines = [line for line in start.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        return b"\r\n".join(lines) + end + rest


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """The bytes behind a request's head, as they came."""
    fields = dict(
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    )
    if b"chunked" not in fields.get(b"transfer-encoding", b""):
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    whole = b""
    while True:
        size = await reader.readuntil(b"\r\n")
        length = int(size.split(b";")[0], 16)
        whole += size
        if length == 0:
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                whole += line  # a checksum behind the body
            return whole + b"\r\n"
        whole += await reader.readexactly(length + 2)


def _reset(writer: asyncio.StreamWriter) -> bool:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    writer.transport.abort()
    return False


@contextlib.contextmanager
def failing_proxy(endpoint: str, faults: Faults | None = None, seed: int = 0) -> Iterator[FailingProxy]:
    """A proxy before the server at `endpoint` (http://host:port) for as long as the context lasts."""
    with FailingProxy(endpoint.removeprefix("http://"), faults, seed) as proxy:
        yield proxy
