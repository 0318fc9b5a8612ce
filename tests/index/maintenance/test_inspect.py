from __future__ import annotations

import numpy as np
import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import manifest_uri, read_manifest
from geoloc.index.maintenance.inspect import describe, diff, verify

from ..building import Tiles, build, random_tiles


def test_an_index_is_described(index_uri: str) -> None:
    first = build(index_uri, random_tiles(10, seed=1), name="one")
    second = build(index_uri, random_tiles(20, seed=2, bits=128), 3, name="two")
    told = describe(index_uri)
    assert (told.snapshot_id, told.tiles, told.shards, told.bits, told.embedding_dim) == (
        second,
        20,
        3,
        128,
        16,
    )
    assert (told.model_id, told.recipe_name, told.located) == ("geoloc-test", "geoloc", True)
    assert told.bounds is not None
    assert -35.5 <= told.bounds.south <= told.bounds.north <= -35.0
    assert [(one.snapshot_id, one.current, one.tiles) for one in told.snapshots] == [
        (second, True, 20),
        (first, False, 10),
    ]
    assert told.bytes == read_manifest(index_uri, second).total_bytes


def test_a_damaged_older_snapshot_is_shown_as_such(index_uri: str) -> None:
    first = build(index_uri, random_tiles(10, seed=1), name="one")
    build(index_uri, random_tiles(20, seed=2), name="two")
    storage.write_bytes(manifest_uri(index_uri, first), b"{}")
    older = describe(index_uri).snapshots[1]
    assert older.snapshot_id == first
    assert "does not match its snapshot's id" in (older.problem or "")


def test_nothing_to_describe_is_said(index_uri: str) -> None:
    with pytest.raises(ArtifactError, match="no finished index"):
        describe(index_uri)


def test_verify_reads_every_byte_and_names_what_is_wrong(index_uri: str) -> None:
    snapshot_id = build(index_uri, random_tiles(30), 2)
    report = verify(index_uri)
    assert (report.snapshot_id, report.files, report.sound) == (snapshot_id, 9, True)
    files = {file.name: file.uri for file in storage.list_files(index_uri)}
    storage.write_bytes(files["tiles.arrow"], b"x" * storage.size_bytes(files["tiles.arrow"]))
    storage.delete(files["embeddings.npy"])
    storage.write_bytes(files["model.safetensors"], b"short")
    report = verify(index_uri, snapshot_id)
    assert not report.sound
    assert sorted(report.problems) == sorted(
        [
            f"{files['tiles.arrow']!r} does not match its checksum",
            f"{files['embeddings.npy']!r} is missing",
            f"{files['model.safetensors']!r} has 5 bytes, its manifest says 24",
        ]
    )
    storage.write_bytes(manifest_uri(index_uri, snapshot_id), b"{}")
    with pytest.raises(CorruptArtifact, match=r"manifest\.json"):
        verify(index_uri)


def test_diff_counts_what_came_went_and_changed(index_uri: str) -> None:
    tiles = random_tiles(40, bits=64)
    first = build(index_uri, tiles, 2, name="one")
    # Tiles 0 to 2 go, 3 gets another code, 4 another place, two are new.
    rest = tiles.rows(np.arange(3, 40))
    codes, lat = rest.codes.copy(), rest.lat.copy()
    codes[0] ^= 1
    lat[1] += 0.01
    more = random_tiles(2, bits=64, seed=9)
    changed = Tiles(
        [*rest.ids, "new-1", "new-0"],
        np.concatenate([codes, more.codes]),
        np.concatenate([rest.embeddings, more.embeddings]),
        np.concatenate([lat, more.lat]),
        np.concatenate([rest.lon, more.lon]),
    )
    second = build(index_uri, changed, 3, name="two")
    told = diff(f"{index_uri}@{first}", index_uri)
    assert (told.a, told.b) == (f"{index_uri}@{first}", f"{index_uri}@{second}")
    assert (told.added, told.removed, told.changed, told.tiles) == (2, 3, 2, (40, 39))
    assert told.examples == {
        "added": ["new-0", "new-1"],
        "removed": sorted(tiles.ids[:3]),
        "changed": sorted(tiles.ids[3:5]),
    }
    assert told.same_model
    same = diff(index_uri, f"{index_uri}@{second}")
    assert (same.added, same.removed, same.changed, same.shared_shards) == (0, 0, 0, 3)


def test_a_shared_shard_is_not_looked_into(index_uri: str) -> None:
    first = build(index_uri, random_tiles(30), 2, name="one")
    # The same snapshot under another parent: all shards are shared.
    manifest = read_manifest(index_uri, first).model_copy(update={"parent": first})
    second = commit(index_uri, manifest, read_head(index_uri))
    for file in storage.list_files(index_uri, suffix=".arrow"):
        storage.write_bytes(file.uri, b"unreadable")
    assert diff(f"{index_uri}@{first}", f"{index_uri}@{second}").shared_shards == 2
