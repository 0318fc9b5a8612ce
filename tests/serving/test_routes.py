"""What the routes take and answer, in process: JSON, batches, regions, GeoJSON, indices, the page and the map."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from small_index import SmallIndex, encoded, texture

from geoloc.client.client import Client, _Requests
from geoloc.core import geodesy
from geoloc.index.search.region import Box, Circle, Polygon
from geoloc.serving.access import add_key, read_keys
from geoloc.serving.api import create_api
from geoloc.serving.imagery import TileImagery
from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend, talk

PHOTO = encoded(texture(1))
FILES = {"image": ("a.png", PHOTO, "image/png")}
LIMITS = ServingLimits(decoders=1)
SQUARE = {"type": "Polygon", "coordinates": [[[149, -36], [150, -36], [150, -35], [149, -36]]]}


def ask(backend: FakeBackend, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.request(method, path, **content) for method, path, content in requests]

    return talk(backend, LIMITS, script)


def test_json_is_answered_like_a_form() -> None:
    document = {"image": base64.b64encode(PHOTO).decode(), "view": "street", "fov_deg": 90, "polygon": SQUARE}
    fields = {"view": "street", "fov_deg": "90", "polygon": json.dumps(SQUARE)}
    backend = FakeBackend()
    answers = ask(
        backend,
        ("POST", "/v1/localize", {"json": document}),
        ("POST", "/v1/localize", {"data": fields, "files": FILES}),
    )
    first, second = (answer.json() for answer in answers)
    for answer in (first, second):
        answer.pop("request_id"), answer.pop("timings_ms")
    assert first == second
    assert np.array_equal(backend.photos[0].image, backend.photos[1].image)
    assert backend.queries[0] == backend.queries[1]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"image": "not base64!"}, "bad_field"),
        ({}, "bad_field"),
        ({"image": "", "colour": 1}, "bad_field"),
        ({"image": ""}, "empty"),
        ([1], "bad_field"),
    ],
)
def test_bad_json_is_named(document: Any, reason: str) -> None:
    (answer,) = ask(FakeBackend(), ("POST", "/v1/localize", {"json": document}))
    assert (answer.status_code, answer.json()["reason"]) == (422, reason)


@pytest.mark.parametrize(
    ("fields", "region"),
    [
        ({"lat": "-35", "lon": "149", "radius_m": "50"}, Circle(lat=-35, lon=149, radius_m=50)),
        ({"bbox": "149,-36,150,-35"}, Box(south=-36, west=149, north=-35, east=150)),
        ({"polygon": json.dumps(SQUARE)}, Polygon(corners=((-36, 149), (-36, 150), (-35, 150)))),
        ({}, None),
    ],
)
def test_an_area_is_a_circle_a_box_or_a_polygon(fields: dict[str, str], region: Any) -> None:
    backend = FakeBackend()
    (answer,) = ask(backend, ("POST", "/v1/localize", {"files": FILES, "data": fields}))
    assert answer.status_code == 200, answer.text
    assert backend.queries[0].region == region


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bbox": "1,2,3"}, "bad_field"),
        ({"bbox": "a,b,c,d"}, "bad_region"),
        ({"bbox": "0,9,1,8"}, "bad_region"),
        ({"bbox": "nan,nan,nan,nan"}, "bad_region"),
        ({"polygon": "{"}, "bad_region"),
        ({"polygon": "[" * 10_000}, "bad_region"),
        ({"polygon": json.dumps({"type": "Point", "coordinates": [1, 2]})}, "bad_region"),
        ({"polygon": json.dumps({"type": "Polygon", "coordinates": []})}, "bad_region"),
        ({"polygon": json.dumps({"type": "Polygon", "coordinates": [[]]})}, "bad_region"),
        ({"polygon": json.dumps({"type": "Polygon", "coordinates": [[[0, 1e999]] * 4]})}, "bad_region"),
        ({"bbox": "0,0,1,1", "lat": "0", "lon": "0", "radius_m": "5"}, "bad_field"),
        ({"index": "../other"}, "bad_field"),
    ],
)
def test_areas_that_are_none_are_refused(fields: dict[str, str], reason: str) -> None:
    (answer,) = ask(FakeBackend(), ("POST", "/v1/localize", {"files": FILES, "data": fields}))
    assert (answer.status_code, answer.json()["reason"]) == (422, reason), answer.text


def test_what_a_client_sends_for_a_region_is_that_region() -> None:
    regions = [
        Circle(lat=-35, lon=149, radius_m=50),
        Box(south=-36, west=149, north=-35, east=150),
        Polygon(
            corners=((-36, 149), (-36, 150), (-35, 150)),
            holes=(((-35.9, 149.7), (-35.8, 149.8), (-35.9, 149.8)),),
        ),
    ]
    backend = FakeBackend()

    async def script(http: httpx.AsyncClient) -> None:
        from geoloc.client.client import AsyncClient

        client = AsyncClient("http://test")
        client._http = http
        for region in regions:
            await client.localize(PHOTO, region=region, require_complete=True, k=7)

    talk(backend, LIMITS, script)
    assert [query.region for query in backend.queries] == regions
    assert {(query.k, query.complete) for query in backend.queries} == {(7, True)}


def test_a_busy_service_is_asked_again_when_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    busy = {"title": "", "status": 503, "detail": "Full.", "reason": "overloaded", "request_id": "r"}
    answers = iter(
        [httpx.Response(503, json=busy, headers={"retry-after": "2"}), httpx.Response(200, json=[])]
    )
    client = Client("http://test")
    client._http = httpx.Client(
        base_url="http://test", transport=httpx.MockTransport(lambda _: next(answers))
    )
    assert client.indices() == []
    assert slept == [2.0]
    assert _Requests("x", None, 1.0, 0).wait_s(httpx.Response(503), 0) is None


def test_a_batch_answers_each_photo_and_one_bad_file_ends_none() -> None:
    files = [("image", ("a", PHOTO, "")), ("image", ("b", b"text", "")), ("image", ("c", PHOTO, ""))]
    (answer,) = ask(FakeBackend(), ("POST", "/v1/localize/batch", {"files": files}))
    assert answer.status_code == 200
    first, second, third = answer.json()["answers"]
    assert (first["located"], third["located"]) == (True, True)
    assert (second["status"], second["reason"]) == (415, "unsupported_media_type")
    many = [("image", (str(number), b"x", "")) for number in range(33)]
    (refused,) = ask(FakeBackend(), ("POST", "/v1/localize/batch", {"files": many}))
    assert refused.status_code == 400


def test_geojson_is_sent_to_those_who_want_it() -> None:
    headers = {"accept": "application/geo+json"}
    (answer,) = ask(FakeBackend(), ("POST", "/v1/localize", {"files": FILES, "headers": headers}))
    assert answer.headers["content-type"] == "application/geo+json"
    (feature,) = answer.json()["features"]
    assert feature["geometry"] == {"type": "Point", "coordinates": [2.0, 1.0]}
    assert feature["properties"]["snapshot_id"] == "s"


def test_only_a_key_of_the_scope_admin_may_reload(tmp_path: Path) -> None:
    query = add_key(str(tmp_path / "keys"), "q").key
    admin = add_key(str(tmp_path / "keys"), "a", admin=True).key

    async def script(client: httpx.AsyncClient) -> list[int]:
        path = "/v1/indices/default/reload"
        return [
            (await client.post(path, json={}, headers={"x-api-key": key})).status_code
            for key in ("", query, admin)
        ]

    assert talk(FakeBackend(), LIMITS, script, keys=read_keys(str(tmp_path / "keys"))) == [401, 403, 200]
    bad, unknown, listed = ask(
        FakeBackend(),
        ("POST", "/v1/indices/default/reload", {"json": {"snapshot_id": "latest"}}),
        ("POST", "/v1/indices/other/reload", {"json": {}}),
        ("GET", "/v1/indices", {}),
    )
    assert (bad.status_code, bad.headers["content-type"]) == (422, "application/problem+json")
    assert (unknown.status_code, unknown.json()["reason"]) == (404, "unknown_index")
    assert listed.json()[0]["name"] == "default"


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_inline_script() -> None:
    names = ("app.js", "route.js", "style.css", "leaflet.js", "leaflet.css")
    page, *files = ask(FakeBackend(), ("GET", "/", {}), *(("GET", f"/page/{name}", {}) for name in names))
    assert {file.status_code for file in files} == {200}
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert sorted(loaded) == sorted(["data:,", *(f"page/{name}" for name in names)])
    assert not re.search(r"<script(?![^>]*src=)|<style|style=| on\w+=", page.text)
    own = "".join(file.text for file in files[:3])
    assert not re.search(r"https?://", own)
    ids = set(re.findall(r'id="([\w-]+)"', page.text))
    assert set(re.findall(r'byId\("([\w-]+)"\)', own)) <= ids


@pytest.fixture(scope="module")
def imagery(small_index: SmallIndex) -> TileImagery:
    return TileImagery(f"{small_index.ingested}/tiles")


def with_imagery(imagery: TileImagery | None, *paths: str) -> list[httpx.Response]:
    async def script(client: httpx.AsyncClient) -> list[httpx.Response]:
        client._transport = httpx.ASGITransport(create_api(FakeBackend(), LIMITS, imagery=imagery))
        return [await client.get(path) for path in paths]

    return talk(FakeBackend(), LIMITS, script)


def test_pictures_of_tiles_and_their_media_types(imagery: TileImagery, small_index: SmallIndex) -> None:
    found, missing = with_imagery(imagery, "/v1/tiles/tile-0042/image", "/v1/tiles/no%2Fsuch/image")
    assert found.headers["content-type"] == "image/png"
    assert found.content == encoded(small_index.tiles[42])
    assert (missing.status_code, missing.json()["reason"]) == (404, "unknown_tile")
    (none,) = with_imagery(None, "/v1/tiles/tile-0042/image")
    assert (none.status_code, none.json()["reason"]) == (404, "no_imagery")


def test_a_map_tile_shows_each_tile_where_it_lies(imagery: TileImagery, small_index: SmallIndex) -> None:
    """The pixel of a map tile at a tile's centre has the colour of the picture's middle."""
    zoom, checked = 19, 0
    for number in (0, 17, 42):
        x, y = (
            int(value) for value in geodesy.map_tile(small_index.lat[number], small_index.lon[number], zoom)
        )
        data = imagery.map_tile(zoom, x, y)
        assert data is not None
        south, west, north, east = geodesy.map_tile_bounds(x, y, zoom)
        column = round((small_index.lon[number] - west) / (east - west) * 256)
        row = round((north - small_index.lat[number]) / (north - south) * 256)
        if not (8 <= column < 248 and 8 <= row < 248):
            continue
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"), dtype=float)
        patch = shown[row - 3 : row + 4, column - 3 : column + 4].mean(axis=(0, 1))
        truth = small_index.tiles[number][31:34, 31:34].astype(float).mean(axis=(0, 1))
        assert np.abs(patch[:3] - truth).max() < 30
        assert patch[3] == 255
        checked += 1
    assert checked


def test_map_tiles_out_of_range_or_without_imagery(imagery: TileImagery) -> None:
    far, whole, bad, worse = with_imagery(
        imagery, "/v1/map/15/0/0", "/v1/map/0/0/0", "/v1/map/3/8/0", "/v1/map/99/0/0"
    )
    assert (far.status_code, far.content) == (204, b"")
    assert (whole.status_code, whole.headers["content-type"]) == (200, "image/webp")
    assert [answer.status_code for answer in (bad, worse)] == [422, 422]
