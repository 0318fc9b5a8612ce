"""Stages on nodes that share nothing but the object store: each has its own cache, TMPDIR and HOME.

A node sees its private folder at the same path as the others, as a file system of its own (a mount namespace). So a
local path that a driver hands to a task leads nowhere, as it would on another machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_index import SmallIndex
from small_index import encoded as png

from geoloc.core import storage

from .conftest import BIN, ROOT

PRIVATE = """
    mount -t tmpfs none "$1" && mkdir "$1/cache" "$1/tmp" "$1/home" || exit 3
    export GEOLOC_CACHE="$1/cache" TMPDIR="$1/tmp" HOME="$1/home"
    shift; exec "$@"
"""
DRIVER = """
    import json, os, sys
    import ray

    from geoloc.stages import encode, evaluate, index_build, localize

    address, root, photos = sys.argv[1:]
    ray.init(address=address, _node_ip_address="127.0.0.2", logging_level="ERROR", log_to_driver=False)
    config = encode.EncodeConfig(num_actors=2)
    codes = encode.run(
        config, encode.EncodeInputs(tiles=f"{root}/ingested", model=f"{root}/model"), f"{root}/codes"
    )
    inputs = index_build.IndexInputs(codes=f"{root}/codes", model=f"{root}/model")
    index = index_build.run(index_build.IndexConfig(shards=2), inputs, f"{root}/index")
    evaluated = evaluate.run(
        evaluate.EvaluateConfig(headings=4),
        evaluate.EvaluateInputs(index=f"{root}/index", queries=f"{root}/ingested"),
        f"{root}/evaluation",
    )
    located = localize.run(
        localize.LocalizeConfig(headings=4),
        localize.LocalizeInputs(index=f"{root}/index", photos=photos),
        f"{root}/fixes",
    )
    print(json.dumps({
        "codes": codes.rows, "tiles": index.tiles, "photos": located.photos, "nodes": len(ray.nodes()),
        "reused": evaluated.reused, "cache": os.listdir(os.environ["GEOLOC_CACHE"]),
    }))
"""


def _private(folder: Path) -> list[str]:
    """The command that gives a program a private folder; skips where the system allows no namespace."""
    for flags in (["-m"], ["-rm"]):
        words = ["unshare", *flags, "sh", "-c", textwrap.dedent(PRIVATE), "private", str(folder)]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    pytest.skip("this system gives no mount namespace, so nodes on it cannot have private folders")


@pytest.fixture
def nodes(s3_server: object, tmp_path: Path) -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """A head without CPUs and two nodes of one CPU: their address, the command prefix and the environment."""
    (tmp_path / "private").mkdir()
    prefix, directory = _private(tmp_path / "private"), tempfile.mkdtemp(prefix="ray-")
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "GEOLOC_CACHE")},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_raylet_start_wait_time_s": "120",
    }
    processes = []
    log_path = Path(directory) / "nodes.log"
    address = f"127.0.0.2:{20_000 + secrets.randbelow(10_000)}"
    common = ["--block", "--object-store-memory=150000000", "--disable-usage-stats"]
    kinds = [["--head", "--num-cpus=0", f"--port={address[10:]}", f"--temp-dir={directory}",
              "--include-dashboard=false", "--node-ip-address=127.0.0.2"]]  # fmt: skip
    kinds += [[f"--address={address}", "--num-cpus=1", f"--node-ip-address=127.0.0.{n}"] for n in (3, 4)]
    try:
        for number, kind in enumerate(kinds, start=1):
            with log_path.open("ab") as log:
                processes.append(
                    subprocess.Popen(
                        [*prefix, str(BIN / "ray"), "start", *kind, *common],
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )
            deadline = time.monotonic() + 180
            while log_path.read_text(errors="replace").count("block forever") < number:
                assert processes[-1].poll() is None, log_path.read_text(errors="replace")[-3000:]
                assert time.monotonic() < deadline, log_path.read_text(errors="replace")[-3000:]
                time.sleep(0.2)
        yield address, prefix, environment
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_local_path_crosses_from_driver_to_task(
    nodes: tuple[str, list[str], dict[str, str]], small_index: SmallIndex, s3_uri: str
) -> None:
    address, prefix, environment = nodes
    for name in ("ingested", "model"):
        source = str(getattr(small_index, name))
        for file in storage.list_files(source):
            storage.copy_file(file.uri, f"{s3_uri}/{name}{file.uri.removeprefix(source)}")
    for number in range(4):
        picture = png(small_index.panoramas[number])
        storage.write_bytes(f"{s3_uri}/photos/{number}.png", picture)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(DRIVER), address, s3_uri, f"{s3_uri}/photos"],
        env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == 3
    assert not found["reused"]
    assert found["codes"] == found["tiles"] == len(small_index.tile_ids)
    assert found["photos"] == 4
    assert "bundles" in found["cache"], "the driver keeps its copy of the index in its own cache"
