"""Tiles that marks removed are in no answer."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import read_manifest
from geoloc.index.format.shard import write_marks
from geoloc.index.maintenance.inspect import diff, verify
from geoloc.index.search.region import box
from geoloc.index.search.snapshot import Snapshot

from ..building import Tiles, build, nearest_by_floats, nearest_by_hand, random_tiles


@pytest.fixture
def removed(index_uri: str) -> tuple[Tiles, Tiles, str]:
    """All tiles, those that are left, and the first snapshot's id."""
    tiles = random_tiles(300, bits=64, distinct=40)
    first = build(index_uri, tiles, 3)
    gone = set(np.random.default_rng(1).choice(tiles.ids, 120, replace=False).tolist())
    manifest = read_manifest(index_uri, first)
    shards = []
    for shard in Snapshot.open(index_uri).shards[:2]:
        live = np.array([name.as_py() not in gone for name in shard.tile_ids])
        shards.append(shard.entry.model_copy(update={"marks": write_marks(index_uri, live)}))
    shards.append(manifest.shards[2])
    whole = {name.as_py() for name in Snapshot.open(index_uri).shards[2].tile_ids}
    left = [row for row, name in enumerate(tiles.ids) if name not in gone or name in whole]
    change = {"shards": shards, "parent": first, "count": len(left)}
    commit(index_uri, manifest.model_copy(update=change), read_head(index_uri))
    return tiles, tiles.rows(np.array(left)), first


def test_no_search_finds_a_tile_that_was_removed(removed: tuple[Tiles, Tiles, str], index_uri: str) -> None:
    _, left, first = removed
    snapshot = Snapshot.open(index_uri)
    queries = np.random.default_rng(5).integers(0, 256, (6, 8), dtype=np.uint8)
    assert (snapshot.count, snapshot.rows) == (len(left), 300)
    for k in (5, 300):
        found = snapshot.search(queries, k=k)
        got = [[(match.distance_bits, match.tile_id) for match in found.of(q)] for q in range(6)]
        assert got == nearest_by_hand(left, queries, k)
    inside = (left.lat >= -35.3) & (left.lon <= 149.3)
    found = snapshot.search(queries, k=50, region=box(-35.3, 149, -35, 149.3))
    got = [[(match.distance_bits, match.tile_id) for match in found.of(q)] for q in range(6)]
    assert got == nearest_by_hand(left, queries, 50, inside)
    floats = np.random.default_rng(6).normal(size=(2, 16)).astype(np.float32)
    assert set(nearest_by_floats(snapshot, floats, 300).tile_ids[0]) - {None} == set(left.ids)
    again = snapshot.search(queries[:2], k=300, embeddings=floats, rerank=300)
    assert set(again.tile_ids[0]) - {None} == set(left.ids)
    # The snapshot before it is as it was.
    assert Snapshot.open(index_uri, first).search(queries, k=300).counts.tolist() == [300] * 6


def test_marks_are_verified_and_counted(removed: tuple[Tiles, Tiles, str], index_uri: str) -> None:
    tiles, left, first = removed
    told = diff(f"{index_uri}@{first}", index_uri)
    assert (told.removed, told.added, told.changed) == (len(tiles) - len(left), 0, 0)
    assert (told.tiles, told.shared_shards) == ((300, len(left)), 1)
    report = verify(index_uri)
    assert (report.sound, report.files) == (True, 1 + 3 * 4 + 2)
