"""A worker and then a machine are killed while a model is trained: it goes on, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .conftest import ROOT

DRIVER = """
    import json, os, signal, sys, threading, time
    from pathlib import Path

    import ray
    from ray.cluster_utils import Cluster

    from geoloc.stages.train import TrainConfig, TrainInputs, run

    recipe, ingested, calm, hit = sys.argv[1:]
    options = {"object_store_memory": 150_000_000, "include_dashboard": False}
    cluster = Cluster()
    # The head has no CPUs: the two workers are on two of the others, and the third takes over.
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.2", **options)
    nodes = {}
    for n in (3, 4, 5):
        nodes[f"127.0.0.{n}"] = cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{n}", **options)
    ray.init(address=cluster.address, logging_level="ERROR")
    config = TrainConfig(recipe=recipe, steps=600, num_workers=2, checkpoint_every=20)
    inputs = TrainInputs(train=ingested)

    def words(process):
        return (process / "cmdline").read_bytes().split(b"\\0")

    def parent(process):
        return Path("/proc", (process / "status").read_text().split("PPid:")[1].split()[0])

    def train_workers():
        # (pid, address of its node) of the workers of this cluster that are training.
        found = []
        for process in Path("/proc").iterdir():
            try:
                if process.name.isdigit() and words(process)[0].startswith(b"ray::RayTrainWorker"):
                    flags = words(parent(process))
                    address = next(w.decode()[18:] for w in flags if w.startswith(b"--node_ip_address="))
                    session = any(cluster.head_node._session_name.encode() in w for w in flags)
                    if session and address in nodes:
                        found.append((int(process.name), address))
            except (FileNotFoundError, ProcessLookupError, StopIteration, IndexError):
                continue
        return found

    def checkpoints():
        return len(list(Path(hit).glob("checkpoints/*/checkpoint_*/state.pt")))

    def newest():
        return max((str(p) for p in Path(hit).glob("checkpoints/*/checkpoint_*/state.pt")), default="")

    def wait(condition, limit_s=120):
        until = time.monotonic() + limit_s
        while not condition() and time.monotonic() < until:
            time.sleep(0.05)
        assert condition()

    killed = {}

    def kill():
        wait(lambda: checkpoints() and len(train_workers()) == 2)
        killed["worker"], _ = train_workers()[0]
        before = newest()
        os.kill(killed["worker"], signal.SIGKILL)
        wait(lambda: newest() > before and len(train_workers()) == 2)
        _, killed["node"] = train_workers()[0]
        cluster.remove_node(nodes[killed["node"]], allow_graceful=False)

    times = {}
    for name, output in (("calm", calm), ("hit", hit)):
        thread = threading.Thread(target=kill)
        if name == "hit":
            thread.start()
        started = time.monotonic()
        result = run(config, inputs, output)
        times[name] = time.monotonic() - started
    thread.join()
    print(json.dumps({"killed": killed, "times": times, "metrics": result.metrics}))
    ray.shutdown()
    cluster.shutdown()
"""


def log_of(model: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_outlives_a_worker_and_a_machine(ingested: str, tiny_path: str, tmp_path: Path) -> None:
    calm, hit = tmp_path / "calm", tmp_path / "hit"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), tiny_path, ingested, str(calm), str(hit)],
        env={
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_raylet_start_wait_time_s": "250",
            "GEOLOC_CACHE": str(tmp_path / "cache"),
        },
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"killed"')))
    assert set(found["killed"]) == {"worker", "node"}
    assert found["metrics"]["step"] == 600
    print({name: round(seconds, 1) for name, seconds in found["times"].items()})  # noqa: T201  # the time lost
    resumed = [line for line in done.stderr.splitlines() + done.stdout.splitlines() if "goes on from" in line]
    assert len(resumed) >= 2, done.stderr[-4000:]
    print("\n".join(resumed))  # noqa: T201
    # The curve is that of the run without a fault, line by line.
    keys = ("step", "loss", "batch_accuracy")
    curves = [[[line[key] for key in keys] for line in log_of(model)] for model in (calm, hit)]
    assert len(curves[0]) == 200
    assert curves[0] == curves[1]
    # Steps that were done twice count twice.
    assert log_of(hit)[-1]["seconds"] > 0
