from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoloc.core import part_table
from geoloc.core.errors import ConfigError
from geoloc.recipe.recipe import Recipe
from geoloc.training.data import data_identity, open_data
from geoloc.training.node_cache import _IN_USE, NodeCache, _remove_unused, fill_here
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, load_pairs

Calls = Iterable[tuple[Any, ...]]


class Counted:
    """Fills in this process and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, function: Callable[..., None], calls: Calls) -> None:
        listed = list(calls)
        self.calls += len(listed)
        fill_here(function, listed)


def opened(root: Path, uri: str, recipe: Recipe, *, run: str = "a", **rest: Any) -> tuple[PairStore, int]:
    """The store out of a cache, and how many parts were filled for it."""
    fill = Counted()
    cache = NodeCache(root, data_identity(uri, recipe), run=run, fill=fill, **rest)
    store = open_data(uri, recipe, cache)
    assert isinstance(store, PairStore)
    _IN_USE.pop(cache.folder).close()
    return store, fill.calls


def parts_of(uri: str, kind: str) -> int:
    return len(part_table.read_manifest(f"{uri}/{kind}").parts)


def test_pictures_are_prepared_once_and_are_those_of_the_tables(
    ingested: str, tiny: Recipe, tmp_path: Path
) -> None:
    store, filled = opened(tmp_path, ingested, tiny)
    assert filled == 1 + parts_of(ingested, "tiles") + parts_of(ingested, "queries")  # 1: the columns
    plain = load_pairs(ingested, read_index(ingested), tiny)
    np.testing.assert_array_equal(store.tiles, plain.tiles)
    np.testing.assert_array_equal(store.photos, plain.photos)
    np.testing.assert_array_equal(store.tile_of, plain.tile_of)
    assert isinstance(store.tiles, np.memmap)
    assert isinstance(store.index.photo, np.memmap)
    _, again = opened(tmp_path, ingested, tiny, run="b")
    assert again == 0
    _, other_steps = opened(tmp_path, ingested, tiny.with_overrides(steps=3), run="c")
    assert other_steps == 0


def test_a_damaged_part_is_made_again(ingested: str, tiny: Recipe, tmp_path: Path) -> None:
    store, _ = opened(tmp_path, ingested, tiny)
    right = np.array(store.tiles)
    file = tmp_path / "training" / data_identity(ingested, tiny) / "tiles.u8"
    with file.open("r+b") as stream:
        stream.seek(1000)
        stream.write(bytes([right.reshape(-1)[1000] ^ 255]))
    damaged, filled = opened(tmp_path, ingested, tiny, run="b")
    assert filled == 1
    np.testing.assert_array_equal(damaged.tiles, right)
    os.truncate(file, 100)
    cut, filled = opened(tmp_path, ingested, tiny, run="c")
    assert filled == parts_of(ingested, "tiles")
    np.testing.assert_array_equal(cut.tiles, right)


def test_a_limit_removes_what_nobody_has_open_and_else_refuses(
    ingested: str, tiny: Recipe, tmp_path: Path
) -> None:
    others = [tmp_path / "training" / name for name in ("long-unused", "unused", "open")]
    for age, folder in enumerate(others):
        folder.mkdir(parents=True)
        (folder / "tiles.u8").write_bytes(bytes(400_000))
        os.utime(folder, (1000 + age, 1000 + age))
    with (others[2] / "in-use").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        opened(tmp_path, ingested, tiny, limit_bytes=1_500_000)  # a run takes 0.65 MB
        assert [folder.exists() for folder in others] == [False, True, True]
        other = tiny.model_copy(update={"model": tiny.model.model_copy(update={"tile_m": 31.0})})
        with pytest.raises(ConfigError, match=r"take 0\.\d GB on each node.*raise cache_gb"):
            opened(tmp_path, ingested, other, limit_bytes=500_000)
        assert others[2].exists()
        assert not others[1].exists()


def test_what_a_process_has_open_is_not_removed(ingested: str, tiny: Recipe, tmp_path: Path) -> None:
    """The store alone is kept, as a worker keeps it; the cache object is gone."""
    identity = data_identity(ingested, tiny)
    store = open_data(ingested, tiny, NodeCache(tmp_path, identity, run="a"))
    gc.collect()
    assert not _remove_unused(tmp_path / "training" / identity)
    assert len(store) == 80
    assert (tmp_path / "training" / identity / "tiles.u8").exists()
