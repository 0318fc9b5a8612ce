"""Fixtures that several rooms share: a local Ray, a real S3 server on loopback, free ports, the shared data."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No test is timed: by default an example of more than 0.2 s fails, which a busy machine takes for any of them.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes side by side: a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# 15 by default: workers would wait for the tests beside them.
os.environ.setdefault("RAY_worker_niceness", "0")
pytest_plugins = ["small_index", "small_ingest"]
BUCKET = "geoloc-tests"
_START_LIMIT_S = 60.0
_OWN_RAY = ("cluster", "e2e")
_RAY_GROUP = "with a Ray:"
_WHOLE_WAYS = (*_OWN_RAY, "serving", "bench")  # about half of the time of the tests with a Ray


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--ray`: a half of the suite beside whatever `-m` chooses."""
    parser.addoption(
        "--ray", choices=("with", "without"), help="only the tests that wait for a Ray, or none of them"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that wait for a Ray, and leave out the half that `--ray` does not want."""
    for item in items:
        if item.path.parent.name in _OWN_RAY or "ray_local" in getattr(item, "fixturenames", ()):
            item.add_marker("ray")
    if "PYTEST_XDIST_WORKER" in os.environ:  # what takes longest begins first
        items.sort(key=lambda item: not _group(item.path).startswith(_RAY_GROUP))
    wanted = config.getoption("--ray")
    if wanted is None:
        return
    kept = [item for item in items if (item.get_closest_marker("ray") is not None) == (wanted == "with")]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Several processes take whole groups of files (`_group`), in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        """`--dist loadgroup` of xdist 3.8 does not group with pytest 9.2."""

        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / nodeid.split("::")[0])

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


@functools.cache
def _group(path: Path) -> str:
    """Files with tests that wait for a Ray are two groups: a process and a Ray each. Others are alone."""
    text = path.read_text(encoding="utf-8")
    if path.parent.name not in _OWN_RAY and "ray_local" not in text and "mark.ray" not in text:
        return str(path)
    return f"{_RAY_GROUP} {'whole ways' if path.parent.name in _WHOLE_WAYS else 'stages'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that starts a Ray without the mark of those that wait for one fails: it would run beside two others."""
    before = _has_ray()
    yield
    if not before and _has_ray() and item.get_closest_marker("ray") is None:
        pytest.fail("this test starts a Ray; let it use the fixture ray_local, or mark it with ray")


def _has_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


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


def _make_here(
    plan: Any, items: list[dict[str, Any]], maker: Any, workers: Any, arguments: tuple[Any, ...]
) -> Iterator[dict[str, str]]:
    """The results of `table_job._run`, from the objects that Ray's workers would run."""
    from geoloc.runtime.table_job import _PartActor, _PartTask

    here = _PartTask(plan, maker) if workers.actors is None else _PartActor(plan, maker, arguments)
    return map(here, items)


@contextlib.contextmanager
def made_here() -> Iterator[None]:
    """Parts of tables are made in this process: for tests of rows, where another one of the stage waits for workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("geoloc.runtime.table_job._run", _make_here)
        yield


@pytest.fixture
def parts_here() -> Iterator[None]:
    """`made_here` for a test."""
    with made_here():
        yield


@pytest.fixture(scope="module")
def parts_here_in_module() -> Iterator[None]:
    """`made_here` for a whole module and its fixtures."""
    with made_here():
        yield


class Killed(BaseException):
    """Ends a stage where `killed_after` says."""


@contextlib.contextmanager
def killed_after(parts: int) -> Iterator[None]:
    """A stage in here ends with `Killed` when that many parts of a table are noted and one more is written."""

    def some(*arguments: Any) -> Iterator[dict[str, str]]:
        results = _make_here(*arguments)
        yield from itertools.islice(results, parts)
        assert next(results, None) is not None, "the table was to be left unfinished"
        raise Killed

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr("geoloc.runtime.table_job._run", some)
        yield
        pytest.fail("the stage ended by itself")


@pytest.fixture(scope="session")
def ray_local(s3_server: S3Server) -> Iterator[None]:
    """One Ray with two CPUs for the session.

    It starts after the S3 server: workers inherit the environment that Ray was started with.
    """
    import ray

    from geoloc.runtime.ray_session import ensure_ray

    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setenv("RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT", "1")  # what cannot start fails at once
    ensure_ray(num_cpus=2)
    yield
    ray.shutdown()
    patch.undo()
