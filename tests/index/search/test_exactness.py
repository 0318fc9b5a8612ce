"""Exact search against NumPy at a size that counts, and what must not change an answer."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.index.format.commit import commit, read_head
from geoloc.index.search.matches import Matches
from geoloc.index.search.snapshot import Snapshot

from ..building import Tiles, build, manifest_of, nearest_by_hand, random_tiles


def found(matches: Matches) -> list[list[tuple[int | None, str]]]:
    return [[(match.distance_bits, match.tile_id) for match in matches.of(q)] for q in range(len(matches))]


def nearest_keys(codes: np.ndarray, places: np.ndarray, query: np.ndarray, k: int) -> np.ndarray:
    """The k smallest of distance * 2**32 + place in the order of ids, by NumPy alone."""
    apart = np.bitwise_count(codes.view(np.uint64) ^ query.view(np.uint64)).sum(axis=1, dtype=np.int64)
    keys = (apart << 32) | places
    return np.sort(np.partition(keys, k - 1)[:k])


@pytest.mark.slow
@pytest.mark.parametrize("bits", [64, 128, 256, 512, 1024])
def test_a_hundred_thousand_codes_and_a_thousand_queries_equal_numpy(index_uri: str, bits: int) -> None:
    # Half of the codes are unlike any other, half repeat, so that ties cross every border of k.
    tiles = random_tiles(100_000, bits=bits, dim=None, seed=bits)
    rng = np.random.default_rng(bits)
    codes = tiles.codes.copy()
    codes[::2] = codes[rng.integers(0, 4000, 50_000)]
    tiles = replace(tiles, codes=codes)
    build(index_uri, tiles, shards=3)
    queries = rng.integers(0, 256, (1000, bits // 8), dtype=np.uint8)
    queries[::2] = codes[rng.integers(0, 100_000, 500)]  # half of them are codes of tiles
    matches = Snapshot.open(index_uri).search(queries, k=50)
    single = Snapshot.open(index_uri).search(queries[:1], k=50)
    assert found(single)[0] == found(matches)[0]
    ids = np.array(tiles.ids)
    places = np.argsort(np.argsort(ids))
    in_order = ids[np.argsort(places)]
    for query in range(1000):
        keys = nearest_keys(codes, places, queries[query], 50)
        assert matches.distance_bits[query].tolist() == (keys >> 32).tolist()
        assert matches.tile_ids[query].tolist() == in_order[keys & 0xFFFFFFFF].tolist()


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 16), st.integers(0, 10_000), st.integers(1, 200), st.sampled_from([64, 128, 192, 256]))
def test_what_must_not_change_an_answer(
    tmp_path_factory: pytest.TempPathFactory, shards: int, seed: int, k: int, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    tiles = random_tiles(160, bits=bits, dim=None, seed=seed, distinct=12)
    queries = rng.integers(0, 256, (4, bits // 8), dtype=np.uint8)
    mask, order = rng.integers(0, 256, bits // 8, dtype=np.uint8), rng.permutation(bits)

    def permuted(codes: np.ndarray) -> np.ndarray:
        return np.packbits(np.unpackbits(codes, axis=1)[:, order], axis=1)

    variants: list[tuple[Tiles, np.ndarray, int]] = [
        (tiles.rows(rng.permutation(160)), queries, shards),
        (replace(tiles, codes=tiles.codes ^ mask), queries ^ mask, shards),
        (replace(tiles, codes=permuted(tiles.codes)), permuted(queries), 1),
    ]
    wanted = nearest_by_hand(tiles, queries, k)
    for gallery, asked, pieces in variants:
        index_uri = str(tmp_path_factory.mktemp("index"))
        build(index_uri, gallery, pieces)
        assert found(Snapshot.open(index_uri, threads=2).search(asked, k=k)) == wanted
        assert found(Snapshot.open(index_uri, threads=1).search(asked[:1], k=k)) == wanted[:1]


@pytest.mark.parametrize("queries", [1, 9])
def test_nothing_but_duplicates_comes_in_the_order_of_ids(index_uri: str, queries: int) -> None:
    tiles = random_tiles(40_000, bits=256, dim=None, distinct=1)
    parts = [np.arange(0, 20_000), np.arange(20_000, 40_000)]
    commit(index_uri, manifest_of(index_uri, tiles, parts, "test"), read_head(index_uri))
    ordered = sorted(tiles.ids)
    snapshot = Snapshot.open(index_uri, threads=2)
    for k in (1, 1000, 30_000):
        matches = snapshot.search(tiles.codes[:queries], k=k)
        assert matches.tile_ids[-1].tolist() == ordered[:k]
        assert not matches.distance_bits.any()


def test_searches_at_the_same_time_equal_searches_one_by_one(index_uri: str) -> None:
    tiles = random_tiles(60_000, bits=128, dim=8, distinct=2000)  # several spans: the threads share the pool
    build(index_uri, tiles, 2)
    snapshot = Snapshot.open(index_uri, threads=2)
    rng = np.random.default_rng(3)
    codes, floats = (
        rng.integers(0, 256, (12, 16), dtype=np.uint8),
        rng.normal(size=(12, 8)).astype(np.float32),
    )

    def ask(q: int) -> list[list[tuple[int | None, str]]]:
        several = slice(q, q + 1 + q % 3)
        return found(snapshot.search(codes[several], k=9, embeddings=floats[several], rerank=40))

    wanted, answers = [ask(q) for q in range(12)], [[] for _ in range(12)]

    def work(q: int) -> None:
        for _ in range(3):
            answers[q].append(ask(q))

    threads = [threading.Thread(target=work, args=(q,)) for q in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answer == wanted[q] for q in range(12) for answer in answers[q])
    assert [len(answer) for answer in answers] == [3] * 12
