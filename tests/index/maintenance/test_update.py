"""Marking tiles as removed, shard by shard."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from geoloc.index.format.local_cache import cache_directory
from geoloc.index.format.manifest import read_manifest
from geoloc.index.maintenance.update import MarkedShard, MarkTask, mark_shard, shard_ids, sorted_ids
from geoloc.index.search.snapshot import open_shard

from ..building import build, random_tiles, shard_of

NO_IDS = pa.array([], pa.large_string())


def left_in(index_uri: str, marked: MarkedShard, bits: int = 256) -> set[str]:
    """Ids of the tiles that a shard still has."""
    assert marked.entry is not None
    shard = open_shard(index_uri, marked.entry, bits, cache_directory())
    live = np.ones(len(shard), np.bool_) if shard.live_rows is None else shard.live_rows
    return set(shard.tile_ids.filter(pa.array(live)).to_pylist())


def test_tiles_that_newer_shards_replace_are_marked(index_uri: str) -> None:
    tiles = random_tiles(30)
    (entry,) = read_manifest(index_uri, build(index_uri, tiles)).shards
    strangers = random_tiles(4, seed=9)
    replaced, later = tiles.rows(np.arange(5)), tiles.rows(np.arange(5, 8))
    newer = (
        shard_of(index_uri, "snapshots/build-new/shard-00000", replaced),
        shard_of(index_uri, "snapshots/build-new/shard-00001", later),
        shard_of(index_uri, "snapshots/build-new/shard-00002", strangers),
    )
    gone = {*tiles.ids[:8], *strangers.ids} & set(tiles.ids)
    marked = mark_shard(MarkTask(index_uri, entry, NO_IDS, newer))
    assert marked.removed == len(gone) >= 8
    assert left_in(index_uri, marked) == set(tiles.ids) - gone
    named = mark_shard(MarkTask(index_uri, entry, sorted_ids([*tiles.ids[4:10], "nobody"]), newer))
    assert left_in(index_uri, named) == set(tiles.ids) - gone - set(tiles.ids[8:10])


def test_marks_add_up_and_an_untouched_shard_keeps_its_entry(index_uri: str) -> None:
    tiles = random_tiles(12)
    (entry,) = read_manifest(index_uri, build(index_uri, tiles)).shards
    assert mark_shard(MarkTask(index_uri, entry, sorted_ids(["nobody"]))) == MarkedShard(entry, 0)
    once = mark_shard(MarkTask(index_uri, entry, sorted_ids(tiles.ids[:3])))
    assert once.entry is not None
    again = mark_shard(MarkTask(index_uri, once.entry, sorted_ids(tiles.ids[2:5])))
    assert (once.removed, again.removed) == (3, 2)
    assert left_in(index_uri, again) == set(tiles.ids[5:])
    assert again.entry is not None
    assert again.entry.live == 7
    assert shard_ids(index_uri, again.entry).to_pylist() == sorted(tiles.ids)


def test_a_shard_of_which_nothing_is_left_goes(index_uri: str) -> None:
    tiles = random_tiles(6)
    (entry,) = read_manifest(index_uri, build(index_uri, tiles)).shards
    newer = shard_of(index_uri, "snapshots/build-new/shard-00000", tiles)
    assert mark_shard(MarkTask(index_uri, entry, NO_IDS, (newer,))) == MarkedShard(None, 6)
