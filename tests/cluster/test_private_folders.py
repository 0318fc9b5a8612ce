"""Stages on machines that share nothing but the object store (`private_nodes`)."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
from small_index import SmallIndex
from small_index import encoded as png

from geoloc.core import storage

from .conftest import ROOT
from .private_nodes import private_nodes

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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_local_path_crosses_from_driver_to_task(small_index: SmallIndex, s3_uri: str) -> None:
    for name in ("ingested", "model"):
        source = str(getattr(small_index, name))
        for file in storage.list_files(source):
            storage.copy_file(file.uri, f"{s3_uri}/{name}{file.uri.removeprefix(source)}")
    for number in range(4):
        picture = png(small_index.panoramas[number])
        storage.write_bytes(f"{s3_uri}/photos/{number}.png", picture)
    with private_nodes() as nodes:
        words = [sys.executable, "-c", textwrap.dedent(DRIVER), nodes.address, s3_uri, f"{s3_uri}/photos"]
        done = subprocess.run(
            [*nodes.prefix, *words], env=nodes.environment, cwd=ROOT, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["nodes"] == 3
    assert not found["reused"]
    assert found["codes"] == found["tiles"] == len(small_index.tile_ids)
    assert found["photos"] == 4
    assert "bundles" in found["cache"], "the driver keeps its copy of the index in its own cache"
