"""Searching a snapshot by a photo's real numbers: exact, ties by tile id, whatever the shards."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import QueryError
from geoloc.index.search import snapshot as snapshots
from geoloc.index.search.kernels.weighted_scan import bit_weights, weighted_distances
from geoloc.index.search.region import circle
from geoloc.index.search.snapshot import Snapshot

from ..building import Tiles, build, random_tiles

QUERIES = 5


def queries_of(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes uint8[Q, B] and weights int8[Q, bits] of the same logits."""
    logits = np.random.default_rng(1).normal(size=(QUERIES, bits))
    return np.packbits(logits > 0, axis=1), bit_weights(logits)


def by_hand(tiles: Tiles, weights: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[list[str]]:
    distances = weighted_distances(weights, tiles.codes)
    rows = np.arange(len(tiles)) if allowed is None else np.flatnonzero(allowed)
    return [
        [name for _, name in sorted((int(line[row]), tiles.ids[row]) for row in rows)[:k]]
        for line in distances
    ]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("k", [1, 20, 700])
def test_the_order_is_that_of_weighted_distance_and_tile_id(index_uri: str, shards: int, k: int) -> None:
    tiles = random_tiles(600, bits=128, dim=None, seed=2, distinct=50)
    build(index_uri, tiles, shards=shards)
    codes, weights = queries_of(128)
    matches = Snapshot.open(index_uri).search(codes, k=k, weights=weights)
    assert matches.ordered_by == "logits"
    assert [[m.tile_id for m in matches.of(q)] for q in range(QUERIES)] == by_hand(tiles, weights, k)
    own = dict(zip(tiles.ids, tiles.codes, strict=True))
    for query in range(QUERIES):
        for match in matches.of(query):
            assert match.distance_bits == np.bitwise_count(own[match.tile_id] ^ codes[query]).sum()
            assert -1.0 <= match.similarity <= 1.0


def test_a_region_is_compared_as_a_whole(index_uri: str) -> None:
    tiles = random_tiles(900, bits=64, dim=None, seed=3)
    build(index_uri, tiles, shards=2)
    region = circle(-35.25, 149.25, 15_000.0)
    inside = region.contains(tiles.lat, tiles.lon)
    assert 50 < inside.sum() < 400
    codes, weights = queries_of(64)
    matches = Snapshot.open(index_uri).search(codes, k=1000, weights=weights, region=region)
    found = [[m.tile_id for m in matches.of(q)] for q in range(QUERIES)]
    assert found == by_hand(tiles, weights, 1000, inside)


def test_of_many_tiles_the_nearest_by_codes_are_compared(
    index_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = random_tiles(800, bits=64, dim=None, seed=4, distinct=300)
    build(index_uri, tiles, shards=3)
    codes, weights = queries_of(64)
    monkeypatch.setattr(snapshots, "WEIGHED_TILES", 100)
    monkeypatch.setattr(snapshots, "WEIGHED_SHORTLIST", 40)
    snapshot = Snapshot.open(index_uri)
    matches = snapshot.search(codes, k=10, weights=weights)
    for query in range(QUERIES):
        apart = np.bitwise_count(tiles.codes ^ codes[query]).sum(axis=1, dtype=np.int64)
        near = sorted(range(800), key=lambda row: (apart[row], tiles.ids[row]))[:40]
        allowed = np.zeros(800, np.bool_)
        allowed[near] = True
        want = by_hand(tiles, weights[query : query + 1], 10, allowed)[0]
        assert [m.tile_id for m in matches.of(query)] == want


def test_embeddings_order_what_the_real_numbers_found(index_uri: str) -> None:
    tiles = random_tiles(500, bits=64, dim=16, seed=5)
    build(index_uri, tiles, shards=2)
    codes, weights = queries_of(64)
    embeddings = np.random.default_rng(7).normal(size=(QUERIES, 16)).astype(np.float32)
    matches = Snapshot.open(index_uri).search(codes, k=5, weights=weights, embeddings=embeddings, rerank=50)
    assert matches.ordered_by == "embeddings"
    place = {name: row for row, name in enumerate(tiles.ids)}
    for query, near in enumerate(by_hand(tiles, weights, 50)):
        product = {
            name: float(np.float32(tiles.embeddings[place[name]].astype(float) @ embeddings[query]))
            for name in near
        }
        want = sorted(near, key=lambda name: (-product[name], name))[:5]
        assert [m.tile_id for m in matches.of(query)] == want


def test_weights_that_do_not_fit_are_refused(index_uri: str) -> None:
    build(index_uri, random_tiles(10, bits=64, dim=None))
    codes, weights = queries_of(64)
    snapshot = Snapshot.open(index_uri)
    for wrong in (weights[:, :32], weights[:2], weights.astype(np.int16)):
        with pytest.raises(QueryError, match="bit_weights"):
            snapshot.search(codes, k=1, weights=wrong)
