"""Fixtures that several rooms share: a local Ray, a real S3 server on loopback, free ports, the shared data."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest_plugins = ["small_index", "small_ingest"]
BUCKET = "geoloc-tests"
_START_LIMIT_S = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that wait for a Ray, so that the others can be chosen."""
    for item in items:
        own_ray = item.path.parent.name in ("cluster", "e2e")
        if own_ray or "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held until the last is known, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a port nobody listens on."""
    return lambda: _free_ports(1)[0]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real imagery, labels and schemas that lie beside the checkout; skips where they are not."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the shared data is not on this machine (expected beside the checkout, in shared/data)")
    return path


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: where it listens, its bucket and its process."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    pid: int


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server (SeaweedFS) on loopback; the AWS environment points at it for the whole session."""
    access_key, secret_key = f"key{secrets.token_hex(6)}", secrets.token_hex(16)
    directory = tmp_path_factory.mktemp("seaweedfs")
    ports = _free_ports(9)
    log_path = directory / "server.log"
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            _weed_command(directory / "data", ports),
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    endpoint = f"http://127.0.0.1:{ports[0]}"
    patch = pytest.MonkeyPatch()
    try:
        _await_listening(ports[0], process, log_path)
        for name, value in {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        _make_bucket(endpoint)
        yield S3Server(endpoint, access_key, secret_key, BUCKET, process.pid)
    finally:
        patch.undo()
        _end(process)


def _weed_command(data: Path, ports: list[int]) -> list[str]:
    data.mkdir()
    names = [
        f"{server}.port{kind}" for server in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")
    ]
    flags = [f"-{name}={port}" for name, port in zip([*names, "admin.port"], ports, strict=True)]
    weed = Path(sys.executable).with_name("weed")
    return [
        str(weed),
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-admin.ui=false",
        "-webdav=false",
        "-master.telemetry=false",  # on by default: tests talk to nobody
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *flags,
    ]


def _await_listening(port: int, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"the S3 server ended at once:\n{log_path.read_text(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.05)
    pytest.fail(f"the S3 server did not listen:\n{log_path.read_text(errors='replace')[-2000:]}")


def _make_bucket(endpoint: str) -> None:
    """The server listens a moment before its store takes buckets."""
    import botocore.session
    from botocore.exceptions import BotoCoreError, ClientError

    client = botocore.session.get_session().create_client(
        "s3", endpoint_url=endpoint, region_name="us-east-1"
    )
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
            client.delete_object(Bucket=BUCKET, Key=".ready")
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def s3_uri(s3_server: S3Server) -> str:
    """An empty place of its own in the test bucket: `s3://bucket/<random>`."""
    return f"s3://{s3_server.bucket}/{secrets.token_hex(8)}"


@pytest.fixture(scope="session")
def ray_local(s3_server: S3Server) -> Iterator[None]:
    """One Ray with two CPUs for the session.

    It starts after the S3 server: workers inherit the environment that Ray was started with.
    """
    import ray

    from geoloc.runtime.ray_session import ensure_ray

    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    ensure_ray(num_cpus=2)
    yield
    ray.shutdown()
    patch.undo()
