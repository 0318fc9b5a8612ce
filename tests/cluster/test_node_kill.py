"""A machine dies while sixteen shards are built on three: all shards come out right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
    import json, sys, threading, time
    from pathlib import Path

    import ray
    from ray.cluster_utils import Cluster

    from geoloc.index.format.manifest import read_manifest
    from geoloc.stages.index_build import IndexConfig, IndexInputs, run

    codes, model, calm, hit = sys.argv[1:]
    options = {"object_store_memory": 150_000_000, "include_dashboard": False}
    cluster = Cluster()
    # The head has no CPUs: all work is on the two others, one of which dies.
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.2", **options)
    nodes = [cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{n}", **options) for n in (3, 4)]
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    config, inputs = IndexConfig(shards=16), IndexInputs(codes=codes, model=model)
    killed = {}

    def kill():
        receipts = Path(hit, "snapshots")
        while not list(receipts.glob("build-*/shard-*.json")):
            time.sleep(0.02)
        killed["receipts"] = len(list(receipts.glob("build-*/shard-*.json")))
        cluster.remove_node(nodes[1], allow_graceful=False)
        killed["at"] = time.monotonic()

    thread = threading.Thread(target=kill)
    thread.start()
    result = run(config, inputs, hit)
    finished = time.monotonic()
    thread.join()
    other = run(config, inputs, calm)
    # Ray declares a node dead a quarter of a minute after it fell silent, which may be later than all this.
    patience = time.monotonic() + 60
    while (alive := sum(node["Alive"] for node in ray.nodes())) > 2 and time.monotonic() < patience:
        time.sleep(0.5)
    print(json.dumps({
        "same": result.snapshot_id == other.snapshot_id,
        "shards": [shard.count for shard in read_manifest(hit, result.snapshot_id).shards],
        "receipts_when_killed": killed["receipts"],
        "seconds_after": finished - killed["at"],
        "alive": alive,
    }))
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_killed_while_shards_are_built(tmp_path: Path) -> None:
    from stages.test_index_build import Gallery, write_model

    from geoloc.index.maintenance.inspect import verify

    gallery = Gallery(60_000, dim=64)
    codes, model = gallery.write(str(tmp_path / "codes"), pieces=8), write_model(str(tmp_path / "model"))
    calm, hit = str(tmp_path / "calm"), str(tmp_path / "hit")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), codes, model, calm, hit],
        env={
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "GEOLOC_CACHE": str(tmp_path / "cache"),
        },
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    # Ray may print of the machine that died after our line.
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"same"')))
    assert told["same"], "the bytes depend on who built them"
    assert sum(told["shards"]) == 60_000
    assert len(told["shards"]) == 16
    assert told["receipts_when_killed"] < 16, "it was to be killed halfway"
    assert told["alive"] == 2
    for index in (calm, hit):
        assert verify(index).problems == []
