from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from geoloc.core import storage
from geoloc.core.errors import CommitConflict, CorruptArtifact
from geoloc.index.format.commit import Head, commit, read_head
from geoloc.index.format.manifest import CURRENT_NAME, encode, read_manifest
from geoloc.index.search.snapshot import Snapshot

from ..building import build, manifest_of, random_tiles

ROOT = str(Path(__file__).resolve().parents[3])


def run_child(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_a_commit_makes_a_snapshot_current(index_uri: str) -> None:
    first = build(index_uri, random_tiles(10), name="one")
    second = build(index_uri, random_tiles(12), name="two")
    assert read_head(index_uri).snapshot_id == second
    assert read_manifest(index_uri, second).parent == first


def test_committing_the_same_again_is_fine(index_uri: str) -> None:
    base = read_head(index_uri)
    tiles = random_tiles(10)
    first = build(index_uri, tiles, base=base)
    assert build(index_uri, tiles, base=base) == first
    assert commit(index_uri, read_manifest(index_uri, first), read_head(index_uri)) == first


def test_a_commit_needs_all_files(index_uri: str) -> None:
    base = read_head(index_uri)
    manifest = manifest_of(index_uri, random_tiles(10), [np.arange(10)], "x")
    storage.delete(storage.join(index_uri, manifest.shards[0].directory, "codes.npy"))
    with pytest.raises(CorruptArtifact, match=r"codes\.npy' has no bytes"):
        commit(index_uri, manifest, base)
    assert read_head(index_uri).snapshot_id is None


def race(index_uri: str, rounds: int) -> None:
    manifests = [
        manifest_of(index_uri, random_tiles(5, seed=n), [np.arange(5)], f"racer-{n}") for n in range(2)
    ]
    for number in range(rounds):
        base = read_head(index_uri)
        barrier = threading.Barrier(2)
        outcome: list[str | CommitConflict] = []

        def work(racer: int, number: int = number, base=base, barrier=barrier, outcome=outcome) -> None:  # type: ignore[no-untyped-def]
            ours = {"fingerprint": f"{number}-{racer}", "parent": base.snapshot_id}
            manifest = manifests[racer].model_copy(update=ours)
            barrier.wait()
            try:
                outcome.append(commit(index_uri, manifest, base))
            except CommitConflict as conflict:
                outcome.append(conflict)

        racers = [threading.Thread(target=work, args=(racer,)) for racer in range(2)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        winners = [one for one in outcome if isinstance(one, str)]
        assert len(winners) == 1
        assert len(outcome) == 2
        assert read_head(index_uri).snapshot_id == winners[0]
        loser = next(one for one in outcome if not isinstance(one, str))
        assert winners[0] in str(loser)
        assert "nothing of ours is visible" in str(loser)


def test_of_two_committers_one_wins(index_uri: str) -> None:
    race(index_uri, 25)


def test_of_two_committers_on_s3_one_wins(s3_uri: str) -> None:
    race(s3_uri, 10)


@pytest.mark.slow
def test_of_two_committers_one_wins_a_hundred_times(index_uri: str, s3_uri: str) -> None:
    race(index_uri, 100)
    race(s3_uri, 100)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from geoloc.index.format.commit import Head, commit
    from geoloc.index.format.manifest import Manifest

    index_uri, manifest, old, step = sys.argv[1], Path(sys.argv[2]).read_text(), sys.argv[3], int(sys.argv[4])
    seen = 0

    def counted(original):
        def call(*arguments, **options):
            global seen
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            return original(*arguments, **options)
        return call

    # Everything that brings bytes to the disk and names into directories; killed before the step-th of them.
    for name in ("replace", "link", "fsync", "unlink", "chmod"):
        setattr(os, name, counted(getattr(os, name)))
    print(commit(index_uri, Manifest.model_validate_json(manifest), Head(f"{old}\\n".encode(), old)))
"""


def test_a_commit_killed_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, index_uri: str) -> None:
    tiles = {"old": random_tiles(10, seed=1), "new": random_tiles(12, seed=2)}
    old = build(index_uri, tiles["old"])
    manifest = manifest_of(index_uri, tiles["new"], [np.arange(6), np.arange(6, 12)], "two")
    manifest = manifest.model_copy(update={"parent": old})
    new = encode(manifest)[0]
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    seen = []
    for step in range(40):
        trial = str(tmp_path / f"index-{step}")
        shutil.copytree(index_uri, trial)
        child = run_child(KILLED, trial, str(tmp_path / "manifest.json"), old, str(step))
        snapshot = Snapshot.open(trial)
        seen.append("new" if snapshot.snapshot_id == new else "old")
        assert snapshot.snapshot_id in (old, new)
        wanted = tiles[seen[-1]]
        assert snapshot.search(wanted.codes, k=1).tile_ids[:, 0].tolist() == wanted.ids
        # Run again, it ends where one run would have ended.
        assert (
            commit(trial, manifest, read_head(trial) if seen[-1] == "new" else Head(f"{old}\n".encode(), old))
            == new
        )
        assert Snapshot.open(trial).snapshot_id == new
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout.strip() == new
    # One step turns the old into the new; there was something to be killed on both sides of it.
    assert seen == sorted(seen, reverse=True)
    assert seen.count("old") >= 5
    assert seen.count("new") >= 2


READER = """
    import sys
    import numpy as np
    from geoloc.index.search.snapshot import Snapshot

    print("ready", flush=True)
    seen = {}
    while True:
        snapshot = Snapshot.open(sys.argv[1])
        # Generation n holds n + 10 tiles, every id of which begins with n: a mix would show.
        found = snapshot.search(np.zeros((1, 8), np.uint8), k=100)
        ids = {match.tile_id.split("-")[0] for match in found.of(0)}
        assert len(ids) == 1 and int(found.counts[0]) == int(ids.pop()) + 10 == snapshot.count
        seen[snapshot.snapshot_id] = snapshot.count
        if snapshot.count == 30:
            print(len(seen), flush=True)
            break
"""


def test_a_reader_during_commits_sees_whole_snapshots(index_uri: str) -> None:
    def generation(number: int) -> None:
        tiles = random_tiles(number + 10, bits=64, dim=4, seed=number)
        named = type(tiles)(
            [f"{number}-{name}" for name in tiles.ids], tiles.codes, tiles.embeddings, tiles.lat, tiles.lon
        )
        build(index_uri, named, 3, name=str(number))

    generation(0)
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(READER), index_uri],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        for number in range(1, 21):
            generation(number)
        output, errors = reader.communicate(timeout=60)
    finally:
        if reader.poll() is None:
            reader.kill()
    assert reader.returncode == 0, errors
    assert int(output) >= 2


def test_a_damaged_head_is_named_and_can_be_repaired(index_uri: str) -> None:
    build(index_uri, random_tiles(5))
    storage.write_bytes(storage.join(index_uri, CURRENT_NAME), b"nonsense\n")
    with pytest.raises(CorruptArtifact, match="CURRENT' names 'nonsense', which is no snapshot"):
        read_head(index_uri)
    head = read_head(index_uri, repair=True)
    assert (head.content, head.snapshot_id) == (b"nonsense\n", None)
    assert build(index_uri, random_tiles(5), base=head) == read_head(index_uri).snapshot_id


def test_a_disk_that_is_full_leaves_the_old_snapshot(index_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build(index_uri, random_tiles(5))
    base = read_head(index_uri)
    manifest = manifest_of(index_uri, random_tiles(6), [np.arange(6)], "two").model_copy(
        update={"parent": old}
    )

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(storage.StorageError, match="No space left on device"):
            commit(index_uri, manifest, base)
    assert Snapshot.open(index_uri).snapshot_id == old
    assert commit(index_uri, manifest, base) == read_head(index_uri).snapshot_id
