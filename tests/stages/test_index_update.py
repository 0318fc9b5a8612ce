"""Adding, replacing, removing, compacting, going back: whatever happened, the index answers like a fresh one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index.building import as_format_2, nearest_by_floats

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CommitConflict, ConfigError, InputError, ModelMismatch
from geoloc.index.format.manifest import ANY_HEADING_NAME, read_manifest
from geoloc.index.maintenance.garbage import collect_garbage
from geoloc.index.maintenance.history import RollbackConfig, history, rollback
from geoloc.index.maintenance.inspect import describe, verify
from geoloc.index.search.region import box
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization.calibration import Calibration, load_calibration, save_calibration
from geoloc.stages import index_update
from geoloc.stages.index_build import IndexConfig, IndexInputs, run
from geoloc.stages.index_update import (
    AddConfig,
    AddInputs,
    CompactConfig,
    RemoveInputs,
    UpdateConfig,
    UpdateResult,
    add,
    compact,
    read_ids,
    remove,
)

from .test_index_build import Gallery, write_model

pytestmark = pytest.mark.usefixtures("ray_local")
QUERIES = np.random.default_rng(77).integers(0, 256, (6, 16), dtype=np.uint8)
FLOATS = np.random.default_rng(78).normal(size=(6, 8)).astype(np.float32)
BOX = (-35.35, 149.05, -35.25, 149.15)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOLOC_CACHE", str(tmp_path / "cache"))


@dataclass
class Row:
    """One tile."""

    code: npt.NDArray[np.uint8]
    embedding: npt.NDArray[np.float16]
    lat: float
    lon: float


Tiles = dict[str, Row]


@dataclass
class Life:
    """An index and, in a dictionary, what should be in it; a state for every snapshot that was ever current."""

    root: Path
    tiles: Tiles
    index: str
    states: dict[str, Tiles] = field(default_factory=dict)
    written: int = 0

    def codes(self, tiles: Tiles) -> str:
        """A codes table of some tiles."""
        self.written += 1
        gallery = Gallery(0)
        gallery.ids = list(tiles)
        gallery.codes = np.stack([tile.code for tile in tiles.values()])
        gallery.embeddings = np.stack([tile.embedding for tile in tiles.values()])
        gallery.lat = np.array([tile.lat for tile in tiles.values()])
        gallery.lon = np.array([tile.lon for tile in tiles.values()])
        return gallery.write(str(self.root / f"codes-{self.written}"), pieces=2)

    def keep(self, result: UpdateResult) -> UpdateResult:
        """Remember what the new snapshot holds."""
        self.states[result.snapshot_id] = dict(self.tiles)
        return result

    def add(self, tiles: Tiles, *, size: int | None = None) -> UpdateResult:
        self.tiles = {**self.tiles, **tiles}
        return self.keep(add(AddConfig(tiles_per_shard=size), AddInputs(codes=self.codes(tiles)), self.index))

    def remove(self, names: Sequence[str]) -> UpdateResult:
        self.tiles = {name: tile for name, tile in self.tiles.items() if name not in names}
        uri = str(self.root / "ids.txt")
        Path(uri).write_text("".join(f"{name}\n" for name in names))
        return self.keep(remove(UpdateConfig(), RemoveInputs(tiles=uri), self.index))

    def compact(self, **settings: object) -> UpdateResult:
        return self.keep(compact(CompactConfig(**settings), self.index))  # type: ignore[arg-type]

    def back(self, snapshot_id: str) -> None:
        rollback(self.index, RollbackConfig(to=snapshot_id))
        self.tiles = dict(self.states[snapshot_id])


def some_tiles(names: Sequence[str], seed: int) -> Tiles:
    """Tiles whose codes are few, so that distances tie."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (7, 16), dtype=np.uint8)
    return {
        name: Row(
            codes[rng.integers(7)],
            rng.normal(size=8).astype(np.float16),
            float(rng.uniform(-35.4, -35.2)),
            float(rng.uniform(149.0, 149.2)),
        )
        for name in names
    }


def new_life(root: Path, count: int = 60, shards: int = 3) -> Life:
    tiles = some_tiles([f"t{number:03d}" for number in range(count)], 1)
    life = Life(root, tiles, str(root / "index"))
    inputs = IndexInputs(codes=life.codes(tiles), model=write_model(str(root / "model")))
    result = run(IndexConfig(shards=shards), inputs, life.index)
    life.states[result.snapshot_id] = dict(tiles)
    return life


def nearest_by_hand(tiles: Tiles, query: int, k: int, *, inside: bool = False) -> list[tuple[int, str]]:
    south, west, north, east = BOX
    pairs = [
        (int(np.bitwise_count(tile.code ^ QUERIES[query]).sum()), name)
        for name, tile in tiles.items()
        if not inside or (south <= tile.lat <= north and west <= tile.lon <= east)
    ]
    return sorted(pairs, key=lambda pair: (pair[0], pair[1].encode()))[:k]


def check(life: Life) -> None:
    """The index equals the dictionary in every kind of answer, and in every byte what its manifest says."""
    snapshot = Snapshot.open(life.index)
    assert snapshot.count == len(life.tiles)
    for k in (1, 10, len(life.tiles) + 5):
        for region in (None, box(*BOX)):
            matches = snapshot.search(QUERIES, k=k, region=region)
            for query in range(len(QUERIES)):
                got = [(match.distance_bits, match.tile_id) for match in matches.of(query)]
                assert got == nearest_by_hand(life.tiles, query, k, inside=region is not None)
    found = nearest_by_floats(snapshot, FLOATS, 5)
    for query in range(len(FLOATS)):
        scored = sorted(
            (-float(np.float32(tile.embedding.astype(float) @ FLOATS[query].astype(float))), name)
            for name, tile in life.tiles.items()
        )
        assert [match.tile_id for match in found.of(query)] == [name for _, name in scored[:5]]
    assert verify(life.index).problems == []
    told = describe(life.index)
    assert told.tiles == len(life.tiles)
    assert told.removed_rows == snapshot.rows - snapshot.count


def shards_of(life: Life) -> set[str]:
    return {shard.entry.directory for shard in Snapshot.open(life.index).shards}


def test_tiles_are_added_replaced_and_removed_without_touching_the_other_shards(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    first = Snapshot.open(life.index)
    before = shards_of(life)
    added = life.add(some_tiles(["t001", "t002", "new-a", "new-b", "ä"], 5))
    assert (added.added, added.replaced, added.tiles, added.parent) == (3, 2, 63, first.snapshot_id)
    assert shards_of(life) > before
    check(life)
    removed = life.remove(["t050", "new-a", "nobody"])
    assert (removed.removed, removed.tiles) == (2, 61)
    assert removed.findings == ["1 of 3 ids are not in the index."]
    check(life)
    # What was open stays as it was; so does the snapshot on storage.
    assert first.search(QUERIES, k=100).counts.tolist() == [60] * 6
    again = Snapshot.open(life.index, first.snapshot_id).search(QUERIES, k=100)
    assert again.tile_ids.tolist() == first.search(QUERIES, k=100).tile_ids.tolist()
    assert not storage.list_files(storage.join(life.index, "snapshots"), suffix="keys.npy"), (
        "runs are removed"
    )


def test_the_same_update_again_changes_nothing(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    more = some_tiles(["a", "t003"], 3)
    codes = life.codes(more)
    one = add(AddConfig(), AddInputs(codes=codes), life.index)
    two = add(AddConfig(), AddInputs(codes=codes), life.index)
    assert (one.reused, two.reused, two.snapshot_id) == (False, True, one.snapshot_id)
    life.tiles |= more
    assert life.remove(["a"]).removed == 1
    assert life.remove(["a"]).reused
    assert life.remove(["nobody", "nothing"]).findings == ["2 of 2 ids are not in the index."]
    # What was added, removed and added again is there once.
    assert add(AddConfig(), AddInputs(codes=codes), life.index).added == 1
    life.tiles |= more
    check(life)


def test_compaction_equals_a_fresh_build(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    life.add(some_tiles([f"n{number}" for number in range(5)], 2))
    life.remove([f"t{number:03d}" for number in range(0, 60, 2)])
    compacted = life.compact()
    assert (compacted.reused, describe(life.index).removed_rows) == (False, 0)
    check(life)
    assert life.compact().reused
    everything = life.compact(everything=True, tiles_per_shard=12)
    assert everything.shards == 3
    check(life)
    fresh = str(tmp_path / "fresh")
    inputs = IndexInputs(codes=life.codes(life.tiles), model=str(tmp_path / "model"))
    wanted = read_manifest(fresh, run(IndexConfig(shards=3), inputs, fresh).snapshot_id)
    got = read_manifest(life.index, everything.snapshot_id)
    assert [shard.files for shard in got.shards] == [shard.files for shard in wanted.shards]


def test_compaction_keeps_the_lists_of_an_approximate_search(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    inputs = IndexInputs(codes=life.codes(life.tiles), model=str(tmp_path / "model"))
    listed = run(IndexConfig(shards=2, lists=4), inputs, life.index, overwrite=True)
    assert read_manifest(life.index, listed.snapshot_id).lists == 4
    life.add(some_tiles(["a", "b"], 2))
    life.compact(everything=True, tiles_per_shard=31)
    manifest = read_manifest(life.index, Snapshot.open(life.index).snapshot_id)
    assert manifest.lists == 4
    assert all(shard.file("ivf-centres.npy") for shard in manifest.shards)
    exact = Snapshot.open(life.index).search(QUERIES, k=9)
    assert (
        Snapshot.open(life.index).search(QUERIES, k=9, probes=4).tile_ids.tolist() == exact.tile_ids.tolist()
    )
    check(life)


def test_all_tiles_can_go_and_others_come(tmp_path: Path) -> None:
    life = new_life(tmp_path, 12)
    life.remove(list(life.tiles))
    assert Snapshot.open(life.index).search(QUERIES, k=3).counts.tolist() == [0] * 6
    assert life.compact().shards == 0
    life.add(some_tiles(["again"], 4))
    check(life)


def test_going_back_and_on(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    first = Snapshot.open(life.index).snapshot_id
    second = life.add(some_tiles(["a", "t001"], 3)).snapshot_id
    life.back(first)
    check(life)
    third = life.remove(["t009"]).snapshot_id
    told = history(life.index)
    assert [one.snapshot_id for one in told.snapshots] == [third, first, second]
    lines = told.text().splitlines()
    assert lines[0].startswith(f"* {third}")
    assert lines[0].split()[4:] == ["remove", "59", "tiles", "3", "shards", "-1"]
    assert lines[2].split()[3:] == ["add", "61", "tiles", "4", "shards", "+1", "~1"]
    # Nothing is taken while it is young; afterwards the line that was left goes.
    assert collect_garbage(life.index, keep=2).files == 0
    assert collect_garbage(life.index, keep=2, min_age_s=0).removed_snapshots == [second]
    check(life)
    assert verify(life.index, first).sound
    with pytest.raises(ArtifactError, match="There is no snapshot"):
        life.back(second)


OPERATIONS = ("add", "add", "replace", "remove", "compact", "everything", "back", "collect")


def random_life(life: Life, seed: int, steps: int) -> list[str]:
    """Random updates, each checked against the dictionary."""
    rng = np.random.default_rng(seed)
    done = []
    for step in range(steps):
        what = OPERATIONS[rng.integers(len(OPERATIONS))]
        names = list(life.tiles)
        picked = [names[row] for row in rng.choice(len(names), min(len(names), 9), replace=False)]
        if what in ("add", "replace"):
            new = [f"s{seed}-{step}-{number}" for number in range(int(rng.integers(1, 12)))]
            life.add(some_tiles([*new, *(picked if what == "replace" else [])], step), size=8)
        elif what == "remove" and len(names) > 12:
            life.remove(picked)
        elif what in ("compact", "everything"):
            life.compact(everything=what == "everything", tiles_per_shard=int(rng.integers(8, 30)))
        elif what == "back":
            there = [one.snapshot_id for one in history(life.index).snapshots]
            life.back(there[rng.integers(len(there))])
        elif what == "collect":
            collect_garbage(life.index, keep=2, min_age_s=0)
        done.append(what)
        check(life)
    return done


def test_a_random_life_answers_like_a_fresh_index(tmp_path: Path) -> None:
    assert len(random_life(new_life(tmp_path, 30, 2), seed=4, steps=6)) == 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_random_lives_answer_like_fresh_indexes(tmp_path: Path) -> None:
    done: list[str] = []
    for seed in range(10):
        done += random_life(new_life(tmp_path / str(seed), 40, 3), seed=seed, steps=12)
    assert {what: done.count(what) for what in OPERATIONS}.keys() == set(OPERATIONS)


def test_another_writer_is_built_upon_or_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = new_life(tmp_path)
    original, others = index_update._carry_calibration, [["t001"], ["t002"]]

    def overtaken(index_uri, parent, base, manifest):  # type: ignore[no-untyped-def]
        if others and base.fingerprint != "x":
            names = others.pop()
            Path(life.root / "other.txt").write_text("\n".join(names))
            with monkeypatch.context() as patch:
                patch.setattr(index_update, "_carry_calibration", original)
                remove(UpdateConfig(), RemoveInputs(tiles=str(life.root / "other.txt")), life.index)
            life.tiles = {name: tile for name, tile in life.tiles.items() if name not in names}
        return original(index_uri, parent, base, manifest)

    monkeypatch.setattr(index_update, "_carry_calibration", overtaken)
    codes = life.codes(some_tiles(["t003", "new"], 8))
    with pytest.raises(CommitConflict, match=r"Another builder made .* while this one worked on"):
        add(AddConfig(retries=0), AddInputs(codes=codes), life.index)
    check(life)
    result = add(AddConfig(retries=1), AddInputs(codes=codes), life.index)
    assert (result.added, result.replaced) == (1, 1)
    life.tiles |= some_tiles(["t003", "new"], 8)
    assert not others
    check(life)


def test_a_compaction_that_was_overtaken_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = new_life(tmp_path)
    original = index_update.build_shards

    def overtaken(build):  # type: ignore[no-untyped-def]
        made = original(build)
        life.remove(["t010"])
        return made

    monkeypatch.setattr(index_update, "build_shards", overtaken)
    with pytest.raises(CommitConflict, match=r"changed the shards of .* that were being compacted"):
        life.compact(everything=True)
    check(life)


def test_the_calibration_is_carried_over_and_says_so(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    first = Snapshot.open(life.index).snapshot_id
    save_calibration(
        life.index,
        Calibration(
            snapshot_id=first, model_id="m", rerank=0, bits=64, tiles=40, spacing_m=None, query_kinds={}
        ),
    )
    added = life.add(some_tiles(["a", "b", "c"], 3))
    assert added.findings[0].startswith(
        f"The calibration of {first} was carried over; 5.0% of the tiles changed"
    )
    removed = life.remove(["a"])
    fitted = load_calibration(life.index, removed.snapshot_id)
    assert fitted is not None
    assert (fitted.snapshot_id, fitted.origin) == (removed.snapshot_id, first)


def test_what_does_not_fit_the_index_is_refused(tmp_path: Path) -> None:
    life = new_life(tmp_path)
    cases = [
        (
            Gallery(5).write(str(tmp_path / "m"), model_id="geoloc-other"),
            "were made by the model",
            ModelMismatch,
        ),
        (
            Gallery(5, located=False).write(str(tmp_path / "n")),
            "have coordinates, the new ones have none",
            InputError,
        ),
        (
            Gallery(5, dim=4).write(str(tmp_path / "e")),
            "embeddings of dimension 4, .* keeps 8",
            ModelMismatch,
        ),
        (str(tmp_path / "nothing"), "There is no table", ArtifactError),
    ]
    before = Snapshot.open(life.index).snapshot_id
    for codes, words, kind in cases:
        with pytest.raises(kind, match=words):
            add(AddConfig(), AddInputs(codes=codes), life.index)
    with pytest.raises(ArtifactError, match="no finished index"):
        add(AddConfig(), AddInputs(codes=life.codes(life.tiles)), str(tmp_path / "none"))
    assert Snapshot.open(life.index).snapshot_id == before


def test_ids_come_from_text_parquet_and_tables(tmp_path: Path) -> None:
    text, parquet = tmp_path / "ids.txt", tmp_path / "ids.parquet"
    text.write_text("a\n\n  b \n")
    pq.write_table(pa.table({"tile_id": ["a", "b"]}), parquet)
    assert read_ids(str(text)).to_pylist() == read_ids(str(parquet)).to_pylist() == ["a", "b"]
    assert sorted(read_ids(Gallery(3).write(str(tmp_path / "codes"))).to_pylist()) == [
        "t000000",
        "t000001",
        "t000002",
    ]
    text.write_text("\n")
    with pytest.raises(InputError, match="names no tile; give one id a line"):
        read_ids(str(text))
    pq.write_table(pa.table({"name": ["a"]}), parquet)
    with pytest.raises(InputError, match="no Parquet file with a column tile_id"):
        read_ids(str(parquet))


def coded_model(root: Path) -> str:
    """A model directory whose recipe keeps four columns of two channels, as the embeddings here are laid out."""
    uri = write_model(str(root / "turning"))
    text = "name: turning\nmodel: {aggregation: {kind: column_attention, columns: 4, channels: 2}}\n"
    storage.write_bytes(storage.join(uri, "recipe.yaml"), text.encode())
    card = json.loads(storage.read_text(storage.join(uri, "model.json")))
    card["recipe_sha256"] = storage.sha256_bytes(text.encode())
    storage.write_bytes(storage.join(uri, "model.json"), json.dumps(card).encode())
    return uri


def test_codes_for_any_heading_go_along_with_their_tiles(tmp_path: Path) -> None:
    tiles = some_tiles([f"t{number:03d}" for number in range(40)], 1)
    life = Life(tmp_path, tiles, str(tmp_path / "index"))
    model, settings = coded_model(tmp_path), IndexConfig(shards=2, any_heading_bits=32)
    first = run(settings, IndexInputs(codes=life.codes(tiles), model=model), life.index)
    life.states[first.snapshot_id] = dict(tiles)
    assert Snapshot.open(life.index).any_heading_bits == 32
    life.add(some_tiles(["t001", "new-1", "new-2"], 2))
    life.remove(["t002", "t003"])
    snapshot = Snapshot.open(life.index)
    assert snapshot.any_heading_bits == 32
    asked = AnyHeadingCoder(32, 4).codes(FLOATS)

    def found(snapshot: Snapshot) -> list[list[str]]:
        matches = snapshot.search_scored(
            QUERIES[:, None],
            lambda query, stored: stored.astype(np.float32) @ FLOATS[query],
            k=4,
            shortlist=10,
            any_heading=asked,
        )
        return [list(row) for row in matches.tile_ids]

    fresh = str(tmp_path / "fresh")
    run(settings, IndexInputs(codes=life.codes(life.tiles), model=model), fresh)
    assert found(snapshot) == found(Snapshot.open(fresh))
    life.compact(everything=True, tiles_per_shard=21)
    assert found(Snapshot.open(life.index)) == found(Snapshot.open(fresh))
    files = [
        {file.name: file.sha256 for file in shard.files}
        for shard in Snapshot.open(life.index).manifest.shards
    ]
    wanted = [
        {file.name: file.sha256 for file in shard.files} for shard in Snapshot.open(fresh).manifest.shards
    ]
    assert files == wanted
    assert all(ANY_HEADING_NAME in names for names in files)


def test_codes_for_any_heading_need_embeddings_that_turn(tmp_path: Path) -> None:
    tiles = some_tiles(["a", "b", "c"], 3)
    life = Life(tmp_path, tiles, str(tmp_path / "index"))
    inputs = IndexInputs(codes=life.codes(tiles), model=coded_model(tmp_path))
    with pytest.raises(ConfigError, match="keep no embeddings"):
        run(IndexConfig(any_heading_bits=32, keep_embeddings=False), inputs, life.index)
    text = "name: pooled\nmodel: {aggregation: {kind: gap}}\n"
    storage.write_bytes(storage.join(inputs.model, "recipe.yaml"), text.encode())
    with pytest.raises(ConfigError, match="has 1 azimuth columns that turn"):
        run(IndexConfig(any_heading_bits=32), inputs, life.index)


def test_an_index_of_format_2_is_read_extended_and_compacted(tmp_path: Path) -> None:
    tiles = some_tiles([f"t{number:03d}" for number in range(40)], 1)
    life = Life(tmp_path, tiles, str(tmp_path / "index"))
    inputs = IndexInputs(codes=life.codes(tiles), model=coded_model(tmp_path))
    settings = IndexConfig(shards=2, lists=4, any_heading_bits=32)
    run(settings, inputs, life.index)
    old = as_format_2(life.index)
    life.states[old] = dict(tiles)
    again = run(settings, inputs, life.index)
    assert (again.reused, again.snapshot_id) == (True, old)
    assert describe(life.index).format_version == 2
    exact = Snapshot.open(life.index).search(QUERIES, k=9)
    assert Snapshot.open(life.index).search(QUERIES, k=9, probes=4).rows.tolist() == exact.rows.tolist()
    check(life)
    life.add(some_tiles(["t001", "new"], 2))
    life.remove(["t002"])
    now = read_manifest(life.index, Snapshot.open(life.index).snapshot_id)
    assert (now.format_version, now.lists, now.any_heading_bits) == (4, 4, 32)
    assert [shard.lists for shard in now.shards] == [4, 4, 0]
    check(life)
    life.compact(everything=True, tiles_per_shard=20)
    now = read_manifest(life.index, Snapshot.open(life.index).snapshot_id)
    assert {(shard.lists, shard.any_heading_bits) for shard in now.shards} == {(4, 32)}
    check(life)
    life.back(old)
    assert describe(life.index).format_version == 2
    check(life)
