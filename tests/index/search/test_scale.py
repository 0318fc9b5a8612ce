"""Many shards: opening, searching and planning them stays cheap, and exact. What docs/scale.md rests on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from geoloc.index.build.estimate import Machine, estimate
from geoloc.index.build.partition_keys import Histogram
from geoloc.index.build.shard_plan import Plan, tile_bytes
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import encode, read_manifest
from geoloc.index.search.snapshot import Snapshot

from ..building import build, manifest_of, nearest_by_hand, random_tiles


@pytest.mark.parametrize("shards", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_shards_are_opened_and_merged(index_uri: str, shards: int) -> None:
    """One file a shard and kind, no file left open, the same answer as one shard."""
    each = 3
    tiles = random_tiles(shards * each, bits=128, dim=None, distinct=200)
    rows = np.arange(len(tiles)).reshape(shards, each)
    manifest = manifest_of(index_uri, tiles, list(rows), "many")
    snapshot_id = commit(index_uri, manifest, read_head(index_uri))
    Snapshot.open(index_uri)
    before = len(list(Path("/proc/self/fd").iterdir()))
    start = time.perf_counter()
    snapshot = Snapshot.open(index_uri)
    opening_s = time.perf_counter() - start
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    queries = np.random.default_rng(1).integers(0, 256, (4, 16), dtype=np.uint8)
    found = snapshot.search(queries, k=50)
    for query, wanted in enumerate(nearest_by_hand(tiles, queries, 50)):
        assert [(match.distance_bits, match.tile_id) for match in found.of(query)] == wanted
    start = time.perf_counter()
    snapshot.search(queries[:1], k=100)
    search_s = time.perf_counter() - start
    _, data = encode(read_manifest(index_uri, snapshot_id))
    if told := os.environ.get("GEOLOC_SCALE_REPORT"):
        Path(told).write_text(
            f"open {opening_s:.3f} s, one query over {shards} shards {search_s * 1e3:.1f} ms, "
            f"manifest {len(data)} bytes\n"
        )
    assert len(data) < 1500 * shards
    assert opening_s < 20, "a shard is mapped in milliseconds"


def test_planning_does_not_hold_the_tiles() -> None:
    """Histograms of many runs are merged in memory that does not grow with them."""
    rng = np.random.default_rng(0)
    parts = (Histogram.of(rng.integers(0, 2**60, 20_000, dtype=np.uint64), 4096) for _ in range(30))
    merged = Histogram.merged(parts, 4096)
    assert len(merged.buckets) <= 4096
    plan = Plan.of(merged, 64, "d")
    assert sum(plan.counts) == 600_000
    assert max(plan.counts) < 1.2 * 600_000 / 64


@pytest.mark.parametrize(("tiles", "shards"), [(10_000_000, 16), (1_000_000_000, 1024)])
def test_the_estimate_grows_with_the_tiles_and_memory_with_a_shard(tiles: int, shards: int) -> None:
    machine = Machine(tasks_at_once=64, memory_bytes=8 * 10**9, free_disk_bytes=None)

    def told(count: int, number: int):  # type: ignore[no-untyped-def]
        return estimate(
            tiles=count,
            bits=512,
            bytes_per_tile=tile_bytes(512, 512),
            shards=number,
            largest_source_bytes=10**7,
            model_bytes=0,
            read_bytes_per_s=2e8,
            machine=machine,
        )

    one, ten = told(tiles, shards), told(10 * tiles, 10 * shards)
    assert ten.memory_per_task_bytes == one.memory_per_task_bytes
    assert ten.disk_bytes == pytest.approx(10 * one.disk_bytes)
    assert ten.seconds <= 10.01 * one.seconds
    assert ten.driver_bytes == one.driver_bytes


def test_a_snapshot_of_many_small_updates_is_one_manifest(index_uri: str) -> None:
    first = build(index_uri, random_tiles(50), 5)
    manifest = read_manifest(index_uri, first)
    _, data = encode(manifest)
    assert len(data) / len(manifest.shards) < 1500
