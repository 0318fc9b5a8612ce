"""Killed at any moment, with a full disk, without permission: old or new, nothing acknowledged lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geoloc.core import storage
from geoloc.index.format.commit import read_head
from geoloc.index.format.manifest import read_manifest
from geoloc.index.maintenance.garbage import collect_garbage
from geoloc.index.maintenance.inspect import verify
from geoloc.index.search.snapshot import Snapshot

from .. import serial
from ..building import random_tiles
from ..crash_worker import FIRST, State, after, batch, perform, state_before

ROOT = str(Path(__file__).resolve().parents[3])


class Worker:
    """A process that forks the ones to be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.index.crash_worker"],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def kill_after(self, seconds: float, *arguments: str) -> None:
        """Start a life and kill it so many seconds after its first step began."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(arguments) + "\n")
        pid = int(self._line())
        assert self._line() == "alive"
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        assert int(self._line()) == signal.SIGKILL, "it ended before it was killed"

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture
def worker() -> Iterator[Worker]:
    one = Worker()
    yield one
    one.close()


def held(index_uri: str) -> State:
    """What the current snapshot holds: for each tile the step that wrote it, told by its code."""
    snapshot = Snapshot.open(index_uri)
    found = {}
    for shard in snapshot.shards:
        live = np.ones(len(shard), bool) if shard.live_rows is None else shard.live_rows
        for row in np.flatnonzero(live):
            found[shard.tile_ids[int(row)].as_py()] = (shard.codes[row].tobytes(), float(shard.lat[row]))
    assert len(found) == snapshot.count, "an id is there twice"
    return found  # type: ignore[return-value]


def expected(state: State) -> dict[str, tuple[bytes, float]]:
    """The same of a state."""
    wanted = {}
    for step in sorted(set(state.values())):
        tiles = batch(step, state_before(step) if step >= 0 else {})
        assert tiles.lat is not None
        for row, name in enumerate(tiles.ids):
            if state.get(name) == step:
                wanted[name] = (tiles.codes[row].tobytes(), float(tiles.lat[row]))
    return wanted


def check_after_kill(index_uri: str, log: Path, first: int) -> int:
    """The step to go on with. What was acknowledged is there; what is there is the old or the new, whole."""
    lines = log.read_text().splitlines() if log.exists() else []
    done = int(lines[-1].split()[0]) + 1 if lines else first
    head = read_head(index_uri).snapshot_id
    state = state_before(done)
    got = held(index_uri)
    assert verify(index_uri).problems == []
    if lines and head == lines[-1].split()[1]:
        assert got == expected(state)
        return done
    assert got in (expected(state), expected(after(done, state))), "neither the old nor the new"
    if lines and head != lines[-1].split()[1]:
        manifest = read_manifest(index_uri, str(head))
        assert manifest.parent == lines[-1].split()[1], "an acknowledged snapshot is not in the line"
    return done


def killed_lives(worker: Worker, root: Path, index_uri: str, times: int, seed: int) -> int:
    """Kill an index's life many times; returns how many steps it lived."""
    serial.build(index_uri, str(root / "first"), batch(FIRST, {}))
    rng = np.random.default_rng(seed)
    step, log = 0, root / "log"
    for _ in range(times):
        log.unlink(missing_ok=True)
        seconds = float(rng.uniform(0.01, 0.7))
        worker.kill_after(seconds, index_uri, str(root / "codes"), str(step), str(log))
        step = check_after_kill(index_uri, log, step)
    # Run again it goes through, and garbage collection takes what the killed ones left.
    for number in range(step, step + 7):
        perform(index_uri, str(root / "codes"), number, state_before(number))
    state = state_before(step + 7)
    assert held(index_uri) == expected(state)
    collect_garbage(index_uri, keep=1, min_age_s=0)
    assert held(index_uri) == expected(state)
    check_nothing_left(index_uri)
    return step


def check_nothing_left(index_uri: str) -> None:
    """After collection only what the current snapshot names is there, with receipts and notes."""
    manifest = read_manifest(index_uri, str(read_head(index_uri).snapshot_id))
    needed = {f"{relative}/{file.name}" for relative, files in manifest.owners() for file in files}
    receipts = {f"{shard.directory}.json" for shard in manifest.shards}
    there = {str(path.relative_to(index_uri)) for path in Path(index_uri).rglob("*") if path.is_file()}
    rest = {name for name in there - needed - receipts if not name.endswith(("build.json", "plan.json"))}
    assert rest == {"CURRENT", f"snapshots/{read_head(index_uri).snapshot_id}/manifest.json"}


def test_lives_that_are_killed(worker: Worker, tmp_path: Path, index_uri: str) -> None:
    killed_lives(worker, tmp_path, index_uri, 5, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_lives_that_are_killed(worker: Worker, tmp_path: Path, index_uri: str) -> None:
    assert killed_lives(worker, tmp_path, index_uri, 50, seed=2) > 20


FULL = """
    import os, resource, sys
    from geoloc.core.errors import StorageError
    from tests.index import serial
    from tests.index.building import random_tiles

    index, codes, limit, user = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    content = random_tiles(3000, bits=512, dim=16, seed=5)
    made = serial.sources_of(codes, content)
    serial.sources_of = lambda *_: made
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if user:
        os.setuid(user)
    try:
        serial.add(index, codes, content)
    except StorageError as error:
        print("refused:", error)
"""


def run_full(index_uri: str, codes: Path, limit: int = 0, user: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), index_uri, str(codes), str(limit), str(user)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "limit", [pytest.param(200, marks=pytest.mark.slow), 30_000, pytest.param(60_000, marks=pytest.mark.slow)]
)
def test_files_that_may_not_grow_leave_the_old_snapshot(tmp_path: Path, index_uri: str, limit: int) -> None:
    tiles = random_tiles(40, bits=512, dim=16)
    old = serial.build(index_uri, str(tmp_path / "c"), tiles)
    assert "refused: Cannot" in run_full(index_uri, tmp_path / "more", limit)
    snapshot = Snapshot.open(index_uri)
    assert snapshot.snapshot_id == old
    assert snapshot.search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids
    assert run_full(index_uri, tmp_path / "more") == ""
    assert Snapshot.open(index_uri).count == 3040 - len(set(tiles.ids) & set(random_tiles(3000, seed=5).ids))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes; skips where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_snapshot(small_disk: Path, tmp_path: Path) -> None:
    index_uri = str(small_disk / "index")
    tiles = random_tiles(40, bits=512, dim=16)
    old = serial.build(index_uri, str(tmp_path / "c"), tiles)
    left = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    for share in (0.99, 0.85, 0.7):
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * int(left * share))
        assert "No space left on device" in run_full(index_uri, tmp_path / "more")
        assert Snapshot.open(index_uri).snapshot_id == old
        assert Snapshot.open(index_uri).search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids
        filler.unlink()
        collect_garbage(index_uri, keep=1, min_age_s=0)
    assert run_full(index_uri, tmp_path / "more") == ""
    assert Snapshot.open(index_uri).snapshot_id != old


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become a user without permission")
def test_without_permission_the_old_snapshot_serves(tmp_path: Path, index_uri: str) -> None:
    tiles = random_tiles(40, bits=512, dim=16)
    old = serial.build(index_uri, str(tmp_path / "c"), tiles)
    for directory in (tmp_path, *tmp_path.parents):
        if str(directory).startswith("/tmp/") and directory != Path("/tmp"):
            directory.chmod(0o755)
    assert "ermission denied" in run_full(index_uri, tmp_path / "more", user=65534)
    assert Snapshot.open(index_uri).snapshot_id == old
    assert {file.name for file in storage.list_files(index_uri) if "tmp" in file.name} == set()
