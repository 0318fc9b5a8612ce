"""What the service counts: routes, statuses and reasons in process; steps and snapshots as a node exports them."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from typing import Any

import httpx
import pytest
import ray
from small_index import SmallIndex, build, encoded, texture

from geoloc.core.errors import ServiceUnavailable
from geoloc.serving import envelope
from geoloc.serving.limits import ServingLimits
from geoloc.serving.server import ServeConfig, start
from tests.serving.fake_backend import FakeBackend, talk

_PATIENCE_S = 60.0
_LINE = re.compile(r"^(ray_geoloc_\w+)\{(.*)\} (\S+)$")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """(route, status, reason) of the requests that ended."""
    seen: list[tuple[str, int, str]] = []
    monkeypatch.setattr(
        envelope,
        "record_request",
        lambda route, status, reason, seconds: seen.append((route, status, reason)),
    )
    return seen


def test_a_request_is_counted_by_its_route_status_and_reason(recorded: list[tuple[str, int, str]]) -> None:
    photo = encoded(texture(1))

    async def script(client: httpx.AsyncClient) -> None:
        await client.post("/v1/localize", files={"image": ("photo", photo)})
        await client.post("/v1/localize", files={"image": ("photo", b"none")})
        await client.get("/v1/tiles/some/secret-name/image")
        await client.get("/v1/map/99/0/0")
        await client.get("/somewhere/else")
        await client.head("/livez")

    talk(FakeBackend(), ServingLimits(decoders=1), script)
    assert recorded == [
        ("/v1/localize", 200, ""),
        ("/v1/localize", 415, "unsupported_media_type"),
        ("/v1/tiles/{tile_id}/image", 404, "no_imagery"),
        ("/v1/map/{zoom}/{x}/{y}", 422, "bad_field"),
        ("other", 404, "not_found"),
        ("/livez", 200, ""),
    ]


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(ServiceUnavailable("none"), 503, "unavailable"), (RuntimeError("a bug"), 500, "internal")],
)
def test_errors_are_counted_by_their_reason(
    error: Exception, status: int, reason: str, recorded: list[tuple[str, int, str]]
) -> None:
    async def script(client: httpx.AsyncClient) -> None:
        await client.post("/v1/localize", files={"image": ("photo", encoded(texture(1)))})

    talk(FakeBackend(error=error), ServingLimits(decoders=1), script)
    assert recorded == [("/v1/localize", status, reason)]


def test_a_client_that_went_is_no_error_of_the_service(recorded: list[tuple[str, int, str]]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(30)

    async def script() -> None:
        layer = envelope.RequestEnvelope(app, ServingLimits())
        task = asyncio.create_task(layer({"type": "http", "headers": []}, None, None))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(script())
    assert recorded == [("other", 499, "")]


def _exported() -> dict[str, dict[str, float]]:
    """Values of our own metrics on this node by name and the labels that are ours, added up over processes."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in (match.groups() for line in lines if (match := _LINE.match(line))):
        ours = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = ",".join(
            ours[label] for label in ("route", "status", "step", "outcome", "snapshot_id") if ours.get(label)
        )
        by_labels = found.setdefault(name, {})
        by_labels[key] = by_labels.get(key, 0.0) + float(value)
    return found


def _complete(found: dict[str, dict[str, float]], photos: int) -> bool:
    """Whether every process of the service has reported: each does so by itself, the last after ten seconds."""
    answered = found.get("ray_geoloc_requests_total", {}).get("/v1/localize,200")
    steps = found.get("ray_geoloc_step_seconds_count", {})
    located = found.get("ray_geoloc_photos_total", {}).get("located")
    return answered == located == photos and len(steps) == 4 and "ray_geoloc_served_snapshot" in found


@pytest.mark.slow  # Ray reports every ten seconds
def test_steps_photos_and_snapshots_reach_the_metrics_of_the_node(ray_local: None, tmp_path: Any) -> None:
    small: SmallIndex = build(tmp_path, count=12)
    service = start(
        ServeConfig(
            index=small.index, port=0, cpus_per_replica=0.1, deadline_s=60, watch_s=0, uncalibrated=True
        )
    )
    try:
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for number in range(3):
                photo = encoded(small.panoramas[number])
                client.post("/v1/localize", files={"image": ("photo", photo)}, data={"heading_deg": "0"})
            snapshot_id = client.get("/healthz").json()["snapshot_id"]
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            found = _exported()
            if _complete(found, photos=3):
                break
            time.sleep(1.0)
    finally:
        service.stop()
    assert found["ray_geoloc_requests_total"]["/v1/localize,200"] == 3.0
    assert found["ray_geoloc_request_seconds_count"]["/v1/localize"] == 3.0
    assert found["ray_geoloc_step_seconds_count"] == dict.fromkeys(
        ("decode", "encode", "search", "locate"), 3.0
    )
    assert found["ray_geoloc_wait_seconds_count"] == dict.fromkeys(("decode", "encode", "search"), 3.0)
    assert found["ray_geoloc_served_snapshot"] == {snapshot_id: 1.0}
    assert found["ray_geoloc_broken_shards"] == {"": 0.0}
    assert 0 < found["ray_geoloc_step_seconds_sum"]["encode"] < 60
