"""A real Ray head on loopback, started as an operator would, for jobs that are submitted to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
_PORTS = {
    "port": 0,
    "dashboard-port": 1,
    "dashboard-agent-listen-port": 2,
    "dashboard-agent-grpc-port": 3,
    "metrics-export-port": 4,
    "runtime-env-agent-port": 5,
    "ray-client-server-port": 6,
}
_START_LIMIT_S = 180.0


@dataclass(frozen=True)
class Head:
    """A running head: the address of its dashboard and the environment that its clients need."""

    address: str
    environment: dict[str, str]

    def ray(self, *words: str, limit_s: float = 500.0) -> subprocess.CompletedProcess[str]:
        """Call `ray` as a client of this head, in the checkout."""
        return subprocess.run(
            [BIN / "ray", *words],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir . -- python WORDS`, until the job ends."""
        return self.ray("job", "submit", "--working-dir", ".", "--", "python", *words)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head with two CPUs and a token; ended by its own pid. Its dashboard would cost the tests that follow much."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in _PORTS]
        for one in sockets:
            one.bind(("127.0.0.2", 0))
        ports = [one.getsockname()[1] for one in sockets]
    directory = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie below it
    address = f"http://127.0.0.2:{ports[_PORTS['dashboard-port']]}"
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_TMPDIR": directory,  # the note of the current cluster stays in here
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",  # the 3 s of Ray's default kill a service before it has shut down
        "RAY_raylet_start_wait_time_s": "120",  # machines that run tests are busy
    }
    flags = [f"--{name}={ports[place]}" for name, place in _PORTS.items()]
    log_path = Path(directory) / "head.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.2", "--num-cpus=2",
             "--dashboard-host=127.0.0.2", f"--temp-dir={directory}", "--object-store-memory=500000000", *flags],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _await(process, log_path)
        yield Head(address, environment)
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _await(process: subprocess.Popen[bytes], log_path: Path) -> None:
    """Until `ray start` says that it blocks; asking the head in a loop would only slow it down."""
    deadline = time.monotonic() + _START_LIMIT_S
    while "block forever" not in (log := log_path.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the head did not come up:\n{log[-3000:]}")
        time.sleep(0.2)
