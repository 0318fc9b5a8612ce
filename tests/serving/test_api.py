"""Limits that need a slow or failing backend: the interface alone, in process, over ASGI."""

import asyncio

import httpx
import pytest
from small_index import encoded, texture

from geoloc.core.errors import ModelMismatch, ServiceUnavailable
from geoloc.serving.errors import Overloaded
from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend, talk


class StartingBackend(FakeBackend):
    async def health(self):
        raise ServiceUnavailable("The index is still loading; try again in a moment.")


def ask(backend, limits: ServingLimits, times: int = 1, path: str | None = None) -> list[httpx.Response]:
    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        if path:
            return [await client.get(path)]
        files = {"image": ("a.png", encoded(texture(1)), "image/png")}
        return list(await asyncio.gather(*(client.post("/v1/localize", files=files) for _ in range(times))))

    return talk(backend, limits, script)


def test_more_than_fits_is_refused_at_once_with_a_time_to_come_back():
    answers = ask(FakeBackend(wait_s=0.5), ServingLimits(max_in_flight=3), times=8)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert [answer.status_code for answer in answers].count(200) == 3
    assert len(refused) == 5
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["content-type"] == "application/problem+json"
    assert refused[0].json()["reason"] == "overloaded"


def test_after_a_burst_there_is_room_again():
    limits = ServingLimits(max_in_flight=1)
    backend = FakeBackend()

    async def script(client: httpx.AsyncClient) -> list[int]:
        files = {"image": ("a.png", encoded(texture(1)), "image/png")}
        return [(await client.post("/v1/localize", files=files)).status_code for _ in range(3)]

    assert talk(backend, limits, script) == [200, 200, 200]


def test_a_late_answer_is_a_504():
    (answer,) = ask(FakeBackend(wait_s=60.0), ServingLimits(deadline_s=3.0))
    assert answer.status_code == 504
    assert answer.json()["reason"] == "deadline"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (Overloaded("All replicas are busy."), 503, "overloaded"),
        (ServiceUnavailable("1 of 3 shards cannot be searched."), 503, "unavailable"),
        (ModelMismatch("The aerial picture covers 3 m, the model needs 51 m."), 422, "model_mismatch"),
        (RuntimeError("secret detail"), 500, "internal"),
    ],
)
def test_errors_behind_the_interface_become_problems(error, status, reason):
    (answer,) = ask(FakeBackend(error=error), ServingLimits())
    assert answer.status_code == status
    assert answer.json()["reason"] == reason
    assert answer.json()["request_id"]
    assert "secret" not in answer.text


def test_health_is_not_ready_before_the_index_is():
    (answer,) = ask(StartingBackend(), ServingLimits(), path="/healthz")
    assert answer.status_code == 503
    assert "still loading" in answer.json()["detail"]
