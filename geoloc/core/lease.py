"""A lease on an output: a second run learns who is at work there, since when, and does not touch it.

<output>/lease.json    owner, start and a count of renewals; it is there only while a run is at work

The owner renews the lease every `RENEW_S` seconds from a thread. A lease that nobody renews for `EXPIRES_S` seconds
is abandoned, and the next run takes it over. Clocks of machines are not compared: the waiting run watches whether
the file changes. On the owner's own machine nobody waits: whether its process lives is looked up.

A lease keeps two honest runs apart. It does not protect against an owner that was stopped and goes on after it lost
the lease: tables are published by compare and swap for that reason (`part_table`).
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, GeolocError, OutputInUse
from geoloc.core.progress import say

LEASE_NAME = "lease.json"
RENEW_S = 10.0
EXPIRES_S = 60.0
_POLL_S = 1.0


class LeaseRecord(BaseModel):
    """What the file of a lease says: who holds it, since when, and how often it was renewed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str
    process: str | None
    token: str
    since: str
    renewals: int = 0

    def encode(self) -> bytes:
        """The bytes of the file."""
        return self.model_dump_json().encode() + b"\n"


def process_identity(pid: int) -> str | None:
    """What tells a process of this machine from all others, before and after; None where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{boot} {namespace} {pid} {fields[18]}"


class Lease:
    """The lease of one output, held within a `with` block.

    Entering raises `OutputInUse` when another run is at work there. On a store without conditional puts nothing is
    held, and two runs are not kept apart.
    """

    def __init__(self, output: str) -> None:
        self._uri = storage.join(output, LEASE_NAME)
        self._output = output
        self._record = LeaseRecord(
            owner=f"process {os.getpid()} on {socket.gethostname()}",
            process=process_identity(os.getpid()),
            token=secrets.token_hex(8),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._renewed_s = time.monotonic()
        self._lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="geoloc-lease", daemon=True)
        self._active = storage.has_conditional_put(output)

    def __enter__(self) -> Lease:
        if self._active:
            self._acquire()
            self._renewed_s = time.monotonic()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._active:
            return
        self._ended.set()
        self._thread.join()
        try:
            if self._held():
                storage.delete(self._uri)
        except GeolocError:
            if error is None:  # else the error of the work goes first; the lease ends with its time
                raise

    def check(self) -> None:
        """Raise `OutputInUse` when another run has taken the output over meanwhile."""
        if self._active and (self._lost or not self._held()):
            raise OutputInUse(
                f"This run ({self._record.owner}) has lost its lease on {self._output!r}: nobody heard of it for "
                f"{EXPIRES_S:.0f} s, and another run may work there now. Run it again when the other has ended."
            )

    def _held(self) -> bool:
        content = _read(self._uri)
        record = content and _parsed(content)
        return bool(record and record.token == self._record.token)

    def _acquire(self) -> None:
        while not storage.put_if_absent(self._uri, self._record.encode()):
            content = _read(self._uri)
            if content is None:
                continue  # its owner has just ended
            if not self._is_abandoned(content):
                raise OutputInUse(_busy(self._output, content))
            if storage.compare_and_swap(self._uri, self._record.encode(), content):
                return

    def _is_abandoned(self, content: bytes) -> bool:
        record = _parsed(content)
        alive = _is_alive(record) if record else None
        if alive is not None:
            return not alive
        say(
            f"{self._output}: a run left its lease ({record.owner if record else 'unknown'}); waiting up to "
            f"{EXPIRES_S:.0f} s to see whether it lives"
        )
        start_s = time.monotonic()
        while time.monotonic() - start_s < EXPIRES_S:
            time.sleep(min(_POLL_S, EXPIRES_S / 10))
            now = _read(self._uri)
            if now != content:
                return now is None
        return True

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            renewed = self._record.model_copy(update={"renewals": self._record.renewals + 1})
            try:
                swapped = storage.compare_and_swap(self._uri, renewed.encode(), self._record.encode())
            except GeolocError:
                # The store does not answer. Others see no renewal either, so the lease ends with its time.
                self._lost = time.monotonic() - self._renewed_s > EXPIRES_S
            else:
                self._lost = not swapped and not self._held()
                if not self._lost:
                    self._record, self._renewed_s = renewed, time.monotonic()
            if self._lost:
                return


def _is_alive(record: LeaseRecord) -> bool | None:
    """Whether the owner's process lives; None when it ran on another machine."""
    mine = process_identity(os.getpid())
    if record.process is None or mine is None:
        return None
    *place, pid, _ = record.process.split()
    if place != mine.split()[:2]:
        return None
    return process_identity(int(pid)) == record.process


def _busy(output: str, content: bytes) -> str:
    record = _parsed(content)
    who = f"{record.owner}, since {record.since}" if record else "unknown"
    return (
        f"{output!r} is in use: another run is at work there ({who}); wait until it has ended, stop it, or choose "
        "another output."
    )


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except ArtifactError:
        return None


def _parsed(content: bytes) -> LeaseRecord | None:
    try:
        return LeaseRecord.model_validate_json(content)
    except ValidationError:
        return None
