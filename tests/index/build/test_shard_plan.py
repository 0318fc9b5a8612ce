from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from geoloc.core import part_table, storage
from geoloc.index.build.partition_keys import Histogram, hash_ids
from geoloc.index.build.shard_build import Piece
from geoloc.index.build.shard_plan import Plan, group, pieces_of, read_plan, run_rows, save_plan, tile_bytes
from geoloc.index.build.sorted_runs import TablePart

from .test_partition_keys import strings


def source(rows: int) -> TablePart:
    return TablePart("c", part_table.Part(name="p", rows=rows, bytes=1, sha256="0" * 64), "m")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 100))
def test_sources_are_grouped_in_order_within_the_limit(sizes: list[int], rows: int) -> None:
    sources = [source(size) for size in sizes]
    groups = group(sources, rows)
    assert [one for some in groups for one in some] == sources
    for some in groups:
        assert len(some) == 1 or sum(one.rows for one in some) <= rows


def test_runs_are_bounded_and_keep_all_workers_busy() -> None:
    per_tile = tile_bytes(512, 512)
    assert per_tile == 64 + 1024 + 64
    assert run_rows(10**9, per_tile, 64) * per_tile <= 64 * 2**20
    assert run_rows(200_000, per_tile, 4) == 25_000
    assert run_rows(500, per_tile, 4) == 16_384


def test_a_plan_is_kept_for_the_same_build_only(index_uri: str) -> None:
    plan = Plan.of(Histogram.of(hash_ids(strings(list("abcdef")))), 4, "digest")
    assert sum(plan.counts) == 6
    assert read_plan(index_uri, "digest") is None
    save_plan(index_uri, plan)
    assert read_plan(index_uri, "digest") == plan
    assert read_plan(index_uri, "another") is None
    storage.write_bytes(f"{index_uri}/plan.json", b"{}")
    assert read_plan(index_uri, "digest") is None


def test_no_more_shards_than_tiles() -> None:
    assert len(Plan.of(Histogram.of(hash_ids(strings(["a", "b"]))), 9, "d").counts) == 2


def test_a_shard_is_made_of_the_slices_that_are_not_empty() -> None:
    cuts = [[0, 3, 5], [0, 0, 4], [0, 2, 2]]
    assert pieces_of(cuts, 0) == (Piece(0, 0, 3), Piece(2, 0, 2))
    assert pieces_of(cuts, 1) == (Piece(0, 3, 5), Piece(1, 0, 4))
