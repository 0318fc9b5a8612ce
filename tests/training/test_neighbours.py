from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoloc.core.errors import ConfigError, CorruptArtifact
from geoloc.recipe.recipe import Recipe
from geoloc.training import neighbours
from geoloc.training.data import data_identity, open_data
from geoloc.training.neighbours import NeighbourLists, first_of
from geoloc.training.node_cache import NodeCache
from geoloc.training.pair_store import PairStore
from tests.training.test_sampler import DISTANCE_M, index_of, town


def test_lists_are_the_nearest_pairs_of_other_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all distances; in blocks, the last of which is short."""
    monkeypatch.setattr(neighbours, "_ROWS", 64)
    index = town(200)
    lists = NeighbourLists().geographic(index, 20, DISTANCE_M)
    assert lists.dtype == np.int32
    assert (lists[:5] == -1).all()  # without a position
    for row in range(5, 200):
        distance = np.hypot(index.east_m - index.east_m[row], index.north_m - index.north_m[row])
        distance[index.same_place(np.array([row]), np.arange(200), DISTANCE_M)] = np.nan
        nearest = np.argsort(distance)[:20]  # NaN last
        np.testing.assert_array_equal(lists[row], nearest)


def test_a_crowd_of_one_place_shortens_lists() -> None:
    index = index_of(np.r_[np.zeros(30), 100.0, 200.0], np.zeros(32))
    lists = NeighbourLists().geographic(index, 8, DISTANCE_M)
    assert (lists[0] == -1).all()  # 29 of its place are nearer than the two others
    assert set(lists[30].tolist()) <= {-1, *range(30), 31}


def test_without_positions_there_are_no_neighbours() -> None:
    with pytest.raises(ConfigError, match="no pair has a position; choose random or similarity"):
        NeighbourLists().geographic(index_of(np.full(4, np.nan), np.full(4, np.nan)), 2, DISTANCE_M)


def test_first_of_keeps_the_order_and_pads() -> None:
    items = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
    kept = np.array([[False, True, False, True], [True, True, True, True]])
    np.testing.assert_array_equal(first_of(items, kept, 3), [[6, 8, -1], [1, 2, 3]])
    np.testing.assert_array_equal(first_of(items, kept, 5), [[6, 8, -1, -1, -1], [1, 2, 3, 4, -1]])


def test_lists_on_a_node_are_those_in_memory(ingested: str, tiny: Recipe, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", data_identity(ingested, tiny), run="a")
    store = open_data(ingested, tiny, cache)
    assert isinstance(store, PairStore)
    kept, plain = NeighbourLists(cache=cache), NeighbourLists()
    on_disk = kept.geographic(store.index, 9, DISTANCE_M)
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_array_equal(on_disk, plain.geographic(store.index, 9, DISTANCE_M))


def test_mined_lists_of_all_workers_come_back_and_damage_is_seen(
    ingested: str, tiny: Recipe, tmp_path: Path
) -> None:
    cache = NodeCache(tmp_path / "cache", data_identity(ingested, tiny), run="a")
    folder = str(tmp_path / "mined")
    lists = np.arange(60, dtype=np.int32).reshape(20, 3)
    run = NeighbourLists(folder)
    assert run.mined(1) is None
    for rank, parts in enumerate(([(0, 8)], [(8, 12), (12, 20)])):
        noted = [run.write_part(1, first, lists[first:stop], lists.shape) for first, stop in parts]
        run.note_parts(1, rank, noted)
    assert run.mined(1) is None
    run.finish(1, 2, lists.shape)
    for again in (NeighbourLists(folder), NeighbourLists(folder, cache)):
        np.testing.assert_array_equal(again.mined(1), lists)
    part = tmp_path / "mined" / "000001" / "000000000008.npy"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(bytes(data))
    with pytest.raises(CorruptArtifact, match="damaged"):
        NeighbourLists(folder).mined(1)
