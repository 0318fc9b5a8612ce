from __future__ import annotations

import numpy as np
import pytest

from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.shard import write_marks
from geoloc.index.search import scan
from geoloc.index.search.kernels.popcount import PopcountKernel
from geoloc.index.search.kernels.scan_kernel import FaissKernel, Kernel, NumpyKernel
from geoloc.index.search.region import box, circle, polygon
from geoloc.index.search.snapshot import Snapshot

from ..building import Tiles, manifest_of, nearest_by_floats, nearest_by_hand, random_tiles

REGIONS = {
    "nothing": None,
    "circle": circle(-35.2, 149.2, 9000),
    "box": box(-35.3, 149.1, -35.1, 149.4),
    "polygon": polygon(
        [(-35.4, 149.05), (-35.05, 149.2), (-35.4, 149.45)],
        [[(-35.3, 149.15), (-35.2, 149.2), (-35.3, 149.25)]],
    ),
    "everywhere": box(-36, 148, -34, 150),
    "elsewhere": circle(10, 10, 1000),
}


def with_removed(index_uri: str, tiles: Tiles, removed: np.ndarray, shards: int) -> None:
    """Commit an index some of whose rows are marked as removed; the first shard loses none."""
    parts = [np.flatnonzero(np.arange(len(tiles)) % shards == shard) for shard in range(shards)]
    removed[parts[0]] = False
    manifest = manifest_of(index_uri, tiles, parts, "test")
    entries = list(manifest.shards)
    for number in range(1, shards):
        rows = sorted(parts[number], key=lambda row: tiles.ids[row])
        marks = write_marks(index_uri, ~removed[rows])
        entries[number] = entries[number].model_copy(update={"marks": marks})
    changed = {"shards": entries, "count": int((~removed).sum())}
    commit(index_uri, manifest.model_copy(update=changed), read_head(index_uri))


@pytest.mark.parametrize("kernel", [PopcountKernel(), FaissKernel(), NumpyKernel()], ids=lambda one: one.name)
@pytest.mark.parametrize("gathers", [True, False])
def test_removed_tiles_and_those_outside_are_never_found(
    index_uri: str, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, gathers: bool
) -> None:
    monkeypatch.setattr(scan, "_GATHER_ROWS", 64)
    monkeypatch.setattr(scan, "_GATHER_COST", 0 if gathers else 1e9)
    tiles = random_tiles(900, bits=64, dim=8, distinct=70)
    removed = np.random.default_rng(1).random(900) < 0.3
    removed[np.arange(900) % 4 == 3] = True  # nothing is left of the last shard
    with_removed(index_uri, tiles, removed, 4)
    snapshot = Snapshot.open(index_uri, kernel=kernel, threads=2)
    rng = np.random.default_rng(2)
    codes, floats = rng.integers(0, 256, (3, 8), dtype=np.uint8), rng.normal(size=(3, 8)).astype(np.float32)
    for region in REGIONS.values():
        inside = np.ones(900, bool) if region is None else region.contains(tiles.lat, tiles.lon)
        allowed = inside & ~removed
        for k in (1, 12, 700):
            matches = snapshot.search(codes, k=k, region=region)
            got = [[(m.distance_bits, m.tile_id) for m in matches.of(query)] for query in range(3)]
            assert got == nearest_by_hand(tiles, codes, k, allowed)
        exact = nearest_by_floats(snapshot, floats, 900, region)
        assert set(exact.tile_ids[0].tolist()) - {None} == {tiles.ids[row] for row in np.flatnonzero(allowed)}


def test_a_region_reads_only_positions_about_it(index_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = random_tiles(20_000, bits=64, dim=None)
    manifest = manifest_of(index_uri, tiles, [np.arange(20_000)], "test")
    commit(index_uri, manifest, read_head(index_uri))
    snapshot = Snapshot.open(index_uri)
    asked = []
    region = circle(-35.2, 149.2, 2000)
    contains = type(region).contains
    monkeypatch.setattr(
        type(region), "contains", lambda *given: asked.append(len(given[1])) or contains(*given)
    )
    (selection,) = scan.select(snapshot.shards, region)
    assert 20 < len(selection) <= sum(asked) < 2 * len(selection)


def test_spans_cover_every_row_once_and_are_not_too_small() -> None:
    class Rows:
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

    for counts, threads in (([1], 8), ([3, 40_000, 0, 5_000_000], 3), ([20_000_000], 2), ([100_000] * 7, 16)):
        selections = [scan.Selection(Rows(count), count) for count in counts]  # type: ignore[arg-type]
        spans = scan._spans(selections, threads)
        for number, count in enumerate(counts):
            mine = [(start, stop) for chosen, (_, start, stop) in spans if chosen == number]
            assert [start for start, _ in mine] == [0, *(stop for _, stop in mine)][: len(mine)]
            assert (mine[-1][1] if mine else 0) == count
        assert len(spans) <= len(counts) + 4 * threads
