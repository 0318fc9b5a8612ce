"""The Ray of a process: the cluster or job that this process belongs to, else a small one of its own.

Every stage calls `ensure_ray()` first. On a laptop that starts Ray on the loopback interface; inside
`ray job submit`, or with `RAY_ADDRESS` set, it attaches, and the same code uses the cluster's machines.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from geoloc.core.errors import ConfigError, ServiceUnavailable, StoreUnavailable
from geoloc.core.progress import say
from geoloc.runtime.metrics import export_progress

# Ray replaces 127.0.0.1 by the network address; this loopback address is kept, so nothing listens outside.
LOOPBACK = "127.0.0.2"
_OBJECT_STORE_BYTES = 2 * 2**30
_START_ATTEMPTS = 3
_TASK_RETRIES = 3
_CLUSTER_WAIT_S, _SAY_EVERY_S, _LOOK_EVERY_S = 900.0, 30.0, 1.0
_TARGET_BLOCK_BYTES = 64 * 2**20
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # the environment is installed; workers must not rebuild it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU keeps the variables it was given
    "RAY_TRAIN_V2_ENABLED": "1",
    # Our workers do nothing with the advance notice of a node's end, and the watcher alarms at every start: Ray warns
    # of its own actor ("constructor arguments in the object store"). A node that goes is a worker failure all the same.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

_own_ray = False  # whether this process started its Ray, which then has this machine and never more


def ensure_ray(num_cpus: int | None = None) -> None:
    """Make sure that this process has a Ray cluster; does nothing when it already has one.

    Attaches to `RAY_ADDRESS` (which `ray job submit` sets) when there is one; otherwise starts a local Ray with
    `num_cpus` CPUs (None: all of this machine's) that ends with the process. Raises `ConfigError` for an
    address that cannot be attached to and `ServiceUnavailable` when no cluster answers there.
    """
    if not ray.is_initialized():
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        # Says at every start that tokens are in use, which is the default and what we want.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        address = os.environ.get("RAY_ADDRESS", "")
        if address and address != "local":
            _attach(address)
        else:
            _start(num_cpus)
        _drop_restart_warning()
    _configure_data()
    export_progress()


class _NeverStarted:
    """An actor for a node that does not exist."""

    def __init__(self, argument: Any) -> None:
        """Take an argument from the object store."""


def _drop_restart_warning() -> None:
    """Provoke a warning that Ray prints once per process, and pass on all but it.

    Ray warns of actors that restart with arguments in its object store. The pools of Ray Data are such actors, and
    Ray Data keeps their arguments alive. The line comes from C++, so only the file descriptor can hold it back.
    """
    nowhere = NodeAffinitySchedulingStrategy("f" * 56, soft=False)  # no demand for an autoscaler
    never: Any = ray.remote(num_cpus=0, max_restarts=1, scheduling_strategy=nowhere)(_NeverStarted)
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            ray.kill(never.remote(ray.put(None)))
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        held.seek(0)
        with open(2, "wb", closefd=False) as out:
            out.writelines(line for line in held if b"'_NeverStarted'" not in line)


def remote_task(function: Callable[..., Any], **options: Any) -> Any:
    """A function as a Ray task that is repeated when its worker dies or a store was away for too long."""
    remote: Any = ray.remote  # takes kinds of exceptions to retry, and its stubs do not say so
    return remote(max_retries=_TASK_RETRIES, retry_exceptions=[StoreUnavailable], **options)(function)


def cpu_count() -> int:
    """CPUs of the cluster, at least 1: how many tasks of ours run side by side."""
    return max(1, int(_resources().get("CPU", 1)))


def gpu_count() -> int:
    """GPUs of the cluster."""
    return int(_resources().get("GPU", 0))


def await_resources(cpus: float, gpus: float, *, what: str, remedy: str) -> None:
    """Wait until the cluster has this many CPUs and GPUs; its autoscaler, if it has one, is asked for them.

    A Ray of our own never grows: there `ConfigError`, made of `what` needs them and the `remedy`, is raised at once.
    On a cluster it is raised after `GEOLOC_CLUSTER_WAIT_S` (900). How long the wait has been is said meanwhile.
    """
    wanted = {kind: count for kind, count in (("CPU", cpus), ("GPU", gpus)) if count}
    limit_s = 0.0 if _own_ray else _cluster_wait_s()
    start, said = time.monotonic(), -math.inf
    asked = False
    try:
        while any((has := _has(wanted))[kind] < count for kind, count in wanted.items()):
            waited_s = time.monotonic() - start
            if waited_s >= limit_s:
                patience = f" after {waited_s:.0f} s" if limit_s else ""
                raise ConfigError(
                    f"{what} {_in_words(wanted)}, Ray has {_in_words(has)}{patience}; {remedy}."
                )
            if not asked:
                _ask_autoscaler([{"CPU": 1.0}] * math.ceil(cpus) + [{"GPU": 1.0}] * math.ceil(gpus))
                asked = True
            if time.monotonic() - said >= _SAY_EVERY_S:
                said = time.monotonic()
                say(
                    f"waiting for machines: {what} {_in_words(wanted)}, the cluster has {_in_words(has)}; "
                    f"{waited_s:.0f} of {limit_s:.0f} s"
                )
            time.sleep(_LOOK_EVERY_S)
    finally:
        if asked:
            _ask_autoscaler([])


def _has(kinds: Iterable[str]) -> dict[str, float]:
    there = _resources()
    return {kind: there.get(kind, 0.0) for kind in kinds}


def _in_words(resources: dict[str, float]) -> str:
    return " and ".join(f"{count:g} {kind}s" for kind, count in resources.items())


def _ask_autoscaler(bundles: list[dict[str, float]]) -> None:
    """Ask for room for these bundles beside each other; an empty list takes the request back."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)


def _cluster_wait_s() -> float:
    text = os.environ.get("GEOLOC_CLUSTER_WAIT_S", "")
    try:
        return max(0.0, float(text)) if text else _CLUSTER_WAIT_S
    except ValueError as error:
        raise ConfigError(f"GEOLOC_CLUSTER_WAIT_S is {text!r}; give a number of seconds.") from error


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _attach(address: str) -> None:
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS is {address!r}, which is a dashboard for `ray job submit`; unset it to run on this "
            "machine, or set it to the head's own address such as 10.0.0.1:6379."
        )
    try:
        ray.init(address=address, logging_level=logging.WARNING, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise ServiceUnavailable(
            f"No Ray cluster answers at RAY_ADDRESS={address!r} ({detail}); start it or unset RAY_ADDRESS."
        ) from error


def _start(num_cpus: int | None) -> None:
    """Start a local Ray; again when it was not up within the half minute that Ray gives it (a busy machine)."""
    global _own_ray
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                _node_ip_address=LOOPBACK,
                logging_level=logging.WARNING,
                ignore_reinit_error=True,
            )
            atexit.register(ray.shutdown)
            _own_ray = True
            return
        except Exception as error:  # Ray raises the bare class here
            if "AF_UNIX path length" in str(error):
                folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
                raise ConfigError(
                    f"The folder for temporary files, {folder!r}, has {len(os.fsencode(folder))} bytes: the names of "
                    "Ray's sockets in it would be longer than the 107 bytes that a socket may have. Set RAY_TMPDIR to "
                    "a short path such as /tmp."
                ) from error
            if attempt == _START_ATTEMPTS or "timed out" not in str(error):
                detail = " ".join(str(error).split())[:200]
                raise ServiceUnavailable(
                    f"Ray did not start on this machine after {attempt} attempts ({detail}); free some CPU and memory."
                ) from error
            ray.shutdown()


def _configure_data() -> None:
    """Ray Data for parts of a few megabytes: bars only on a terminal, small blocks, a quiet log."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _TARGET_BLOCK_BYTES
    for name in ("ray.data", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what goes wrong reaches the user as an exception
