from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from geoloc.core import storage
from geoloc.core.errors import ConfigError, CorruptArtifact, StorageError
from geoloc.index.format import local_cache
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.local_cache import ensure_local, prune_cache
from geoloc.index.format.manifest import FileEntry, read_manifest
from geoloc.index.format.shard import write_marks
from geoloc.index.search.snapshot import Snapshot

from ..building import build, random_tiles


def entry(path: Path, data: bytes) -> FileEntry:
    path.write_bytes(data)
    return FileEntry(name=path.name, bytes=len(data), sha256=storage.sha256_bytes(data))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    original = storage.sha256_file

    def counted(uri: str) -> str:
        read.append(uri)
        return original(uri)

    monkeypatch.setattr(storage, "sha256_file", counted)
    return read


def test_files_are_read_once_until_they_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [entry(tmp_path / "a", b"first"), entry(tmp_path / "b", b"second")]
    read = count_reads(monkeypatch)
    assert ensure_local(str(tmp_path), files, cache) == tmp_path
    assert len(read) == 2
    ensure_local(str(tmp_path), files, cache)
    assert len(read) == 2
    (tmp_path / "a").write_bytes(b"First")  # the same size
    with pytest.raises(CorruptArtifact, match="/a' does not match its checksum"):
        ensure_local(str(tmp_path), files, cache)


def test_a_change_with_its_old_time_restored_is_still_seen(tmp_path: Path, cache: Path) -> None:
    files = [entry(tmp_path / "a", b"first")]
    ensure_local(str(tmp_path), files, cache)
    stat = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"First")
    os.utime(tmp_path / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(CorruptArtifact, match="does not match its checksum"):
        ensure_local(str(tmp_path), files, cache)


def test_a_missing_and_a_short_file_are_named(tmp_path: Path, cache: Path) -> None:
    files = [entry(tmp_path / "a", b"first")]
    (tmp_path / "a").write_bytes(b"firs")
    with pytest.raises(CorruptArtifact, match="/a' has 4 bytes, its manifest says 5"):
        ensure_local(str(tmp_path), files, cache)
    (tmp_path / "a").unlink()
    with pytest.raises(CorruptArtifact, match="/a' is missing"):
        ensure_local(str(tmp_path), files, cache)


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    files = [entry(tmp_path / "a", b"first")]
    (tmp_path / "taken").write_text("a file where the cache should be")
    with pytest.raises(StorageError, match="GEOLOC_CACHE"):
        ensure_local(str(tmp_path), files, tmp_path / "taken")


def _targets(index_uri: str) -> list[Path]:
    return [storage.local_path(file.uri) for file in storage.list_files(index_uri) if "lock" not in file.name]


def _open_and_use(index_uri: str) -> None:
    snapshot = Snapshot.open(index_uri)
    _ = snapshot.model_uri
    snapshot.search(np.zeros((1, 8), np.uint8), k=1)


def test_flipped_bits_and_truncations_are_refused_by_name(index_uri: str) -> None:
    first = build(index_uri, random_tiles(40, bits=64, dim=4), 2)
    # Marks too: all kinds of files that a reader touches.
    manifest = read_manifest(index_uri, first)
    live = np.arange(manifest.shards[0].count) % 3 > 0
    marked = manifest.shards[0].model_copy(update={"marks": write_marks(index_uri, live)})
    left = {"shards": [marked, *manifest.shards[1:]], "count": marked.live + manifest.shards[1].count}
    commit(index_uri, manifest.model_copy(update={**left, "parent": first}), read_head(index_uri))
    storage.delete(storage.join(index_uri, "snapshots", first))
    targets = _targets(index_uri)
    names = {path.name for path in targets}
    assert names == {
        "CURRENT",
        "manifest.json",
        "codes.npy",
        "tiles.arrow",
        "space.arrow",
        "embeddings.npy",
        "live.npy",
        "model.safetensors",
    }
    _open_and_use(index_uri)  # verdicts are there: they must not hide what follows
    rng = np.random.default_rng(0)
    flips = truncations = 0
    while flips < 200 or truncations < 20:
        path = targets[(flips + truncations) % len(targets)]
        good = path.read_bytes()
        if truncations * 10 < flips:
            truncations += 1
            data = good[: int(rng.integers(len(good)))]
        else:
            flips += 1
            flipped = bytearray(good)
            flipped[rng.integers(len(good))] ^= 1 << rng.integers(8)
            data = bytes(flipped)
        if path.name == "CURRENT" and data.removesuffix(b"\n") == good.removesuffix(b"\n"):
            continue  # only the line's end is gone: it still names the snapshot
        path.write_bytes(data)
        with pytest.raises(CorruptArtifact, match=path.name):
            _open_and_use(index_uri)
        path.write_bytes(good)
    _open_and_use(index_uri)


def test_no_parser_sees_a_byte_before_it_is_verified(index_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build(index_uri, random_tiles(10, bits=64, dim=4))
    for path in _targets(index_uri):
        if path.parent.name == "shard-00000":
            path.write_bytes(b"x" * path.stat().st_size)
    for name in ("np.lib.format.read_magic", "pa.ipc.open_file", "pa.memory_map"):
        monkeypatch.setattr(
            f"geoloc.index.format.shard.{name}", lambda *_a, **_k: pytest.fail("a parser was called")
        )
    with pytest.raises(CorruptArtifact):
        Snapshot.open(index_uri)


def test_an_index_on_s3_is_copied_once_and_verified(
    s3_uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = random_tiles(60, bits=64, dim=4)
    build(s3_uri, tiles, 2)
    copied: list[str] = []
    original = storage.copy_file

    def counted(source: str, target: str) -> None:
        copied.append(source)
        original(source, target)

    monkeypatch.setattr(storage, "copy_file", counted)
    snapshot = Snapshot.open(s3_uri)
    assert Path(snapshot.model_uri, "model.safetensors").is_file()
    assert snapshot.search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids
    assert len(copied) == 9
    again = Snapshot.open(s3_uri)
    assert (again.model_uri, len(copied)) == (snapshot.model_uri, 9)
    # A damaged copy is replaced from the original.
    bad = next((cache / "bundles").rglob("codes.npy"))
    bad.write_bytes(b"x" * bad.stat().st_size)
    assert Snapshot.open(s3_uri).search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids
    assert len(copied) == 10
    # A damaged original is refused by name, and nothing of it stays in the cache.
    shutil.rmtree(cache)
    uri = next(file.uri for file in storage.list_files(s3_uri) if file.name == "embeddings.npy")
    storage.write_bytes(uri, b"x" * storage.size_bytes(uri))
    with pytest.raises(CorruptArtifact, match=r"s3://.*embeddings\.npy' does not match its checksum"):
        Snapshot.open(s3_uri)
    with pytest.raises(CorruptArtifact, match=r"embeddings\.npy"):
        Snapshot.open(s3_uri)
    storage.delete(uri)
    with pytest.raises(CorruptArtifact, match=r"embeddings\.npy' is missing"):
        Snapshot.open(s3_uri)


def test_copies_that_nobody_uses_are_pruned(s3_uri: str, cache: Path) -> None:
    tiles = random_tiles(30, bits=64, dim=4)
    build(s3_uri, tiles, 2)
    held = Snapshot.open(s3_uri)
    _ = held.model_uri

    def age() -> None:
        for path in [*(cache / "bundles").iterdir(), *(cache / "verdicts").iterdir()]:
            os.utime(path, (1e9, 1e9))

    age()
    Snapshot.open(s3_uri)  # uses the shards again, not the model
    planned = prune_cache(dry_run=True)
    assert (planned.copies, planned.verdicts, planned.bytes) == (1, 1, 24)
    assert prune_cache().model_copy(update={"dry_run": True}) == planned
    assert prune_cache().copies == 0
    age()
    assert prune_cache(min_age_s=3600).copies == 2
    assert list((cache / "bundles").iterdir()) == []
    # Who has it open keeps it; who opens it anew copies it again.
    assert held.search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids
    assert Snapshot.open(s3_uri).search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids
    with pytest.raises(ConfigError, match="give 0 or more seconds"):
        prune_cache(min_age_s=-1)


def test_the_cache_directory_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local_cache.cache_directory(tmp_path) == tmp_path
    monkeypatch.setenv("GEOLOC_CACHE", str(tmp_path / "there"))
    assert local_cache.cache_directory() == tmp_path / "there"
    monkeypatch.delenv("GEOLOC_CACHE")
    assert local_cache.cache_directory() == Path("~/.cache/geoloc").expanduser()
