"""A Ray cluster on loopback whose machines share nothing: each has its own cache, TMPDIR and HOME.

A machine sees its private folder at the same path as the others, as a file system of its own (a mount namespace). So a
local path that a driver hands to a task leads nowhere, as it would on another machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .conftest import BIN, ROOT

_PRIVATE = """
    mount -t tmpfs none "$1" && mkdir "$1/cache" "$1/tmp" "$1/home" || exit 3
    export GEOLOC_CACHE="$1/cache" TMPDIR="$1/tmp" HOME="$1/home"
    shift; exec "$@"
"""
_START_LIMIT_S = 180.0
_HEAD = "127.0.0.2"


@dataclass
class PrivateNodes:
    """A head without CPUs and machines of one CPU each.

    `prefix` is the command that gives a program a private folder, `environment` what a client of the cluster needs.
    """

    prefix: list[str]
    environment: dict[str, str]
    address: str
    dashboard: str
    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, ip: str, *flags: str) -> None:
        """Start a machine at this address of loopback and wait until it is up."""
        log_path = self.directory / f"{ip}.log"
        common = [
            "--block",
            "--object-store-memory=150000000",
            "--disable-usage-stats",
            f"--node-ip-address={ip}",
        ]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*self.prefix, str(BIN / "ray"), "start", *flags, *common],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[ip] = process
        deadline = time.monotonic() + _START_LIMIT_S
        while "block forever" not in (text := log_path.read_text(errors="replace")):
            assert process.poll() is None, text[-3000:]
            assert time.monotonic() < deadline, text[-3000:]
            time.sleep(0.2)

    def add(self, ip: str) -> None:
        """Start a machine of one CPU."""
        self.start(ip, f"--address={self.address}", "--num-cpus=1")

    def kill(self, ip: str) -> None:
        """Kill everything that runs on a machine, its folder with it, without a word to the others."""
        process = self.processes.pop(ip)
        _kill_all(process.pid)
        process.wait()

    def submit(self, *words: str, limit_s: float = 900.0) -> str:
        """The output of a job, which runs on the head; the test fails with it when the job does."""
        done = subprocess.run(
            [BIN / "ray", "job", "submit", "--address", self.dashboard, "--", "python", *words],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def end(self) -> None:
        """End all machines, the head last."""
        processes = list(reversed(self.processes.values()))
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            _kill_all(process.pid)
            process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def _kill_all(pid: int) -> None:
    """Kill the process and all others that see its private folder."""
    own, theirs = (_namespace(each) for each in (os.getpid(), pid))
    if not theirs or theirs == own:
        return
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _namespace(int(process.name)) == theirs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)


def _namespace(pid: int) -> str:
    """The mount namespace of a process; empty for one that has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def _prefix(folder: Path) -> list[str]:
    """The command that gives a program a private folder; skips where the system allows no namespace."""
    for flags in (["-m"], ["-rm"]):
        words = ["unshare", *flags, "sh", "-c", textwrap.dedent(_PRIVATE), "private", str(folder)]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    pytest.skip("this system gives no mount namespace, so nodes on it cannot have private folders")


def _await_dashboard(port: int, nodes: PrivateNodes) -> None:
    """`ray start` does not wait until it listens."""
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection((_HEAD, port), timeout=1.0):
            return
        if time.monotonic() > deadline:
            logs = sorted(nodes.directory.glob("session_*/logs/dashboard.*"))
            pytest.fail("\n".join(log.read_text(errors="replace")[-3000:] for log in logs))
        time.sleep(0.2)


@contextlib.contextmanager
def private_nodes(**environment: str) -> Iterator[PrivateNodes]:
    """A head and machines at 127.0.0.3 and 127.0.0.4; `environment` is added to theirs."""
    directory = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie below it
    (directory / "own").mkdir()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(6)]
        for one in sockets:
            one.bind((_HEAD, 0))
        port, board, agent, agent_grpc, metrics, client = (one.getsockname()[1] for one in sockets)
    left_out = ("RAY_ADDRESS", "GEOLOC_CACHE")
    nodes = PrivateNodes(
        prefix=_prefix(directory / "own"),
        environment={
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_raylet_start_wait_time_s": "120",
            **environment,
        },
        address=f"{_HEAD}:{port}",
        dashboard=f"http://{_HEAD}:{board}",
        directory=directory,
    )
    try:
        nodes.start(
            _HEAD, "--head", "--num-cpus=0", f"--port={port}", f"--temp-dir={nodes.directory}",
            f"--dashboard-host={_HEAD}", f"--dashboard-port={board}", f"--dashboard-agent-listen-port={agent}",
            f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}",
            f"--ray-client-server-port={client}",
        )  # fmt: skip
        for ip in ("127.0.0.3", "127.0.0.4"):
            nodes.add(ip)
        _await_dashboard(board, nodes)
        yield nodes
    finally:
        nodes.end()
