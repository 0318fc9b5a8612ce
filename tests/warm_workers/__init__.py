"""Ray workers of the tests are forked from one process that has imported torch, Ray and geoloc already.

A worker that Ray starts by itself imports all that anew: three to eight seconds of a core, and the tests start
hundreds. The Ray of the fixture `ray_local` starts `forwarder.py` in the place of its own script for workers. The
forwarder hands its arguments, environment and files to `forker.py`, which forks. The child runs Ray's own script.

Off unless GEOLOC_TESTS_WARM=1. It halves the time of the tests with a Ray, but children also inherit the state of Ray's
random numbers: two that begin at the same moment draw the same object ids, one of them ends, and the Ray that waits for
both hangs. It was seen once in three starts of the whole suite.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

SOCKET_VARIABLE = "GEOLOC_TESTS_FORKER"
_HERE = Path(__file__).resolve().parent


@contextlib.contextmanager
def warm_workers() -> Iterator[None]:
    """A Ray that this process starts in here forks its workers; it must end in here too."""
    from ray._private.parameter import RayParams

    plain = RayParams.update_if_absent
    ours = {name: str(_HERE / "forwarder.py") for name in ("worker_path", "setup_worker_path")}
    with contextlib.ExitStack() as stack:
        address = str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="forker-")), "socket"))

        def with_forker(self: RayParams, **values: Any) -> None:
            if os.environ.get(SOCKET_VARIABLE) != address:
                os.environ[SOCKET_VARIABLE] = address
                stack.callback(os.environ.pop, SOCKET_VARIABLE)
                stack.enter_context(_forker())
            plain(self, **{name: ours.get(name, value) for name, value in values.items()})

        # Ray calls this when the environment is the one that its workers will have.
        stack.enter_context(mock.patch.object(RayParams, "update_if_absent", with_forker))
        yield


@contextlib.contextmanager
def _forker() -> Iterator[None]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # threads of OpenBLAS could not be forked
    with subprocess.Popen(
        [sys.executable, str(_HERE / "forker.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the process that forks Ray's workers did not come up")
        try:
            yield
        finally:
            process.terminate()
