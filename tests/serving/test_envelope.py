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


async def dripping(seconds: float) -> AsyncIterator[bytes]:
    yield HEAD
    for _ in range(int(seconds * 20)):
        yield b"\0"
        await asyncio.sleep(0.05)


def test_slow_bodies_shut_nobody_out_and_end() -> None:
    limits = ServingLimits(decoders=1, body_s=1.5, max_in_flight=4, max_bodies=100, max_bodies_per_client=99)

    async def script(client: httpx.AsyncClient) -> tuple[list[int], list[httpx.Response]]:
        slow = [
            asyncio.create_task(client.post("/v1/localize", content=dripping(30), headers=FORM))
            for _ in range(64)
        ]
        await asyncio.sleep(0.3)
        quick = [(await client.post("/v1/localize", files=FILES)).status_code for _ in range(5)]
        return quick, await asyncio.gather(*slow)

    quick, slow = talk(FakeBackend(), limits, script)
    assert quick == [200] * 5
    assert {answer.status_code for answer in slow} == {408}
    assert {answer.json()["reason"] for answer in slow} == {"body_too_slow"}


def test_one_client_may_not_send_too_many_bodies_at_once() -> None:
    limits = ServingLimits(decoders=1, body_s=1.0, max_bodies_per_client=3)

    async def script(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        slow = [
            asyncio.create_task(client.post("/v1/localize", content=dripping(20), headers=FORM))
            for _ in range(3)
        ]
        await asyncio.sleep(0.2)
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
        held = asyncio.create_task(client.post("/v1/localize", content=dripping_after(200_000), headers=FORM))
        await asyncio.sleep(0.2)
        refused = await client.post("/v1/localize", files=big)
        status = (await held).status_code
        return [refused.status_code, status], (await client.post("/v1/localize", files=FILES)).status_code

    assert talk(FakeBackend(), limits, script) == ([503, 415], 200)


async def dripping_after(size_bytes: int) -> AsyncIterator[bytes]:
    yield HEAD + b"\0" * size_bytes
    await asyncio.sleep(1.0)
    yield b"\r\n--x--\r\n"


@pytest.mark.parametrize("path", ["/v1/localize", "/livez"])
def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_is_read(path: str) -> None:
    async def script(client: httpx.AsyncClient) -> httpx.Response:
        headers = FORM | {"content-length": str(10**12)}
        return await client.request(
            "POST" if "v1" in path else "GET", path, content=dripping(0.1), headers=headers
        )

    answer = talk(FakeBackend(), ServingLimits(decoders=1), script)
    assert (answer.status_code, answer.json().get("reason")) in ((413, "body_too_large"), (200, None))
    assert answer.status_code == 413 or path == "/livez"
