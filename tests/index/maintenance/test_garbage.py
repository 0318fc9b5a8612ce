from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import manifest_uri, read_manifest
from geoloc.index.maintenance.garbage import DAY_S, collect_garbage
from geoloc.index.maintenance.inspect import snapshot_ids, verify
from geoloc.index.search.snapshot import Snapshot

from ..building import build, random_tiles


def age(index_uri: str, seconds: float = 2 * DAY_S) -> None:
    """Make everything that is there now older."""
    for path in Path(index_uri).rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def three(index_uri: str) -> list[str]:
    return [build(index_uri, random_tiles(10 + n, seed=n), 2, name=f"g{n}") for n in range(3)]


def test_old_snapshots_go_and_what_is_kept_stays_sound(index_uri: str) -> None:
    first, second, third = three(index_uri)
    for name in (first, second, third):
        storage.write_bytes(storage.join(index_uri, f"calibration/{name}.json"), b"{}")
    age(index_uri)
    planned = collect_garbage(index_uri, keep=2, dry_run=True)
    assert snapshot_ids(index_uri) == sorted([first, second, third])
    report = collect_garbage(index_uri, keep=2)
    assert report == planned.model_copy(update={"dry_run": False})
    assert (report.kept_snapshots, report.removed_snapshots) == (sorted([second, third]), [first])
    assert report.removed_paths == sorted(
        [
            "calibration",
            f"snapshots/{first}",
            "snapshots/build-g0/shard-00000",
            "snapshots/build-g0/shard-00001",
        ]
    )
    assert snapshot_ids(index_uri) == sorted([second, third])
    assert verify(index_uri, second).sound
    assert verify(index_uri, third).sound
    assert {path.stem for path in Path(index_uri, "calibration").iterdir()} == {second, third}
    assert not (Path(index_uri) / "snapshots/build-g0").exists()
    assert collect_garbage(index_uri, keep=2).files == 0


def test_nothing_young_goes(index_uri: str) -> None:
    three(index_uri)
    storage.write_bytes(storage.join(index_uri, "snapshots/build-running/shard-00000/codes.npy"), b"half")
    storage.write_bytes(storage.join(index_uri, ".tmp-running/codes.npy"), b"half")
    report = collect_garbage(index_uri, keep=1)
    assert (report.files, report.removed_snapshots) == (0, [])
    assert len(report.kept_snapshots) == 3


def test_a_build_that_renewed_its_directory_keeps_its_old_shards(index_uri: str) -> None:
    build(index_uri, random_tiles(5))
    for name in ("left", "renewed"):
        storage.write_bytes(
            storage.join(index_uri, f"snapshots/build-{name}/shard-00000/codes.npy"), b"finished"
        )
        storage.write_bytes(storage.join(index_uri, f"snapshots/build-{name}/shard-00000.json"), b"{}")
        storage.write_bytes(storage.join(index_uri, f"snapshots/build-{name}/build.json"), b"{}")
    storage.write_bytes(storage.join(index_uri, ".tmp-killed/codes.npy"), b"half")
    storage.write_bytes(storage.join(index_uri, "model/unused/model.safetensors"), b"weights")
    age(index_uri)
    storage.write_bytes(storage.join(index_uri, "snapshots/build-renewed/build.json"), b"{}")
    report = collect_garbage(index_uri, keep=1)
    assert report.files == 5
    left = {file.uri.removeprefix(f"{index_uri}/") for file in storage.list_files(index_uri)}
    assert {name for name in left if "left" in name or "killed" in name or "unused" in name} == set()
    assert {name for name in left if "renewed" in name} == {
        "snapshots/build-renewed/build.json",
        "snapshots/build-renewed/shard-00000.json",
        "snapshots/build-renewed/shard-00000/codes.npy",
    }
    assert verify(index_uri).sound


def test_scratch_space_and_notes_go_with_the_last_shard(index_uri: str) -> None:
    build(index_uri, random_tiles(5), name="kept")
    build(index_uri, random_tiles(6), name="kept-too")
    for name in ("kept", "gone"):
        for note in ("build.json", "plan.json", "runs/run-00000.json", "runs/run-00000/codes.npy"):
            storage.write_bytes(storage.join(index_uri, f"snapshots/build-{name}/{note}"), b"{}")
    age(index_uri)
    assert collect_garbage(index_uri, keep=2).files == 6
    left = {file.uri.removeprefix(f"{index_uri}/snapshots/") for file in storage.list_files(index_uri)}
    assert {name for name in left if name.endswith(".json") and "build" in name} == {
        "build-kept/build.json",
        "build-kept/plan.json",
    }


def test_a_snapshot_that_was_current_a_moment_ago_stays(index_uri: str) -> None:
    tiles = random_tiles(10)
    first = build(index_uri, tiles, 2, name="long current")
    age(index_uri)
    second = build(index_uri, random_tiles(11), 2, name="next")
    third = build(index_uri, random_tiles(12), 2, name="at once")
    # A reader on another machine may have begun to copy the first one a second ago, old as its files are.
    report = collect_garbage(index_uri, keep=1)
    assert report.kept_snapshots == sorted([first, second, third])
    assert verify(index_uri, first).sound
    age(index_uri)
    assert collect_garbage(index_uri, keep=1).removed_snapshots == sorted([first, second])


def test_shards_that_a_kept_snapshot_shares_stay(index_uri: str) -> None:
    first = build(index_uri, random_tiles(12), 2, name="one")
    shared = read_manifest(index_uri, first)
    second = build(index_uri, random_tiles(4, seed=3), 1, name="two")
    own = read_manifest(index_uri, second)
    # A third one made of a shard of each.
    mixed = own.model_copy(
        update={"shards": [shared.shards[0], own.shards[0]], "parent": second, "fingerprint": "mix"}
    )
    third = commit(index_uri, mixed, read_head(index_uri))
    age(index_uri)
    report = collect_garbage(index_uri, keep=1)
    assert report.removed_snapshots == sorted([first, second])
    assert [path for path in report.removed_paths if "shard" in path] == ["snapshots/build-one/shard-00001"]
    assert verify(index_uri, third).sound


def test_a_reader_of_a_removed_snapshot_keeps_it(index_uri: str) -> None:
    tiles = random_tiles(10, bits=64)
    build(index_uri, tiles, name="one")
    held = Snapshot.open(index_uri)
    build(index_uri, random_tiles(10, seed=5), name="two")
    age(index_uri)
    assert collect_garbage(index_uri, keep=1).removed_snapshots == [held.snapshot_id]
    assert held.search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids


def test_a_young_manifest_that_cannot_be_read_stops_it(index_uri: str) -> None:
    first, *_ = three(index_uri)
    age(index_uri)
    storage.write_bytes(manifest_uri(index_uri, first), b"{}")
    with pytest.raises(ArtifactError, match="Nothing was removed"):
        collect_garbage(index_uri, keep=1)
    assert len(snapshot_ids(index_uri)) == 3


def test_it_works_on_s3(s3_uri: str) -> None:
    first, second, third = three(s3_uri)
    assert collect_garbage(s3_uri, keep=1).files == 0
    time.sleep(1.1)  # object stores tell whole seconds
    report = collect_garbage(s3_uri, keep=1, min_age_s=0)
    assert report.removed_snapshots == sorted([first, second])
    assert verify(s3_uri, third).sound


def test_settings_that_would_lose_the_index_are_refused(index_uri: str) -> None:
    build(index_uri, random_tiles(5))
    for keep, min_age_s in ((0, 1.0), (1, -1.0), (1, float("nan"))):
        with pytest.raises(ConfigError, match="keep at least 1 snapshot"):
            collect_garbage(index_uri, keep=keep, min_age_s=min_age_s)
    with pytest.raises(ArtifactError, match="no finished index"):
        collect_garbage(f"{index_uri}-elsewhere", keep=1)
