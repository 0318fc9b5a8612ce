"""The service as users meet it: a real Ray Serve on loopback, spoken to over HTTP."""

import asyncio
import contextlib
import io
import os
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
import ray
from PIL import Image
from ray.exceptions import RayError
from small_index import SmallIndex, build, encoded, make_model, small_recipe, texture, write_index

from geoloc import AsyncClient, Client, Localizer
from geoloc.client.schema import RouteStep
from geoloc.core import geodesy, storage
from geoloc.core.errors import ArtifactError, ConfigError, QueryError, ServiceUnavailable
from geoloc.index.format.manifest import read_manifest
from geoloc.index.format.shard import TILES_SCHEMA
from geoloc.index.search.region import circle
from geoloc.localization.query_photos import photo
from geoloc.localization.routes.motion import Step
from geoloc.models.encoder import Encoder
from geoloc.serving.server import ServeConfig, reload, start

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def own_index(tmp_path_factory) -> SmallIndex:
    """An index of its own: a test commits another snapshot to it."""
    return build(tmp_path_factory.mktemp("served"), count=30)


@pytest.fixture(scope="module")
def service(ray_local, own_index):
    config = ServeConfig(
        index=own_index.index, port=0, cpus_per_replica=0.1, deadline_s=60, watch_s=0, uncalibrated=True
    )
    handle = start(config)
    yield handle
    handle.stop()


@pytest.fixture(scope="module")
def client(service):
    with httpx.Client(base_url=service.url, timeout=180) as one:  # replicas start slowly
        yield one


def post(client, data: bytes, kind: str = "image/png", **fields: str) -> httpx.Response:
    return client.post("/v1/localize", files={"image": ("photo", data, kind)}, data=fields)


def problem(response: httpx.Response, status: int, reason: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    body = response.json()
    assert body["status"] == status
    assert body["reason"] == reason
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return body["detail"]


def test_a_photo_is_located_and_the_answer_names_its_snapshot(client, own_index):
    response = post(client, encoded(own_index.panoramas[3]), view="panorama", heading_deg="0", k="4")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["located"] is True
    assert answer["matches"][0]["tile_id"] == own_index.tile_ids[3]
    assert len(answer["matches"]) == 4
    assert geodesy.distance_m(answer["lat"], answer["lon"], own_index.lat[3], own_index.lon[3]) < 1.0
    assert answer["snapshot_id"] == client.get("/healthz").json()["snapshot_id"]
    assert answer["shards_answered"] == answer["shards_total"] == 3
    assert set(answer["timings_ms"]) == {"decode", "encode", "search", "locate", "total"}
    assert answer["request_id"] == response.headers["x-request-id"]


def test_sixteen_at_once_get_each_their_own_answer(client, own_index):
    def ask(number: int) -> str:
        response = post(client, encoded(own_index.panoramas[number]), view="panorama", heading_deg="0")
        assert response.status_code == 200, response.text
        return response.json()["matches"][0]["tile_id"]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == own_index.tile_ids[:16]


def test_mixed_views_and_unknown_headings_at_once(client, own_index):
    def ask(number: int) -> str:
        drone = number % 2
        image = own_index.tiles[number] if drone else own_index.panoramas[number]
        response = post(client, encoded(image), view="drone" if drone else "panorama")
        return response.json()["matches"][0]["tile_id"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == own_index.tile_ids[:8]


def test_a_region_without_tiles_is_an_answer(client, own_index):
    response = post(client, encoded(own_index.panoramas[0]), lat="0", lon="0", radius_m="50")
    assert response.status_code == 200
    assert response.json()["located"] is False
    assert response.json()["reason"] == "no_tile_in_region"
    assert response.json()["matches"] == []


def test_a_route_is_begun_and_continued_and_its_answers_are_those_of_the_library(service, own_index):
    walk = [0, 1, 2, 3]
    photos = [encoded(own_index.panoramas[number]) for number in walk]
    fields = {"view": "panorama", "heading_deg": 0}
    with Client(service.url, timeout_s=60) as one:
        steps = [RouteStep(), *[RouteStep(moved_m=100)] * 3]  # as far as the tiles lie apart
        whole = one.begin_route(photos, steps, **fields)
        first = one.begin_route(photos[:2], steps[:2], **fields)
        second = one.continue_route(first.state, photos[2:], steps[2:], **fields)
        with pytest.raises(QueryError, match="it is no state of a route"):
            one.continue_route("e30=", photos[2:], **fields)
    assert [place.path_id for place in whole.positions] == [own_index.tile_ids[number] for number in walk]
    assert (whole.photos, first.photos, second.photos) == (4, 2, 4)
    assert second.present.lat == pytest.approx(whole.present.lat, abs=1e-9)
    assert second.present.off_map == pytest.approx(whole.present.off_map, rel=1e-6)
    same = Localizer.open(own_index.index, device="cpu").localize_route(
        [photo(own_index.panoramas[number], view="panorama", heading_deg=0.0) for number in walk],
        [Step(), *[Step(moved_m=100)] * 3],
    )
    assert (whole.present.lat, whole.present.lon) == pytest.approx(
        (same.present.lat, same.present.lon), abs=1e-6
    )


def test_the_clients_ask_as_programs_do(service, own_index):
    photos = [encoded(own_index.panoramas[number]) for number in (2, 9)]
    with Client(service.url) as one:
        fix = one.localize(photos[0], view="panorama", heading_deg=0, k=3)
        assert fix.matches[0].tile_id == own_index.tile_ids[2]
        around = circle(float(own_index.lat[9]), float(own_index.lon[9]), 30)
        assert [match.tile_id for match in one.localize(photos[1], region=around).matches] == ["tile-0009"]
        answers = one.localize_batch([*photos, b"no image"], view="panorama", heading_deg=0)
        assert [getattr(answer, "reason", None) for answer in answers] == [
            None,
            None,
            "unsupported_media_type",
        ]
        assert one.indices()[0].tiles == one.health().tiles
        with pytest.raises(QueryError) as refused:
            one.localize(photos[0], k=0)
        assert refused.value.reason == "bad_field"

    async def script() -> list[str]:
        async with AsyncClient(service.url) as one:
            fixes = await asyncio.gather(*(one.localize(photo, heading_deg=0.0) for photo in photos))
            return [fix.matches[0].tile_id for fix in fixes]

    assert asyncio.run(script()) == ["tile-0002", "tile-0009"]


def test_health_openapi_and_page(client):
    health = client.get("/healthz").json()
    assert health["status"] == "ready"
    assert health["tiles"] == 30
    assert health["located"] is True
    assert health["calibrated"] is False
    document = client.get("/openapi.json").json()
    form = document["paths"]["/v1/localize"]["post"]["requestBody"]["content"]["multipart/form-data"][
        "schema"
    ]
    assert {"image", "view", "heading_deg", "lat", "lon", "radius_m", "k"} <= set(form["properties"])
    page = client.get("/")
    assert "Where was this photo taken?" in page.text
    assert "http" not in page.text  # nothing from elsewhere
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/docs").status_code == 404


def test_a_compass_restricts_the_headings_that_are_searched(client, own_index):
    for heading_deg, number in ((10, 3), (180, 3)):
        response = post(
            client,
            encoded(own_index.panoramas[number]),
            view="panorama",
            heading_deg=str(heading_deg),
            heading_error_deg="15",
        )
        answer = response.json()
        assert abs((answer["heading_deg"] - heading_deg + 180) % 360 - 180) <= 15 + 360 / 32
        assert "heading_deg" not in answer["assumed"]
        assert (answer["matches"][0]["tile_id"] == own_index.tile_ids[number]) == (heading_deg == 10)


@pytest.mark.parametrize("path", ["/", "/healthz", "/openapi.json"])
def test_head_answers_like_get_without_a_body(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"k": "0"}, "k"),
        ({"k": "101"}, "k"),
        ({"k": "many"}, "k"),
        ({"heading_deg": "nan"}, "heading_deg"),
        ({"lat": "95", "lon": "0", "radius_m": "5"}, "lat"),
        ({"view": "satellite"}, "view"),
        ({"colour": "red"}, "colour"),
        ({"lat": "5"}, "form"),
        ({"pitch_deg": "5", "view": "panorama"}, "form"),
        ({"heading_error_deg": "0"}, "heading_error_deg"),
    ],
)
def test_bad_fields_are_named(client, own_index, fields, name):
    detail = problem(post(client, encoded(own_index.panoramas[0]), **fields), 422, "bad_field")
    assert detail.startswith(f"Field {name}")


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels it does not have: a decompression bomb's first bytes."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    pieces = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def gif() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (64, 64)).save(sink, "GIF")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "status", "reason"),
    [
        (b"", "image/png", 422, "empty"),
        (b"just text", "image/png", 415, "unsupported_media_type"),
        (gif(), "image/gif", 415, "unsupported_media_type"),
        (encoded(texture(1))[:200], "image/png", 422, "truncated"),
        (png_header(60_000, 60_000), "image/png", 422, "too_large"),
        (png_header(8000, 8000), "image/png", 422, "too_large"),
        (encoded(texture(1)[:16, :16]), "image/png", 422, "too_small"),
        (b"\xff\xd8\xff" + b"\0" * 500, "image/jpeg", 422, "undecodable"),
        (b"II*\0" + b"\0" * 500, "application/octet-stream", 415, "unsupported_media_type"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_hostile_files_get_a_reason(client, data, kind, status, reason):
    problem(post(client, data, kind), status, reason)


def test_refusals_leave_no_stack_trace_and_no_position_in_the_logs(client, own_index):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (12.0, 34.0, 56.0), 3: "E", 4: (77.0, 0.0, 0.0)})
    sink = io.BytesIO()
    Image.fromarray(own_index.panoramas[5]).save(sink, "JPEG", exif=exif)
    secret = {"authorization": "Bearer very-secret-key"}
    files = {"image": ("photo", sink.getvalue(), "image/jpeg")}
    assert client.post("/v1/localize", files=files, headers=secret).status_code == 200
    problem(post(client, encoded(own_index.tiles[0]), view="drone", extent_m="3"), 422, "model_mismatch")
    problem(post(client, encoded(texture(1)), view="panorama", fov_deg="360"), 422, "bad_aspect")
    problem(post(client, b"GIF89a" + b"\0" * 99), 415, "unsupported_media_type")
    problem(post(client, encoded(own_index.panoramas[0]), index="other"), 404, "unknown_index")
    logs = Path(session_logs())
    text = "".join(path.read_text(errors="replace") for path in logs.glob("**/*Ingress*"))
    text += "".join(path.read_text(errors="replace") for path in logs.glob("**/*Encoder*"))
    text += "".join(path.read_text(errors="replace") for path in logs.glob("**/*Search*"))
    assert "Traceback" not in text
    assert "very-secret-key" not in text
    assert "77.0" not in text


def session_logs() -> str:
    return f"{ray._private.worker._global_node.get_session_dir_path()}/logs/serve"


@pytest.mark.parametrize(
    "declared", ["IMAGE/JPEG", "application/octet-stream", "text/plain", "image/gif", ""]
)
def test_the_first_bytes_decide_and_not_the_declared_type(client, own_index, declared):
    answer = post(client, encoded(own_index.panoramas[3]), declared, view="panorama").json()
    assert answer["matches"][0]["tile_id"] == own_index.tile_ids[3]
    assert (answer["view"], answer["fov_deg"]) == ("panorama", 360.0)
    assert answer["assumed"] == ["fov_deg", "heading_deg"]


def test_bodies_beyond_the_limit_are_cut_off(client):
    detail = problem(post(client, b"\0" * (86 * 2**20)), 413, "body_too_large")
    assert "89,871,701" in detail


def test_the_limit_counts_what_arrives_and_not_what_is_declared(client):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for _ in range(87):
            yield b"\0" * 2**20

    headers = {"content-type": "multipart/form-data; boundary=x"}
    problem(client.post("/v1/localize", content=endless(), headers=headers), 413, "body_too_large")


def test_requests_that_are_no_form_are_refused(client, own_index):
    problem(client.post("/v1/localize", content=b"{}"), 415, "unsupported_media_type")
    problem(client.post("/v1/localize", files={"picture": ("a", b"x")}), 422, "missing_image")
    two = [("image", ("a", b"x")), ("image", ("b", b"y"))]
    problem(client.post("/v1/localize", files=two), 400, "bad_request")
    problem(client.get("/v1/localize"), 405, "method_not_allowed")
    problem(client.get("/nothing"), 404, "not_found")
    fields = {"view": "x" * 20_000}
    problem(post(client, encoded(own_index.panoramas[0]), **fields), 400, "bad_request")


def test_positions_inside_the_file_do_not_matter(client, own_index):
    exif = Image.Exif()
    gps = exif.get_ifd(0x8825)
    gps.update({1: "N", 2: (12.0, 0.0, 0.0), 3: "E", 4: (77.0, 0.0, 0.0)})
    answers = []
    for tags in (None, exif):
        sink = io.BytesIO()
        options = {} if tags is None else {"exif": tags}
        Image.fromarray(own_index.panoramas[5]).save(sink, "JPEG", quality=95, **options)
        answers.append(post(client, sink.getvalue(), "image/jpeg", view="panorama", heading_deg="0").json())
    assert answers[0]["matches"] == answers[1]["matches"]
    assert answers[0]["lat"] == answers[1]["lat"]


def test_a_plain_surface_is_not_located(client):
    answer = post(client, encoded(np.full((64, 128, 3), 120, np.uint8)), heading_deg="0").json()
    assert answer["located"] is False
    assert answer["reason"] == "featureless_image"


def test_another_snapshot_is_swapped_in_without_losing_a_request(service, client, own_index):
    before = client.get("/healthz").json()["snapshot_id"]
    new_id = commit_more_tiles(own_index)
    assert client.get("/healthz").json()["snapshot_id"] == before

    def ask(number: int) -> tuple[str, int]:
        response = post(
            client, encoded(own_index.panoramas[number % 30]), view="panorama", heading_deg="0", k="1"
        )
        assert response.status_code == 200, response.text
        assert response.json()["matches"][0]["tile_id"] == own_index.tile_ids[number % 30]
        return response.json()["snapshot_id"], response.json()["shards_total"]

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(60)]
        assert service.reload() == new_id
        seen = {one.result()[0] for one in asked}
    assert seen <= {before, new_id}
    assert ask(0)[0] == new_id
    assert client.get("/healthz").json()["tiles"] == 33


def commit_more_tiles(small: SmallIndex) -> str:
    """A second snapshot: the same tiles and three more."""
    encoder = Encoder.open(small.model, device="cpu")
    pictures = [*small.tiles, *(texture(900 + number) for number in range(3))]
    codes = encoder.encode(encoder.prepare(pictures, "aerial"), "aerial")
    ids = [*small.tile_ids, "z-1", "z-2", "z-3"]
    lat, lon = np.append(small.lat, [-35.0] * 3), np.append(small.lon, [149.0] * 3)
    columns = {"tile_id": ids, "lat": lat, "lon": lon}
    table = pa.table(columns, schema=TILES_SCHEMA)
    index, model = storage.local_path(small.index), storage.local_path(small.model)
    return write_index(index, model, table, codes.code, codes.embedding.astype(np.float16), True)


def end_replicas(*deployments: str) -> None:
    """Kill the processes of all replicas of deployments, as a fault of their machine would."""
    for name in ray.util.list_named_actors(all_namespaces=True):
        if any(f"#{deployment}#" in name["name"] for deployment in deployments):
            ray.kill(ray.get_actor(name["name"], namespace=name["namespace"]))


def first_match(client, own_index, number: int) -> tuple[str, str, str]:
    """(snapshot, model, nearest tile) of a photo; a replica that starts needs a moment."""
    for _ in range(200):
        response = post(client, encoded(own_index.panoramas[number]), view="panorama", heading_deg="0", k="1")
        if response.status_code == 200:
            break
        assert response.status_code == 503, response.text
        time.sleep(0.3)
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["snapshot_id"], answer["model_id"], answer["matches"][0]["tile_id"]


@pytest.mark.timeout(900)
def test_replicas_that_restart_serve_what_the_others_do_though_a_new_model_is_current(
    service, client, own_index, tmp_path
):
    old = first_match(client, own_index, 4)
    new_id = commit_other_model(own_index, tmp_path)
    end_replicas("Encoder", "Search")
    assert first_match(client, own_index, 4) == old
    assert client.get("/readyz").json()["snapshot_id"] == old[0]
    end_replicas("Catalog")
    time.sleep(1)
    assert first_match(client, own_index, 4) == old
    for _ in range(100):  # until Serve has another catalog
        with contextlib.suppress(RayError):
            assert service.reload() == new_id
            break
        time.sleep(0.3)
    snapshot_id, model_id, _ = first_match(client, own_index, 4)
    assert snapshot_id == new_id
    assert model_id != old[1]
    end_replicas("Encoder", "Search", "Ingress")
    assert first_match(client, own_index, 4)[0] == new_id


def commit_other_model(small: SmallIndex, root: Path) -> str:
    """A third snapshot: the same tiles, encoded by another model."""
    encoder = make_model(str(root / "model"), small_recipe("other"))
    codes = encoder.encode(encoder.prepare(small.tiles, "aerial"), "aerial")
    table = pa.table({"tile_id": small.tile_ids, "lat": small.lat, "lon": small.lon}, schema=TILES_SCHEMA)
    index = storage.local_path(small.index)
    return write_index(index, root / "model", table, codes.code, codes.embedding.astype(np.float16), True)


def test_a_shard_that_is_cut_under_a_replica_is_left_out_and_counted(client, own_index):
    snapshot_id, _, _ = first_match(client, own_index, 4)
    entry = read_manifest(own_index.index, snapshot_id).shards[2]
    codes = Path(storage.local_path(own_index.index)) / entry.directory / "codes.npy"
    whole = codes.read_bytes()
    os.truncate(codes, 100)

    def ask(**fields: str) -> httpx.Response:
        return post(client, encoded(own_index.panoramas[4]), view="panorama", heading_deg="0", **fields)

    answer = ask().json()
    assert (answer["shards_answered"], answer["shards_total"]) == (2, 3)
    assert answer["matches"][0]["tile_id"] == own_index.tile_ids[4]
    assert "1 of 3 shards" in problem(ask(require_complete="true"), 503, "unavailable")
    end_replicas("Search")  # the one that takes its place finds the shard damaged
    assert first_match(client, own_index, 4)[0] == snapshot_id
    assert ask().json()["shards_answered"] == 2
    codes.write_bytes(whole)  # for the tests that follow
    end_replicas("Search")
    assert first_match(client, own_index, 4)[0] == snapshot_id
    assert ask().json()["shards_answered"] == 3


def test_a_missing_snapshot_is_not_swapped_in(service, client):
    before = client.get("/healthz").json()["snapshot_id"]
    with pytest.raises(ArtifactError, match="no snapshot"):
        service.reload("0" * 32)
    assert client.get("/healthz").json()["snapshot_id"] == before


def test_a_missing_index_and_a_taken_port_are_said_at_once(service, tmp_path, own_index):
    with pytest.raises(ArtifactError, match="no finished index"):
        start(ServeConfig(index=str(tmp_path / "nothing"), port=0))
    port = int(service.url.rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match="choose another port"):
        start(ServeConfig(index=own_index.index, port=port))


def test_a_second_service_of_a_cluster_is_refused_and_the_first_one_answers_on(service, client, own_index):
    with pytest.raises(ServiceUnavailable, match="serves already"):
        start(ServeConfig(index=own_index.index, port=0))
    assert client.get("/healthz").status_code == 200


def test_reload_by_its_command_tells_what_is_served_or_why_not(service, client):
    served = client.get("/healthz").json()["snapshot_id"]
    assert reload(service.url, snapshot=served).snapshot_id == served
    with pytest.raises(QueryError, match="served are default"):
        reload(service.url, index_name="other")
