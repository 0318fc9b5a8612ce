"""A lease says who is at work, ends with its owner, and is taken over when nobody renews it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from geoloc.core import lease, storage
from geoloc.core.errors import OutputInUse
from geoloc.core.lease import Lease, LeaseRecord, process_identity


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "EXPIRES_S", 0.5)


def _leave(output: str, *, process: str | None) -> LeaseRecord:
    """The lease of a run that is gone."""
    record = LeaseRecord(
        owner="process 1 on far", process=process, token="t", since="2026-01-01T00:00:00+00:00"
    )
    storage.write_bytes(storage.join(output, "lease.json"), record.encode())
    return record


@pytest.mark.parametrize("store", ["local", "s3"])
def test_one_holds_it_and_the_other_learns_who(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = str(tmp_path) if store == "local" else request.getfixturevalue("s3_uri")
    with Lease(output) as held:
        with (
            pytest.raises(OutputInUse, match=rf"in use: .* \(process {os.getpid()} on .*, since 20\d\d-"),
            Lease(output),
        ):
            pass
        held.check()
    with Lease(output):
        pass
    assert not storage.exists(storage.join(output, "lease.json"))


def test_a_lease_is_released_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no luck"), Lease(str(tmp_path)):
        raise RuntimeError("no luck")
    with Lease(str(tmp_path)):
        pass


def test_it_is_renewed_while_the_work_goes_on(tmp_path: Path) -> None:
    with Lease(str(tmp_path)):
        deadline_s = time.monotonic() + 20
        while b'"renewals":0' in (tmp_path / "lease.json").read_bytes():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def test_the_lease_of_a_process_that_was_killed_is_taken_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRES_S", 3600.0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = process_identity(child.pid)
    assert identity is not None
    _leave(str(tmp_path), process=identity)
    with pytest.raises(OutputInUse), Lease(str(tmp_path)):
        pass
    child.kill()
    child.wait()
    with Lease(str(tmp_path)):
        pass


def test_the_lease_of_another_machine_is_watched(tmp_path: Path) -> None:
    """It is taken over when it stays as it is, and respected when it is renewed."""
    _leave(str(tmp_path), process="other-boot 1 1 1")
    began_s = time.monotonic()
    with Lease(str(tmp_path)):
        assert time.monotonic() - began_s >= lease.EXPIRES_S
    record = _leave(str(tmp_path), process="other-boot 1 1 1")
    renewed = record.model_copy(update={"renewals": 1}).encode()
    timer = threading.Timer(0.2, storage.write_bytes, (storage.join(str(tmp_path), "lease.json"), renewed))
    timer.start()
    with pytest.raises(OutputInUse, match="process 1 on far, since 2026-01-01"), Lease(str(tmp_path)):
        pass
    timer.join()


def test_a_run_that_lost_its_lease_learns_it(tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as mine:
        other = _leave(str(tmp_path), process=None)
        with pytest.raises(OutputInUse, match="has lost its lease"):
            mine.check()
    assert (tmp_path / "lease.json").read_bytes() == other.encode(), "what is not ours is not removed"


def test_a_store_without_conditional_puts_holds_nothing(tmp_path: Path) -> None:
    with Lease("memory://nowhere/output") as held:
        held.check()
