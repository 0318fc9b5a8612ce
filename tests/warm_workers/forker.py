"""Imports what Ray's workers need, and forks a worker for everybody who connects to its socket.

Ray's library takes the job and the raylet from the environment when it is loaded. So all is imported at the first
question, which names the raylet, and the workers begin without a job, as those that Ray starts in advance.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

MODULES = (
    "ray.data",
    "ray.serve",
    "ray.train.torch",
    "geoloc.evaluation.ranking.shard_scores",
    "geoloc.runtime.shard_job",
    "geoloc.runtime.table_job",
    "geoloc.serving.app",
    "geoloc.stages.encode",
    "geoloc.stages.evaluate",
    "geoloc.stages.train",
    "geoloc.synthetic.stages.city",
)
FORKABLE = {"jemalloc_bg_thd"}  # the allocator of Arrow takes care of its own thread
NO_JOB = {"RAY_JOB_ID": "ffffffff"}
RAYLET = "RAY_RAYLET_PID"


def main() -> None:
    """Fork for every question until standard input ends; go on as a worker in each child."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.environ["GEOLOC_TESTS_FORKER"])
        server.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
        os.write(1, b"ready\n")
        while sys.stdin not in (ready := select.select([server, sys.stdin], [], [])[0]):
            assert ready
            asking, _ = server.accept()
            with asking:
                words, environment, folder, files = _question(asking)
                _load(environment)
                child = os.fork()
                if not child:
                    break
                for file in files:
                    os.close(file)
        else:
            return  # the tests ended
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgrp()  # as a raylet starts its workers: with one dies what it has started
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    same_raylet = os.environ.get(RAYLET) == environment.get(RAYLET)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    run_worker(words, warm=same_raylet)


def _question(asking: socket.socket) -> tuple[list[str], dict[str, str], str, list[int]]:
    """Words, environment, working directory and the three standard files of a worker."""
    size, files, _, _ = socket.recv_fds(asking, 8, 3)
    text = b""
    while len(text) < int.from_bytes(size, "little"):
        text += asking.recv(1 << 20)
    words, environment, folder = json.loads(text)
    return words, environment, folder, list(files)


def _load(environment: dict[str, str]) -> None:
    """Import everything, once, for workers with this environment."""
    if "ray" in sys.modules:
        return
    os.environ.update({RAYLET: environment[RAYLET]} | NO_JOB)
    for name in MODULES:
        importlib.import_module(name)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    others = [name for name in threads if name not in FORKABLE]
    assert len(others) == 1, f"a process with threads cannot be forked safely: {others}"


def run_worker(words: list[str], *, warm: bool) -> None:
    """What Ray's own script does with the words, and before it the script for a runtime environment."""
    import ray
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs

    scripts = Path(ray.__file__).parent / "_private" / "workers"
    script = str(scripts / "default_worker.py")
    words = [word for word in words if not word.endswith("/forwarder.py")]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    known, rest = parser.parse_known_args(words)
    context = RuntimeEnvContext.deserialize(known.serialized_runtime_env_context)
    plain = RuntimeEnvContext(env_vars=context.env_vars)
    if not warm or context.serialize() != plain.serialize():
        os.execv(sys.executable, [sys.executable, str(scripts / "setup_worker.py"), script, *words])
    update_envs(context.env_vars)
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    main()
