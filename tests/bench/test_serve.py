"""The bench of the service: its bars, its bodies, and a short run on a small index."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_index import SmallIndex, build, encoded, texture

from geoloc.bench import serve
from geoloc.bench.measure import Spread
from geoloc.core.errors import ServiceUnavailable
from geoloc.serving.limits import ServingLimits
from tests.serving.fake_backend import FakeBackend, talk


def load(clients: int, per_s: float, p50_ms: float) -> serve.Load:
    return serve.Load(
        clients=clients,
        requests=10,
        failed=0,
        per_s=per_s,
        p50_ms=p50_ms,
        p99_ms=2 * p50_ms,
        memory_bytes=1,
        cpu_ms={},
    )


def test_bars_compare_with_the_steps_and_with_the_forward_pass() -> None:
    loads = [load(64, 70.0, 900.0), load(1, 20.0, 55.0), load(8, 80.0, 100.0)]
    latency, throughput = serve.bars_of(Spread.of([40.0]), Spread.of([100.0]), loads)
    assert (latency.value.median, latency.met) == (1.25, True)  # 50 of 40 ms
    assert (throughput.value.median, throughput.met) == (0.8, True)
    assert "8 clients" in throughput.what
    slower = serve.bars_of(Spread.of([40.0]), Spread.of([101.0]), [load(1, 80.0, 56.0)])
    assert [bar.met for bar in slower] == [False, False]


def test_bodies_are_what_the_service_takes() -> None:
    row: dict[str, Any] = {
        "view": "street",
        "heading_deg": 30.5,
        "fov_deg": 90.0,
        "image": encoded(texture(1)),
    }
    backend = FakeBackend()

    async def script(client: httpx.AsyncClient) -> int:
        headers = {"content-type": f"multipart/form-data; boundary={serve.BOUNDARY}"}
        answer = await client.post("/v1/localize", content=serve.photo_body(row), headers=headers)
        return answer.status_code

    assert talk(backend, ServingLimits(decoders=1), script) == 200
    (one,) = backend.photos
    assert (one.view, one.heading_deg, one.fov_deg) == ("street", 30.5, 90.0)


def test_percentiles_and_rates_are_those_of_all_requests() -> None:
    times = {"9": 1, "100": 98, "20": 1}  # as locust counts them: milliseconds, requests
    found = {
        "num_requests": 100,
        "num_failures": 3,
        "start_time": 10.0,
        "last_request_timestamp": 15.0,
        "response_times": times,
    }
    one = serve._load(found, 4, {"load": 2.0})
    assert (one.requests, one.failed, one.per_s, one.p50_ms, one.p99_ms) == (100, 3, 20.0, 100.0, 100.0)
    assert one.cpu_ms == {"load": 20.0}
    half = found | {"num_requests": 2, "response_times": {"7": 1, "3": 1}}
    assert (serve._load(half, 1, {}).p50_ms, serve._load(half, 1, {}).p99_ms) == (3.0, 7.0)


def test_a_load_without_an_answer_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "00000").write_bytes(b"")
    with socket.socket() as silent:  # it accepts and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceUnavailable, match="no request came to an end"):
            serve.load_of(url, tmp_path, 1, 1, stop_s=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_run_counts_every_request(ray_local: None, tmp_path: Any) -> None:
    small: SmallIndex = build(tmp_path, count=30)
    config = serve.ServeBench(
        index=small.index, photos=f"{small.ingested}/queries", clients=[1, 4], seconds=5, count=6
    )
    report = serve.run(config)
    assert [one.clients for one in report.loads] == [1, 4]
    assert all(one.requests > 5 and one.failed == 0 for one in report.loads)
    assert all(0 < one.p50_ms <= one.p99_ms for one in report.loads)
    assert all(one.cpu_ms["Encoder"] > 0 and one.cpu_ms["load"] > 0 for one in report.loads)
    assert "p50 of 1 client" in report.text()
