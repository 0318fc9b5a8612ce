from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core import geodesy, storage
from geoloc.core.errors import ArtifactError, QueryError
from geoloc.index.format.manifest import CODES_NAME, EMBEDDINGS_NAME
from geoloc.index.search import scan
from geoloc.index.search.kernels.scan_kernel import NumpyKernel
from geoloc.index.search.matches import Matches
from geoloc.index.search.region import box, circle
from geoloc.index.search.snapshot import Snapshot

from ..building import Tiles, build, nearest_by_floats, nearest_by_hand, random_tiles


def found(matches: Matches) -> list[list[tuple[int | None, str]]]:
    return [[(match.distance_bits, match.tile_id) for match in matches.of(q)] for q in range(len(matches))]


def queries_for(tiles: Tiles, count: int = 5, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, tiles.codes.shape[1]), dtype=np.uint8)


@pytest.mark.parametrize("bits", [64, 128, 256, 512, 1024])
@pytest.mark.parametrize("distinct", [None, 20])
def test_search_is_exact_ties_included(index_uri: str, bits: int, distinct: int | None) -> None:
    tiles = random_tiles(600, bits=bits, dim=None, seed=bits, distinct=distinct)
    build(index_uri, tiles, shards=3)
    snapshot = Snapshot.open(index_uri)
    queries = queries_for(tiles)
    for k in (0, 1, 10, 100, 599, 600, 700):
        matches = snapshot.search(queries, k=k)
        assert found(matches) == nearest_by_hand(tiles, queries, k)
        assert matches.rows.shape == (5, k)
        assert matches.counts.tolist() == [min(k, 600)] * 5


def test_many_codes_and_queries_equal_numpy(index_uri: str) -> None:
    tiles = random_tiles(60_000, bits=64, dim=None, distinct=3000)  # several spans for a thread, dense ties
    build(index_uri, tiles, shards=2)
    queries = queries_for(tiles, 300)  # more than a block of queries
    matches = Snapshot.open(index_uri, threads=3).search(queries, k=20)
    ids = np.array(tiles.ids)
    place = np.argsort(np.argsort(ids))
    for query in range(0, 300, 7):
        distances = np.bitwise_count(tiles.codes ^ queries[query]).sum(axis=1, dtype=np.int64)
        order = np.lexsort((place, distances))[:20]
        assert matches.tile_ids[query].tolist() == ids[order].tolist()
        assert matches.distance_bits[query].tolist() == distances[order].tolist()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000), st.integers(1, 60))
def test_answers_do_not_depend_on_sharding_or_row_order(
    tmp_path_factory: pytest.TempPathFactory, shards: int, seed: int, k: int
) -> None:
    tiles = random_tiles(150, bits=64, dim=4, seed=seed, distinct=12)
    other = tiles.rows(np.random.default_rng(seed).permutation(150))
    codes, floats = queries_for(tiles, 3), np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    answers = []
    for gallery, pieces in ((tiles, 1), (other, shards)):
        index_uri = str(tmp_path_factory.mktemp("index"))
        build(index_uri, gallery, pieces)
        snapshot = Snapshot.open(index_uri)
        answers.append(
            (
                found(snapshot.search(codes, k=k)),
                found(snapshot.search(codes, k=k, embeddings=floats, rerank=25)),
                found(nearest_by_floats(snapshot, floats, k)),
            )
        )
    assert answers[0] == answers[1]


def test_flipping_the_same_bits_everywhere_changes_nothing(tmp_path: Path) -> None:
    tiles = random_tiles(300, bits=128, dim=None, distinct=40)
    mask = np.random.default_rng(5).integers(0, 256, 16, dtype=np.uint8)
    flipped = Tiles(tiles.ids, tiles.codes ^ mask, None, tiles.lat, tiles.lon)
    build(str(tmp_path / "a"), tiles, 2)
    build(str(tmp_path / "b"), flipped, 2)
    queries = queries_for(tiles)
    plain = Snapshot.open(str(tmp_path / "a")).search(queries, k=50)
    masked = Snapshot.open(str(tmp_path / "b")).search(queries ^ mask, k=50)
    assert found(plain) == found(masked)


def test_rerank_orders_the_nearest_by_dot_product_then_id(index_uri: str) -> None:
    tiles = random_tiles(400, bits=64, dim=16, distinct=60)
    build(index_uri, tiles, 3)
    snapshot = Snapshot.open(index_uri)
    codes, floats = queries_for(tiles), np.random.default_rng(2).normal(size=(5, 16)).astype(np.float32)
    matches = snapshot.search(codes, k=10, embeddings=floats, rerank=50)
    row_of = {name: row for row, name in enumerate(tiles.ids)}
    for query, nearest in enumerate(nearest_by_hand(tiles, codes, 50)):
        scored = []
        for distance, name in nearest:
            product = tiles.embeddings[row_of[name]].astype(float) @ floats[query].astype(float)
            scored.append((-float(np.float32(product)), name, distance))
        wanted = sorted(scored)[:10]
        got = matches.of(query)
        assert [match.tile_id for match in got] == [name for _, name, _ in wanted]
        assert [match.distance_bits for match in got] == [distance for _, _, distance in wanted]
        np.testing.assert_allclose(
            [match.similarity for match in got], [-value for value, _, _ in wanted], rtol=1e-6
        )
    # Fewer to re-rank than wanted: as many as wanted are re-ranked.
    assert snapshot.search(codes, k=30, embeddings=floats, rerank=5).counts.tolist() == [30] * 5


def test_re_ranking_every_tile_equals_a_full_product(index_uri: str) -> None:
    tiles = random_tiles(500, bits=64, dim=12, distinct=100)
    build(index_uri, tiles, 3)
    floats = np.random.default_rng(3).normal(size=(4, 12)).astype(np.float32)
    matches = nearest_by_floats(Snapshot.open(index_uri), floats, 40)
    products = (floats.astype(float) @ tiles.embeddings.astype(float).T).astype(np.float32)
    for query in range(4):
        wanted = sorted(
            (-float(value), name) for value, name in zip(products[query], tiles.ids, strict=True)
        )[:40]
        assert matches.tile_ids[query].tolist() == [name for _, name in wanted]
        assert matches.similarity[query].tolist() == [-value for value, _ in wanted]


def test_matches_carry_their_positions(index_uri: str) -> None:
    tiles = random_tiles(50)
    snapshot_id = build(index_uri, tiles, 2)
    matches = Snapshot.open(index_uri).search(tiles.codes, k=1)
    assert matches.snapshot_id == snapshot_id
    assert matches.tile_ids[:, 0].tolist() == tiles.ids
    np.testing.assert_array_equal(matches.lat[:, 0], tiles.lat)
    np.testing.assert_array_equal(matches.lon[:, 0], tiles.lon)
    assert sorted(matches.rows[:, 0].tolist()) == list(range(50))


def test_a_region_leaves_only_the_tiles_inside(index_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_GATHER_ROWS", 32)
    tiles = random_tiles(800, bits=64, distinct=50)
    build(index_uri, tiles, 3)
    snapshot = Snapshot.open(index_uri)
    codes, floats = queries_for(tiles), np.random.default_rng(2).normal(size=(5, 16)).astype(np.float32)
    near = geodesy.distance_m(-35.2, 149.2, tiles.lat, tiles.lon) <= 9000
    inside = (tiles.lat >= -35.3) & (tiles.lat <= -35.1) & (tiles.lon >= 149.1) & (tiles.lon <= 149.4)
    for region, allowed in ((circle(-35.2, 149.2, 9000), near), (box(-35.3, 149.1, -35.1, 149.4), inside)):
        assert 20 < allowed.sum() < 700
        assert found(snapshot.search(codes, k=15, region=region)) == nearest_by_hand(
            tiles, codes, 15, allowed
        )
        exact = nearest_by_floats(snapshot, floats, 900, region)
        assert set(exact.tile_ids[0].tolist()) - {None} == {tiles.ids[row] for row in np.flatnonzero(allowed)}
    nothing = snapshot.search(codes, k=3, region=circle(10, 10, 1000), embeddings=floats, rerank=10)
    assert nothing.counts.tolist() == [0] * 5
    assert nothing.of(0) == []


def test_a_shard_that_a_region_does_not_touch_is_not_looked_into(
    index_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = random_tiles(20)
    build(index_uri, tiles, 2)
    snapshot = Snapshot.open(index_uri)
    monkeypatch.setattr(
        "geoloc.index.format.shard.Shard.tiles", lambda self: pytest.fail("its tiles were read")
    )
    assert scan.select(snapshot.shards, circle(10, 10, 1000)) == []


def test_tiles_without_coordinates_retrieve_but_take_no_region(index_uri: str) -> None:
    tiles = random_tiles(30, located=False)
    build(index_uri, tiles, 2)
    snapshot = Snapshot.open(index_uri)
    assert not snapshot.located
    match = snapshot.search(tiles.codes[:1], k=1).of(0)[0]
    assert (match.tile_id, match.lat, match.lon, match.similarity) == (tiles.ids[0], None, None, None)
    with pytest.raises(QueryError, match="tiles without coordinates") as caught:
        snapshot.search(tiles.codes[:1], k=1, region=circle(0, 0, 10))
    assert caught.value.reason == "not_located"


def test_an_empty_shard_and_an_empty_index_have_answers(tmp_path: Path) -> None:
    tiles = random_tiles(3, bits=64, dim=4)
    build(str(tmp_path / "few"), tiles, 6)
    assert min(entry.count for entry in Snapshot.open(str(tmp_path / "few")).manifest.shards) == 0
    codes, floats = queries_for(tiles, 2), np.ones((2, 4), np.float32)
    few = Snapshot.open(str(tmp_path / "few")).search(codes, k=5, embeddings=floats, rerank=5)
    assert few.counts.tolist() == [3, 3]
    for shards in (0, 1):
        index_uri = str(tmp_path / f"empty-{shards}")
        build(index_uri, random_tiles(0, bits=64, dim=4), shards)
        snapshot = Snapshot.open(index_uri)
        assert snapshot.count == 0
        for matches in (
            snapshot.search(codes, k=5),
            snapshot.search(codes, k=5, embeddings=floats, rerank=9),
            nearest_by_floats(snapshot, floats, 5),
        ):
            assert matches.rows.tolist() == [[-1] * 5] * 2
            assert matches.tile_ids.tolist() == [[None] * 5] * 2
    none = Snapshot.open(str(tmp_path / "few")).search(codes[:0], k=5)
    assert len(none) == 0
    assert none.rows.shape == (0, 5)


def test_impossible_searches_are_refused_with_a_sentence(index_uri: str) -> None:
    tiles = random_tiles(10, bits=64, dim=4)
    build(index_uri, tiles)
    snapshot = Snapshot.open(index_uri)
    codes = tiles.codes[:2]
    for call, words in (
        (
            lambda: snapshot.search(codes[:, :4], k=1),
            r"uint8\[2, 4\], this index takes uint8\[Q, 8\] \(64 bits\)",
        ),
        (lambda: snapshot.search(codes.astype(np.int32), k=1), r"int32\[2, 8\]"),
        (lambda: snapshot.search(codes, k=-1), "k is -1"),
        (lambda: snapshot.search(codes, k=1, rerank=5), "needs the float embeddings"),
        (
            lambda: snapshot.search(codes, k=1, rerank=5, embeddings=np.ones((2, 5), np.float32)),
            r"\[2, 5\].*\[2, 4\]",
        ),
        (lambda: nearest_by_floats(snapshot, np.full((1, 4), np.nan, np.float32), 1), "finite"),
    ):
        with pytest.raises(QueryError, match=words):
            call()


def test_an_index_without_embeddings_says_so(index_uri: str) -> None:
    tiles = random_tiles(10, bits=64, dim=None)
    build(index_uri, tiles)
    with pytest.raises(QueryError, match="keeps no embeddings"):
        nearest_by_floats(Snapshot.open(index_uri), np.ones((1, 4), np.float32), 1)


def test_every_kernel_gives_the_same_answer(index_uri: str) -> None:
    tiles = random_tiles(500, bits=64, dim=None, distinct=30)
    build(index_uri, tiles, 3)
    queries = queries_for(tiles)
    default = Snapshot.open(index_uri).search(queries, k=40)
    assert found(Snapshot.open(index_uri, kernel=NumpyKernel()).search(queries, k=40)) == found(default)


def test_threads_share_a_snapshot(index_uri: str) -> None:
    tiles = random_tiles(2000, bits=128, distinct=100)
    build(index_uri, tiles, 3)
    snapshot = Snapshot.open(index_uri)
    queries, floats = queries_for(tiles, 8), np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    wanted = [
        found(snapshot.search(queries[q : q + 1], k=9, embeddings=floats[q : q + 1], rerank=30))
        for q in range(8)
    ]
    again = Snapshot.open(index_uri)  # its tiles are read by whichever thread comes first
    answers: dict[int, list] = {}

    def work(q: int) -> None:
        for _ in range(20):
            answers[q] = found(again.search(queries[q : q + 1], k=9, embeddings=floats[q : q + 1], rerank=30))

    threads = [threading.Thread(target=work, args=(q,)) for q in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[q] for q in range(8)] == wanted


def mapped_file(address: int) -> str:
    """The file behind an address of this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else ""
    return ""


def test_codes_and_embeddings_are_mapped_not_copied(index_uri: str) -> None:
    tiles = random_tiles(20_000, bits=512, dim=64)
    build(index_uri, tiles)
    shard = Snapshot.open(index_uri).shards[0]
    assert mapped_file(shard.codes.ctypes.data).endswith(CODES_NAME)
    assert mapped_file(shard.codes.ctypes.data + shard.codes.nbytes - 1).endswith(CODES_NAME)
    assert shard.embeddings is not None
    assert mapped_file(shard.embeddings.ctypes.data).endswith(EMBEDDINGS_NAME)
    assert not shard.codes.flags.writeable
    assert not shard.embeddings.flags.writeable


def test_a_snapshot_that_is_open_outlives_its_files(index_uri: str) -> None:
    tiles = random_tiles(100, bits=64)
    build(index_uri, tiles, 2)
    snapshot = Snapshot.open(index_uri)
    storage.delete(index_uri)
    assert snapshot.search(tiles.codes, k=1).tile_ids[:, 0].tolist() == tiles.ids


def test_a_snapshot_can_be_opened_by_its_id(index_uri: str) -> None:
    first = build(index_uri, random_tiles(10, seed=1), name="one")
    second = build(index_uri, random_tiles(20, seed=2), name="two")
    assert Snapshot.open(index_uri).snapshot_id == second
    assert Snapshot.open(index_uri, first).count == 10
    for missing in ("0" * 32, "../../elsewhere"):
        with pytest.raises(ArtifactError, match="There is no snapshot"):
            Snapshot.open(index_uri, missing)


def test_a_directory_without_an_index_is_named(index_uri: str) -> None:
    with pytest.raises(ArtifactError, match=r"There is no finished index at .*CURRENT"):
        Snapshot.open(index_uri)


def test_memory_of_a_search_does_not_grow_with_queries_times_tiles(index_uri: str) -> None:
    tiles = random_tiles(40_000, bits=64, dim=4)
    build(index_uri, tiles, 2)
    snapshot = Snapshot.open(index_uri, threads=2)
    queries, floats = (
        queries_for(tiles, 1500),
        np.random.default_rng(4).normal(size=(1500, 4)).astype(np.float32),
    )
    everything = len(queries) * len(tiles)  # 60 MB at a byte each
    for work in (
        lambda: snapshot.search(queries, k=5),
        lambda: snapshot.search(queries, k=5, embeddings=floats, rerank=20),
        lambda: snapshot.search(queries, k=5, region=box(-35.5, 149, -35.2, 149.4)),
    ):
        work()
        tracemalloc.start()
        work()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < everything / 6


def test_one_query_is_spread_over_the_threads(index_uri: str) -> None:
    class Noting(NumpyKernel):
        seen: ClassVar[set[str]] = set()

        def nearest(self, codes, queries, k, live=None):  # type: ignore[no-untyped-def]
            self.seen.add(threading.current_thread().name)
            barrier.wait(timeout=30)  # passes only when two spans are scanned at the same time
            return super().nearest(codes, queries, k)

    barrier = threading.Barrier(2)
    tiles = random_tiles(40_000, bits=64, dim=None)
    build(index_uri, tiles)
    assert (
        Snapshot.open(index_uri, kernel=Noting(), threads=2).search(tiles.codes[:1], k=1).tile_ids[0, 0]
        == tiles.ids[0]
    )
    assert len(Noting.seen) == 2
