"""A shard's codes as a FAISS index without a copy."""

from __future__ import annotations

import faiss
import numpy as np
import psutil

from geoloc.index.search.faiss_view import flat_view
from geoloc.index.search.snapshot import Snapshot

from ..building import build, random_tiles


def test_faiss_searches_the_mapped_codes_of_a_shard(index_uri: str) -> None:
    tiles = random_tiles(2000, bits=128, dim=None, seed=1, distinct=200)
    build(index_uri, tiles)
    shard = Snapshot.open(index_uri).shards[0]
    index = flat_view(shard.codes)
    assert isinstance(index, faiss.IndexBinaryFlat)
    assert not index.xb.is_owned
    queries = np.random.default_rng(2).integers(0, 256, (20, 16), dtype=np.uint8)
    distances, rows = index.search(queries, 50)
    apart = np.bitwise_count(shard.codes[None] ^ queries[:, None]).sum(axis=2, dtype=np.int64)
    order = np.argsort(apart, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(apart, order, axis=1))
    del shard
    np.testing.assert_array_equal(index.search(queries, 50)[1], rows)  # the view keeps the codes alive


def test_a_view_takes_no_memory() -> None:
    codes = np.zeros((2_000_000, 32), np.uint8)
    codes[:] = 1
    before = psutil.Process().memory_info().rss
    index = flat_view(codes)
    assert psutil.Process().memory_info().rss - before < 8_000_000
    assert index.ntotal == 2_000_000


def test_no_codes_give_an_empty_index() -> None:
    index = flat_view(np.empty((0, 8), np.uint8))
    assert index.ntotal == 0
    assert index.search(np.zeros((1, 8), np.uint8), 1)[1].tolist() == [[-1]]
