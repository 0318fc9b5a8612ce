"""Limits that need a slow or failing backend: the interface alone, in process, over ASGI."""

import asyncio

import httpx
import pytest
from small_index import encoded, texture

from geoloc.core.errors import ModelMismatch, ServiceUnavailable
from geoloc.localization.fix import Fix
from geoloc.serving.answer import Answer
from geoloc.serving.api import create_api
from geoloc.serving.limits import ServingLimits


class SlowBackend:
    """Answers after a while, or raises."""

    def __init__(self, wait_s: float = 0.0, error: Exception | None = None) -> None:
        self.wait_s = wait_s
        self.error = error

    async def locate(self, one, region, k):
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        return Answer(Fix(located=True, lat=1.0, lon=2.0, snapshot_id="s"), "m", 1, 1, {})

    async def health(self):
        raise ServiceUnavailable("The index is still loading; try again in a moment.")


def ask(backend, limits: ServingLimits, times: int = 1, path: str | None = None) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_api(backend, limits), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            if path:
                return [await client.get(path)]
            files = {"image": ("a.png", encoded(texture(1)), "image/png")}
            return list(
                await asyncio.gather(*(client.post("/v1/localize", files=files) for _ in range(times)))
            )

    return asyncio.run(run())


def test_more_than_fits_is_refused_at_once_with_a_time_to_come_back():
    answers = ask(SlowBackend(wait_s=0.5), ServingLimits(max_in_flight=3), times=8)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert [answer.status_code for answer in answers].count(200) == 3
    assert len(refused) == 5
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["content-type"] == "application/problem+json"
    assert refused[0].json()["reason"] == "overloaded"


def test_after_a_burst_there_is_room_again():
    limits = ServingLimits(max_in_flight=1)
    backend = SlowBackend()

    async def run() -> list[int]:
        transport = httpx.ASGITransport(create_api(backend, limits))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            files = {"image": ("a.png", encoded(texture(1)), "image/png")}
            return [(await client.post("/v1/localize", files=files)).status_code for _ in range(3)]

    assert asyncio.run(run()) == [200, 200, 200]


def test_a_late_answer_is_a_504():
    (answer,) = ask(SlowBackend(wait_s=5.0), ServingLimits(deadline_s=0.2))
    assert answer.status_code == 504
    assert answer.json()["reason"] == "deadline"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ServiceUnavailable("All replicas are busy."), 503, "overloaded"),
        (ModelMismatch("The aerial picture covers 3 m, the model needs 51 m."), 422, "model_mismatch"),
        (RuntimeError("secret detail"), 500, "internal"),
    ],
)
def test_errors_behind_the_interface_become_problems(error, status, reason):
    (answer,) = ask(SlowBackend(error=error), ServingLimits())
    assert answer.status_code == status
    assert answer.json()["reason"] == reason
    assert answer.json()["request_id"]
    assert "secret" not in answer.text


def test_health_is_not_ready_before_the_index_is():
    (answer,) = ask(SlowBackend(), ServingLimits(), path="/healthz")
    assert answer.status_code == 503
    assert "still loading" in answer.json()["detail"]
