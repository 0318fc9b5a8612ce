"""Bodies on their way in: slow ones, large ones, too many of one client; others are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from small_index import encoded, texture

from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend, talk

FILES = {"image": ("a.png", encoded(texture(1)), "image/png")}
FORM = {"content-type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


async def dripping(seconds: float, begun: asyncio.Semaphore | None = None) -> AsyncIterator[bytes]:
    """A slow body; releases `begun` once its first piece was taken in."""
    yield HEAD
    if begun is not None:
        begun.release()
    for _ in range(int(seconds * 20)):
        yield b"\0"
        await asyncio.sleep(0.05)


async def sending(client: httpx.AsyncClient, count: int) -> list[asyncio.Task[httpx.Response]]:
    """Requests whose bodies all have begun to arrive, and go on for half a minute."""
    begun = asyncio.Semaphore(0)
    tasks = [
        asyncio.create_task(client.post("/v1/localize", content=dripping(30, begun), headers=FORM))
        for _ in range(count)
    ]
    for _ in tasks:
        await begun.acquire()
    return tasks


def test_slow_bodies_shut_nobody_out_and_end() -> None:
    limits = ServingLimits(decoders=1, body_s=1.5, max_in_flight=4, max_bodies=100, max_bodies_per_client=99)

    async def script(client: httpx.AsyncClient) -> tuple[list[int], list[httpx.Response]]:
        slow = await sending(client, 64)
        quick = [(await client.post("/v1/localize", files=FILES)).status_code for _ in range(5)]
        return quick, await asyncio.gather(*slow)

    quick, slow = talk(FakeBackend(), limits, script)
    assert quick == [200] * 5
    assert {answer.status_code for answer in slow} == {408}
    assert {answer.json()["reason"] for answer in slow} == {"body_too_slow"}


def test_one_client_may_not_send_too_many_bodies_at_once() -> None:
    limits = ServingLimits(decoders=1, body_s=1.0, max_bodies_per_client=3)

    async def script(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        slow = await sending(client, 3)
        refused = await client.post("/v1/localize", files=FILES)
        await asyncio.gather(*slow)
        return refused, await client.post("/v1/localize", files=FILES)

    refused, later = talk(FakeBackend(), limits, script)
    assert refused.status_code == 429
    assert refused.json()["reason"] == "too_many_bodies"
    assert refused.headers["retry-after"] == "1"
    assert later.status_code == 200


def test_bytes_of_all_requests_together_are_bounded() -> None:
    limits = ServingLimits(decoders=1, max_held_bytes=300_000)
    big = {"image": ("a", b"\0" * 200_000, "")}

    async def script(client: httpx.AsyncClient) -> tuple[list[int], int]:
        arrived, over = asyncio.Event(), asyncio.Event()
        body = held_back(200_000, arrived, over)
        held = asyncio.create_task(client.post("/v1/localize", content=body, headers=FORM))
        await arrived.wait()
        refused = await client.post("/v1/localize", files=big)
        over.set()
        status = (await held).status_code
        return [refused.status_code, status], (await client.post("/v1/localize", files=FILES)).status_code

    assert talk(FakeBackend(), limits, script) == ([503, 415], 200)


async def held_back(size_bytes: int, arrived: asyncio.Event, over: asyncio.Event) -> AsyncIterator[bytes]:
    yield HEAD + b"\0" * size_bytes
    arrived.set()
    await over.wait()
    yield b"\r\n--x--\r\n"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/v1/localize", 413), ("GET", "/livez", 200)]
)
def test_a_declared_length_beyond_the_limit_is_refused_where_a_body_is_read(
    method: str, path: str, status: int
) -> None:
    async def script(client: httpx.AsyncClient) -> httpx.Response:
        headers = FORM | {"content-length": str(10**12)}
        return await client.request(method, path, content=dripping(0.1), headers=headers)

    answer = talk(FakeBackend(), ServingLimits(decoders=1), script)
    assert answer.status_code == status
    assert answer.json().get("reason") == ("body_too_large" if status == 413 else None)
