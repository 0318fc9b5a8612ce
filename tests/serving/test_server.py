"""The service as a process: `geoloc serve` until a signal, and a service that does not come up."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from small_index import build

from geoloc.core import storage
from geoloc.core.errors import ServiceUnavailable
from geoloc.serving.server import ServeConfig, start

SIGNALS = (pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM)  # one way out for both


@pytest.fixture
def serving(ray_local: None, tmp_path: Path, number: signal.Signals) -> Iterator[subprocess.Popen[str]]:
    """The command until it is stopped: on the Ray of the session, and for SIGTERM with a Ray of its own."""
    index = build(tmp_path, count=12).index
    environment = os.environ | {"RAY_raylet_start_wait_time_s": "120"}  # machines that run tests are busy
    environment.pop("RAY_ADDRESS", None)
    if number == signal.SIGINT:
        environment["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    words = ["serve", "--index", index, "--port", "0", "--cpus-per-replica", "0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "geoloc", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    # A service that a failed test left would be found by the tests that follow.
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_service_without_a_line_of_ray(
    serving: subprocess.Popen[str], number: signal.Signals
) -> None:
    process = serving
    assert process.stderr is not None
    first = process.stderr.readline()
    assert re.fullmatch(r"Serving .* at http://127\.0\.0\.1:\d+ \(POST /v1/localize, .*\n", first), first
    process.send_signal(number)
    out, rest = process.communicate(timeout=60)
    assert rest == "Stopping the service.\n"
    assert out == ""
    assert process.returncode == 0


def test_a_broken_shard_is_named_and_the_failed_service_ends_quietly(
    ray_local: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = build(tmp_path, count=12).index
    codes = next(Path(storage.local_path(index)).glob("snapshots/*/shard-00001/codes.npy"))
    codes.write_bytes(codes.read_bytes()[:-8])
    with pytest.raises(
        ServiceUnavailable, match=r"did not come up: '.*shard-00001/codes\.npy' has \d+ bytes"
    ):
        start(ServeConfig(index=index, port=0, cpus_per_replica=0.1))
    time.sleep(2)  # Ray's reports arrive a moment later
    printed = "".join(capfd.readouterr())
    assert "retries" not in printed
    assert "ray.kill" not in printed
