from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geoloc.core import storage
from geoloc.core.errors import ConfigError, CorruptArtifact, QueryError
from geoloc.index.build import list_build
from geoloc.index.build.shard_build import build_shard
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import LIST_CENTRES_NAME, LIST_ROWS_NAME, LIST_STARTS_NAME
from geoloc.index.format.shard import file_entry
from geoloc.index.search import inverted_lists
from geoloc.index.search.region import box
from geoloc.index.search.snapshot import Snapshot

from ..build.test_shard_build import tasks_for
from ..building import Tiles, manifest_of, nearest_by_hand, random_tiles


def clustered(count: int, kinds: int, bits: int = 128, seed: int = 0) -> np.ndarray:
    """Codes about a few centres, an eighth of their bits flipped."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (kinds, bits // 8), dtype=np.uint8)
    noise = np.packbits(rng.random((count, bits)) < 0.125, axis=1)
    return centres[rng.integers(0, kinds, count)] ^ noise


def with_lists(index_uri: str, tiles: Tiles, shards: int, lists: int, listed: int) -> Snapshot:
    """An index of which the first `listed` shards carry lists."""
    parts = [np.flatnonzero(np.arange(len(tiles)) % shards == shard) for shard in range(shards)]
    manifest = manifest_of(index_uri, tiles, parts, "test")
    entries = list(manifest.shards)
    for number in range(listed):
        directory = storage.local_path(storage.join(index_uri, entries[number].directory))
        list_build.write_lists(directory, list_build.make_lists(np.load(directory / "codes.npy"), lists))
        names = (LIST_CENTRES_NAME, LIST_STARTS_NAME, LIST_ROWS_NAME)
        files = [*entries[number].files, *(file_entry(directory / name) for name in names)]
        entries[number] = entries[number].model_copy(update={"files": files, "lists": lists})
    commit(index_uri, manifest.model_copy(update={"shards": entries}), read_head(index_uri))
    return Snapshot.open(index_uri, threads=2)


def test_every_code_lies_in_the_list_of_its_nearest_centre() -> None:
    codes = clustered(3000, 40)
    lists = list_build.make_lists(codes, 50, threads=2)
    assert sorted(lists.rows.tolist()) == list(range(3000))
    for one in range(50):
        rows = lists.rows[lists.starts[one] : lists.starts[one + 1]]
        assert (np.diff(rows.astype(int)) > 0).all()
        apart = np.bitwise_count(codes[rows][:, None] ^ lists.centres[None]).sum(axis=2)
        assert (apart.argmin(axis=1) == one).all()
    again = list_build.make_lists(codes, 50)
    assert all(
        np.array_equal(getattr(lists, name), getattr(again, name)) for name in ("centres", "starts", "rows")
    )


def test_centres_settle_in_the_middle_of_their_codes() -> None:
    codes = clustered(4000, 8)
    lists = list_build.make_lists(codes, 8)
    apart = np.bitwise_count(codes[:, None] ^ lists.centres[None]).sum(axis=2).min(axis=1)
    assert apart.mean() < 0.3 * 128  # codes of no cluster are half of the bits away from any centre
    assert list_build.usual_lists(1_000_000) == 4000


def test_all_lists_give_the_exact_answer_and_few_most_of_it(index_uri: str) -> None:
    tiles = random_tiles(4000, bits=128, dim=None)
    tiles = Tiles(tiles.ids, clustered(4000, 60), None, tiles.lat, tiles.lon)
    snapshot = with_lists(index_uri, tiles, 3, 40, listed=2)  # one shard came without lists
    queries = clustered(30, 60, seed=0)
    region = box(-35.4, 149.1, -35.1, 149.4)
    allowed = region.contains(tiles.lat, tiles.lon)
    for chosen, inside in ((None, None), (region, allowed)):
        matches = snapshot.search(queries, k=10, region=chosen, probes=10_000)
        got = [[(m.distance_bits, m.tile_id) for m in matches.of(query)] for query in range(30)]
        assert got == nearest_by_hand(tiles, queries, 10, inside)
    exact, few = snapshot.search(queries, k=10), snapshot.search(queries, k=10, probes=4)
    assert (few.distance_bits >= exact.distance_bits).all()
    share = (few.distance_bits <= exact.distance_bits[:, -1:]).mean()
    assert share > 0.6
    assert snapshot.search(queries, k=10, probes=1).distance_bits.sum() > exact.distance_bits.sum()


def test_probes_need_lists_and_lists_must_fit(index_uri: str, tmp_path: Path) -> None:
    tiles = random_tiles(50, bits=64, dim=None)
    plain = with_lists(index_uri, tiles, 1, 4, listed=0)
    with pytest.raises(QueryError, match="built without lists"):
        plain.search(tiles.codes[:1], k=1, probes=3)
    with pytest.raises(QueryError, match="probes is 0"):
        plain.search(tiles.codes[:1], k=1, probes=0)
    with pytest.raises(ConfigError, match="lists is 51"):
        list_build.make_lists(tiles.codes, 51)
    list_build.write_lists(tmp_path, list_build.make_lists(tiles.codes, 4))
    with pytest.raises(CorruptArtifact, match="manifest says uint32\\[49\\]"):
        inverted_lists.open_lists(tmp_path, 4, 49, 64)
    (tmp_path / LIST_ROWS_NAME).write_bytes(b"nothing")
    with pytest.raises(CorruptArtifact, match=r"ivf-rows\.npy.* is no NumPy array"):
        inverted_lists.open_lists(tmp_path, 4, 50, 64)


def test_a_shard_is_built_with_its_lists(tmp_path: Path, index_uri: str) -> None:
    (task,) = tasks_for(str(tmp_path / "codes"), index_uri, random_tiles(90, bits=128, dim=8), 2, shards=1)
    entry = build_shard(replace(task, lists=7))
    lists = inverted_lists.open_lists(
        storage.local_path(storage.join(index_uri, entry.directory)), 7, 90, 128
    )
    assert len(lists) == entry.lists == 7
    assert {LIST_CENTRES_NAME, LIST_STARTS_NAME, LIST_ROWS_NAME} < {file.name for file in entry.files}
    assert build_shard(replace(task, lists=7)) == entry


def test_an_open_index_with_lists_keeps_no_file_open(index_uri: str) -> None:
    tiles = random_tiles(60, bits=64, dim=None)
    with_lists(index_uri, tiles, 3, 4, listed=3)
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    snapshot = Snapshot.open(index_uri, threads=1)
    assert len(list(descriptors.iterdir())) == before
    wanted = nearest_by_hand(tiles, tiles.codes[:2], 5)
    for shard in snapshot.shards:  # a mapping outlives the removal of its file
        for name in (LIST_CENTRES_NAME, LIST_STARTS_NAME, LIST_ROWS_NAME):
            (shard.directory / name).unlink()
    found = snapshot.search(tiles.codes[:2], k=5, probes=4)
    assert [[(m.distance_bits, m.tile_id) for m in found.of(query)] for query in range(2)] == wanted
