"""A cluster that starts without a CPU and gets machines later: what needs them waits and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from .conftest import ROOT

DRIVER = """
    import json, os, time
    from concurrent.futures import ThreadPoolExecutor

    import ray
    from ray.cluster_utils import Cluster

    options = {"object_store_memory": 150_000_000, "include_dashboard": False}
    cluster = Cluster()
    cluster.add_node(num_cpus=0, node_ip_address="127.0.0.2", **options)
    os.environ["RAY_ADDRESS"] = cluster.address

    from geoloc.core.errors import ConfigError
    from geoloc.runtime import ray_session
    from geoloc.runtime.ray_session import await_resources, cpu_count, ensure_ray, remote_task

    ensure_ray()
    lines = []
    ray_session.say = lines.append
    os.environ["GEOLOC_CLUSTER_WAIT_S"] = "2"
    try:
        await_resources(2, 0, what="2 workers need", remedy="lower num_workers")
    except ConfigError as error:
        refusal = str(error)
    os.environ["GEOLOC_CLUSTER_WAIT_S"] = "240"

    # Nodes are added by the main thread (they set signal handlers), so another one waits.
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(await_resources, 2, 0, what="2 workers need", remedy="lower num_workers")
        for number in (3, 4):
            time.sleep(2.0)
            assert not waiting.done()
            cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}", **options)
        waiting.result(timeout=120)
    task = remote_task(lambda: os.getpid(), num_cpus=1)
    print(json.dumps({"refusal": refusal, "lines": lines, "cpus": cpu_count(), "pid": ray.get(task.remote())}))
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_cluster_without_a_cpu_is_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER)],
        env={
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_raylet_start_wait_time_s": "250",
        },
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"refusal"')))
    assert told["cpus"] == 2
    assert told["pid"] > 0
    assert told["refusal"].startswith("2 workers need 2 CPUs, Ray has 0 CPUs after ")
    assert told["refusal"].endswith("lower num_workers.")
    assert told["lines"][0] == "waiting for machines: 2 workers need 2 CPUs, the cluster has 0 CPUs; 0 of 2 s"
