"""Storage before an S3 server that fails and stalls: the same results, later; and one request for a small write."""

from __future__ import annotations

import copy
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, StoreUnavailable
from tests.conftest import S3Server
from tests.failing_proxy import FailingProxy, Faults, failing_proxy

TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def running_proxy(s3_server: S3Server) -> Iterator[FailingProxy]:
    """One proxy for all tests, so that the clients of S3 are made once."""
    with failing_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def proxy(running_proxy: FailingProxy, monkeypatch: pytest.MonkeyPatch) -> FailingProxy:
    """A proxy that the AWS environment points at; requests are given up after a second, operations after 20."""
    running_proxy.faults = Faults()
    running_proxy.failed.clear()
    running_proxy.requests.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", running_proxy.endpoint)
    monkeypatch.setenv("GEOLOC_STORE_TIMEOUT_S", str(TIMEOUT_S))
    monkeypatch.setenv("GEOLOC_STORE_BUDGET_S", "20")
    return running_proxy


def test_a_small_write_is_one_request_and_a_small_read_two(proxy: FailingProxy, s3_uri: str) -> None:
    path = s3_uri.removeprefix("s3:/")
    storage.write_bytes(f"{s3_uri}/small", b"x" * 100_000)
    assert proxy.requests == [f"PUT {path}/small"]
    proxy.requests.clear()
    assert len(storage.read_bytes(f"{s3_uri}/small")) == 100_000
    assert proxy.requests == [f"HEAD {path}/small", f"GET {path}/small"]
    proxy.requests.clear()
    assert storage.put_if_absent(f"{s3_uri}/absent", b"x")
    assert proxy.requests == [f"PUT {path}/absent"]


Operation = Callable[[str], object]
OPERATIONS: dict[str, Operation] = {
    "read": lambda uri: storage.read_bytes(f"{uri}/there"),
    "write": lambda uri: storage.write_bytes(f"{uri}/new", b"new"),
    "list": lambda uri: [file.name for file in storage.list_files(uri)],
    "look": lambda uri: storage.size_bytes(f"{uri}/there"),
    "hash": lambda uri: storage.sha256_file(f"{uri}/there"),
    "tag": lambda uri: storage.content_tag(f"{uri}/there"),
    "create": lambda uri: storage.put_if_absent(f"{uri}/new", b"new"),
    "swap": lambda uri: storage.compare_and_swap(f"{uri}/there", b"new", b"old"),
    "copy": lambda uri: storage.copy_file(f"{uri}/there", f"{uri}/copy"),
    "delete": lambda uri: storage.delete(f"{uri}/there"),
}


def _state(uri: str) -> dict[str, bytes]:
    return {file.name: storage.read_bytes(file.uri) for file in storage.list_files(uri)}


@pytest.mark.parametrize(
    ("name", "fault"),
    [*((name, fault) for name in OPERATIONS for fault in ("error", "lost"))]
    + [(name, fault) for name in ("read", "write", "list") for fault in ("reset", "half")],
)
def test_an_operation_that_fails_at_first_ends_as_an_undisturbed_one(
    name: str, fault: str, proxy: FailingProxy, s3_uri: str
) -> None:
    results = []
    faults = (
        3 if name in ("create", "swap", "tag") else 6
    )  # Arrow's client tries each request four times itself
    for place, script in (("calm", []), ("hit", [fault] * faults)):
        uri = f"{s3_uri}/{place}"
        storage.write_bytes(f"{uri}/there", b"old")
        proxy.faults = Faults(script=deque(script))
        result = OPERATIONS[name](uri)
        proxy.faults = Faults()
        results.append((result, _state(uri)))
    assert results[0] == results[1]
    assert proxy.failed[fault] >= 1


@pytest.mark.parametrize("name", ["read", "create"])
def test_an_operation_that_stalls_goes_on_after_the_timeout(
    name: str, proxy: FailingProxy, s3_uri: str
) -> None:
    storage.write_bytes(f"{s3_uri}/there", b"old")
    proxy.faults = Faults(script=deque(["stall"]))
    start = time.monotonic()
    OPERATIONS[name](s3_uri)
    assert TIMEOUT_S * 0.5 < time.monotonic() - start < 15
    assert proxy.failed == {"stall": 1}


def test_large_bytes_arrive_whole_whatever_happens(proxy: FailingProxy, s3_uri: str) -> None:
    data = os.urandom(11_000_000)  # several parts of a multipart upload
    proxy.faults = Faults(shares={"error": 0.15, "reset": 0.1, "lost": 0.1, "half": 0.1})
    for number in range(2):
        storage.write_bytes(f"{s3_uri}/{number}", data)
        assert storage.read_bytes(f"{s3_uri}/{number}") == data
    assert sum(proxy.failed.values()) > 2


def test_a_quota_of_retries_is_never_spent(proxy: FailingProxy, s3_uri: str) -> None:
    """At a fifth of errors the client's own retries gave up for good after 63 writes."""
    proxy.faults = Faults(shares={"error": 0.2})
    for number in range(100):
        storage.write_bytes(f"{s3_uri}/{number}", b"x")
    proxy.faults = Faults()
    assert len(storage.list_files(s3_uri)) == 100
    assert proxy.failed["error"] > 10


def test_a_store_that_never_answers_is_one_sentence(
    proxy: FailingProxy, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOLOC_STORE_BUDGET_S", "1")
    proxy.faults = Faults(shares={"error": 1.0})
    for operation in (
        lambda: storage.read_bytes(f"{s3_uri}/x"),
        lambda: storage.put_if_absent(f"{s3_uri}/x", b""),
    ):
        with pytest.raises(StoreUnavailable, match=r"tries in \d s failed.*run it again\.$"):
            operation()


def test_permanent_errors_are_not_repeated(proxy: FailingProxy, s3_uri: str) -> None:
    with pytest.raises(ArtifactError, match="there is no such file"):
        storage.read_bytes(f"{s3_uri}/absent")
    assert len(proxy.requests) == 1


def test_a_library_that_writes_by_itself_outlives_it_too(
    proxy: FailingProxy, s3_uri: str, tmp_path: Path
) -> None:
    """As Ray Train writes checkpoints: with a file system that came to a worker as a copy."""
    (tmp_path / "state").write_bytes(b"state")
    fs, path = storage.patient_filesystem(s3_uri)
    proxy.faults = Faults(script=deque(["error", "reset"] * 3))
    pafs.copy_files(
        str(tmp_path / "state"), f"{path}/state", destination_filesystem=copy.copy(fs), use_threads=False
    )
    assert not proxy.faults.script
    assert storage.read_bytes(f"{s3_uri}/state") == b"state"


@pytest.mark.parametrize(("budget_s", "tries"), [("300", 13), ("1", 5), ("0.01", 3)])
def test_a_copy_of_its_file_system_tries_for_as_long_as_the_policy_says(
    budget_s: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow waits 0.025 s x 2^n after try n, and its own copies forget how often they were to try."""
    fs, _ = storage.patient_filesystem("s3://bucket/x")
    asked = []
    strategy = pafs.AwsDefaultS3RetryStrategy
    monkeypatch.setenv("GEOLOC_STORE_BUDGET_S", budget_s)
    monkeypatch.setattr(
        pafs,
        "AwsDefaultS3RetryStrategy",
        lambda max_attempts: asked.append(max_attempts) or strategy(max_attempts),
    )
    assert type(copy.copy(fs)) is type(fs)
    assert asked == [tries]
