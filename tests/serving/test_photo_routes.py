"""Routes of photos over HTTP, in process: what a request may say, and the state that a client carries."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from small_index import SmallIndex, encoded, texture

from geoloc.client.client import Client
from geoloc.client.schema import MAX_ROUTE_STATE, BeginRoute, RouteStep
from geoloc.core.errors import QueryError
from geoloc.index.search.region import Box, circle
from geoloc.localization.locator import Locator
from geoloc.localization.query_photos import encode_prepared
from geoloc.localization.routes.filter import FilterState
from geoloc.models.encoder import Encoder
from geoloc.serving.answer import Pin, PreparedPhoto, RouteQuery, RouteReply
from geoloc.serving.limits import ServingLimits
from geoloc.serving.route_follower import RouteFollower
from geoloc.serving.route_state import MOST_STATES, read_state, write_state
from tests.serving.fake_backend import PIN, FakeBackend, talk

LIMITS = ServingLimits(decoders=1)


class RouteBackend(FakeBackend):
    """Follows routes on a real index, without replicas."""

    def __init__(self, small: SmallIndex) -> None:
        super().__init__()
        self.locator = Locator.open(small.index)
        self.encoder = Encoder.open(self.locator.snapshot.model_uri, device="cpu")
        self.follower = RouteFollower()
        self.served = PIN.model_copy(
            update={
                "snapshot_id": self.locator.snapshot.snapshot_id,
                "inputs": self.encoder.recipe.model,
            }
        )

    async def pin(self, name: str) -> Pin:
        return self.served

    async def follow(self, photos: Any, pin: Pin, query: RouteQuery) -> RouteReply:
        queries = [self.encoded(one) for one in photos]
        return self.follower.follow(self.locator, queries, query)

    def encoded(self, one: PreparedPhoto) -> Any:
        heading = None if one.heading_deg is None else [one.heading_deg]
        return encode_prepared(
            self.encoder, one.image[None].copy(), one.view, heading, 4, fov_deg=[one.fov_deg]
        )


def files_of(small: SmallIndex, walk: list[int]) -> list[tuple[str, Any]]:
    return [("image", (f"{n}.png", encoded(small.panoramas[n]), "image/png")) for n in walk]


@pytest.fixture(scope="module")
def backend(small_index: SmallIndex) -> RouteBackend:
    return RouteBackend(small_index)


def test_a_route_in_parts_ends_where_the_whole_one_does(
    backend: RouteBackend, small_index: SmallIndex
) -> None:
    walk = [8, 9, 10, 11, 12]  # 100 m apart
    fields = {"view": "panorama", "heading_deg": "0", "steps": json.dumps([{"moved_m": 100.0}] * 5)}

    async def script(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        whole = await client.post("/v1/routes", files=files_of(small_index, walk), data=fields)
        answers = [whole.json()]
        part, path = fields | {"steps": json.dumps([{"moved_m": 100.0}])}, "/v1/routes"
        for number in walk:
            answer = await client.post(path, files=files_of(small_index, [number]), data=part)
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
            part, path = part | {"state": answers[-1]["state"]}, "/v1/routes/continue"
        return answers

    whole, *parts = talk(backend, LIMITS, script)
    assert whole["located"] == (whole["positions"][-1]["radius_m"] is not None)
    assert [place["path_id"] for place in whole["positions"]] == [small_index.tile_ids[n] for n in walk]
    assert [answer["photos"] for answer in parts] == [1, 2, 3, 4, 5]
    assert len(parts[-1]["positions"]) == 1
    for name in ("lat", "lon", "off_map"):
        assert parts[-1]["positions"][-1][name] == pytest.approx(whole["positions"][-1][name], rel=1e-9)


def test_an_area_travels_with_the_state(backend: RouteBackend, small_index: SmallIndex) -> None:
    area = {"lat": str(small_index.lat[5]), "lon": str(small_index.lon[5]), "radius_m": "400"}

    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        first = await client.post(
            "/v1/routes", files=files_of(small_index, [5]), data=area | {"view": "panorama"}
        )
        state = {"state": first.json()["state"], "view": "panorama"}
        other = base64.urlsafe_b64encode(
            base64.urlsafe_b64decode(state["state"]).replace(b'"radius_m":400.0', b'"radius_m":300.0')
        ).decode()
        return [
            first,
            await client.post("/v1/routes/continue", files=files_of(small_index, [5]), data=state),
            await client.post(
                "/v1/routes/continue", files=files_of(small_index, [5]), data=state | {"state": other}
            ),
            await client.post("/v1/routes/continue", files=files_of(small_index, [5]), data=state | area),
        ]

    first, second, moved, again = talk(backend, LIMITS, script)
    kept = read_state(first.json()["state"])
    assert kept.region == circle(float(area["lat"]), float(area["lon"]), 400.0)
    assert kept.places < len(small_index.tile_ids)
    assert second.status_code == 200
    assert (moved.status_code, moved.json()["reason"]) == (422, "bad_state")
    assert (again.status_code, again.json()["reason"]) == (422, "bad_field")


def test_a_state_of_another_snapshot_is_a_conflict(backend: RouteBackend, small_index: SmallIndex) -> None:
    text = write_state(
        FilterState(np.array([0]), np.ones(1), np.ones(1), 0.0, 0.0),
        index="default", snapshot_id="f" * 32, region=None, places=1, photos=3,
    )  # fmt: skip

    async def script(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post(
            "/v1/routes/continue", files=files_of(small_index, [0]), data={"state": text}
        )

    answer = talk(backend, LIMITS, script)
    assert (answer.status_code, answer.json()["reason"]) == (409, "snapshot_changed")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ("[{}, {}]", "it has 2 objects for 1 images"),
        ('[{"moved_m": -1}]', "moved_m"),
        ('[{"moved": 1}]', "moved"),
        ("7", "give a JSON list"),
    ],
)
def test_steps_that_fit_no_photo_are_refused(steps: str, words: str) -> None:
    async def script(client: httpx.AsyncClient) -> httpx.Response:
        files = {"image": ("a.png", encoded(texture(1)), "image/png")}
        return await client.post("/v1/routes", files=files, data={"steps": steps})

    answer = talk(FakeBackend(), LIMITS, script)
    assert (answer.status_code, answer.json()["reason"]) == (422, "bad_field")
    assert words in answer.json()["detail"]


def _state(count: int) -> FilterState:
    weight = np.random.default_rng(0).random(count)
    weight /= weight.sum()
    return FilterState(np.arange(count), weight * 0.9, weight / weight.max(), 0.1, 0.5)


def test_a_state_is_bounded_and_keeps_the_heaviest_states() -> None:
    state = _state(5000)
    text = write_state(
        state,
        index="default",
        snapshot_id="a" * 32,
        region=Box(south=1, west=2, north=3, east=4),
        places=9000,
        photos=4,
    )
    assert len(text) < MAX_ROUTE_STATE
    kept = read_state(text)
    assert len(kept.states) == MOST_STATES
    assert set(kept.states) == set(np.argsort(-state.weight)[:MOST_STATES].tolist())
    assert sum(kept.weight) + kept.off_map == pytest.approx(1.0)
    assert kept.filter_state().weight.tolist() == kept.weight


def test_a_full_state_fits_a_form_and_other_long_fields_do_not() -> None:
    text = write_state(
        _state(5000), index="default", snapshot_id=PIN.snapshot_id, region=None, places=9000, photos=4
    )
    assert len(text) > BeginRoute.max_field_bytes

    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        files = {"image": ("a.png", encoded(texture(1)), "image/png")}
        return [
            await client.post("/v1/routes/continue", files=files, data={"state": text}),
            await client.post("/v1/routes", files=files, data={"polygon": text}),
        ]

    continued, long_area = talk(FakeBackend(), LIMITS, script)
    assert continued.status_code == 200, continued.text
    assert continued.json()["photos"] == 5
    assert long_area.status_code in (400, 413)


CHANGES: list[tuple[str, Any]] = [
    ("states", [0, 0]), ("states", [0, 7]), ("states", [0, -1]), ("states", [0]), ("states", [0, 1.5]),
    ("weight", [0.5, 0.9]), ("weight", [-0.5, 1.4]), ("score", [1.0, 2.0]), ("off_map", float("nan")),
    ("places", 0), ("snapshot_id", "../x"), ("index", "a/b"), ("more", 1),
    ("region", {"lat": 99, "lon": 0, "radius_m": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_state_that_was_changed_is_refused(name: str, value: Any) -> None:
    text = write_state(_state(2), index="default", snapshot_id="a" * 32, region=None, places=5, photos=4)
    content = json.loads(base64.urlsafe_b64decode(text))
    assert read_state(base64.urlsafe_b64encode(json.dumps(content).encode()).decode()).places == 5
    changed = base64.urlsafe_b64encode(json.dumps(content | {name: value}).encode()).decode()
    with pytest.raises(QueryError, match="it is no state of a route") as caught:
        read_state(changed)
    assert caught.value.reason == "bad_state"


@pytest.mark.parametrize("text", ["", "e30=", "ä", "a" * (MAX_ROUTE_STATE + 1), "////", "W10="])
def test_text_that_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="it is no state of a route"):
        read_state(text)


def test_the_client_sends_steps_as_the_service_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    with Client("http://127.0.0.1:9") as client:

        def send(_: str, path: str, **content: Any) -> bytes:
            sent.append((path, content["data"]))
            raise QueryError("stop", reason="stop")

        monkeypatch.setattr(client, "_send", send)
        with pytest.raises(QueryError):
            client.begin_route([b"x"], [RouteStep(moved_m=3.0, turn_deg=-5.0)], view="street")
        with pytest.raises(QueryError):
            client.continue_route("abc", [b"x"])
    assert sent[0] == ("/v1/routes", {"view": "street", "steps": '[{"moved_m": 3.0, "turn_deg": -5.0}]'})
    assert sent[1] == ("/v1/routes/continue", {"state": "abc"})
