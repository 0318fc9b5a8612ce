"""Shards whose files are cut while they are mapped: named or left out, never the end of the process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from small_index import SmallIndex, build

from geoloc.core.errors import CorruptArtifact
from geoloc.index.search.snapshot import Snapshot


@pytest.fixture
def own_index(tmp_path: Path) -> SmallIndex:
    return build(tmp_path, count=12)


def codes_of(small: SmallIndex) -> list[Path]:
    return sorted(Path(small.index).glob("snapshots/*/shard-*/codes.npy"))


def test_a_shard_that_is_cut_while_open_is_named(own_index: SmallIndex) -> None:
    snapshot = Snapshot.open(own_index.index)
    codes = snapshot.shards[0].codes[:1].copy()
    os.truncate(codes_of(own_index)[1], 0)
    with pytest.raises(CorruptArtifact, match=r"shard-00001/codes\.npy' was cut while it was open"):
        snapshot.search(codes, k=12)


def test_with_skip_broken_the_others_answer_as_before(own_index: SmallIndex) -> None:
    whole = Snapshot.open(own_index.index)
    codes = np.concatenate([shard.codes for shard in whole.shards])
    before = whole.search(codes, k=12)
    lost = set(whole.shards[1].tile_ids.to_pylist())
    snapshot = Snapshot.open(own_index.index, skip_broken=True)
    assert snapshot.broken_shards() == {}
    os.truncate(codes_of(own_index)[1], 0)
    after = snapshot.search(codes, k=12)
    assert list(snapshot.broken_shards()) == [whole.shards[1].entry.directory]
    for row in range(len(codes)):
        expected = [each for each in before.tile_ids[row] if each not in lost]
        assert [each for each in after.tile_ids[row] if each is not None] == expected
    # A process that opens it now leaves the same shard out, and rows keep their numbers.
    again = Snapshot.open(own_index.index, skip_broken=True).search(codes, k=12)
    assert np.array_equal(again.rows, after.rows)
    with pytest.raises(CorruptArtifact):
        Snapshot.open(own_index.index)


def test_files_that_are_replaced_or_removed_stay_mapped(own_index: SmallIndex) -> None:
    snapshot = Snapshot.open(own_index.index)
    codes = snapshot.shards[0].codes[:1].copy()
    before = snapshot.search(codes, k=12)
    first, second, _ = codes_of(own_index)
    first.unlink()
    second.rename(second.with_name("old.npy"))
    second.write_bytes(b"")
    assert np.array_equal(snapshot.search(codes, k=12).rows, before.rows)
    assert snapshot.broken_shards() == {}
