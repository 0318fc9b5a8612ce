from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc import geodesy, parts, storage
from geoloc.errors import CorruptArtifact, InputError
from geoloc.index import build as building
from geoloc.index.build import ShardTask, build_shard, code_matrix
from geoloc.index.plan import plan_shards
from geoloc.index.shard import Shard

from .building import Tiles, random_tiles


def codes_table(uri: str, tiles: Tiles, pieces: int) -> tuple[parts.Part, ...]:
    """Parts of a codes table, rows in their own order."""
    made = []
    for number, rows in enumerate(np.array_split(np.arange(len(tiles)), pieces)):
        some = tiles.rows(rows)
        columns = {
            "tile_id": some.ids,
            "lat": some.lat,
            "lon": some.lon,
            "cell": geodesy.cells(some.lat, some.lon),
            "code": pa.array([code.tobytes() for code in some.codes], pa.binary(tiles.codes.shape[1])),
            "embedding": pa.FixedSizeListArray.from_arrays(
                some.embeddings.ravel(), tiles.embeddings.shape[1]
            ),
        }
        made.append(parts.write_part(uri, number, pa.table(columns)))
    return tuple(made)


@pytest.fixture
def tasks(tmp_path: Path, index_uri: str) -> list[ShardTask]:
    tiles = random_tiles(120, bits=128, dim=8)
    return tasks_for(str(tmp_path / "codes"), index_uri, tiles, 4)


def tasks_for(codes_uri: str, index_uri: str, tiles: Tiles, pieces: int, bits: int = 128) -> list[ShardTask]:
    made = codes_table(codes_uri, tiles, pieces)
    scans = [parts.read_part(codes_uri, part, ["tile_id", "cell"]) for part in made]
    plans = plan_shards(scans, 3, "space")
    return [ShardTask(codes_uri, made, plan, index_uri, "build-x", bits, 8) for plan in plans]


def test_a_shard_holds_the_rows_of_its_plan_in_the_order_of_ids(
    tasks: list[ShardTask], index_uri: str
) -> None:
    tiles = random_tiles(120, bits=128, dim=8)
    row_of = {name: row for row, name in enumerate(tiles.ids)}
    seen = []
    for task in tasks:
        entry = build_shard(task)
        shard = Shard(entry, Path(index_uri, entry.directory), 128, 0)
        ids, lat, lon = shard.tiles()
        rows = [row_of[name] for name in ids.to_pylist()]
        np.testing.assert_array_equal(shard.codes, tiles.codes[rows])
        np.testing.assert_array_equal(shard.embeddings, tiles.embeddings[rows])
        np.testing.assert_array_equal(np.stack([lat, lon]), np.stack([tiles.lat[rows], tiles.lon[rows]]))
        assert ids.to_pylist() == sorted(ids.to_pylist())
        seen += rows
    assert sorted(seen) == list(range(120))
    assert not [path for path in Path(index_uri).iterdir() if path.name.startswith(storage.TEMPORARY_PREFIX)]


def test_the_bytes_of_a_shard_do_not_depend_on_how_the_table_is_cut(tmp_path: Path) -> None:
    tiles = random_tiles(120, bits=128, dim=8)
    entries = []
    for pieces in (1, 5):
        where = tmp_path / str(pieces)
        entries.append(
            [build_shard(task) for task in tasks_for(str(where / "codes"), str(where / "i"), tiles, pieces)]
        )
    assert entries[0] == entries[1]


def test_shorter_codes_are_the_first_bits(tmp_path: Path, index_uri: str) -> None:
    tiles = random_tiles(30, bits=128, dim=8)
    task = tasks_for(str(tmp_path / "codes"), index_uri, tiles, 1, bits=64)[0]
    shard = Shard(build_shard(task), Path(index_uri, task.directory), 64, 0)
    rows = [tiles.ids.index(name) for name in shard.tiles()[0].to_pylist()]
    np.testing.assert_array_equal(shard.codes, tiles.codes[rows, :8])


def test_a_finished_shard_is_not_made_again(tasks: list[ShardTask], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = build_shard(tasks[0])
    monkeypatch.setattr(building, "_write", lambda *_: pytest.fail("the shard was made again"))
    assert build_shard(tasks[0]) == entry


@pytest.mark.parametrize("damage", ["codes.npy", "tiles.arrow", "embeddings.npy", "receipt", "nonsense"])
def test_a_shard_that_is_unfinished_or_damaged_is_made_again(
    tasks: list[ShardTask], index_uri: str, damage: str
) -> None:
    entry = build_shard(tasks[0])
    directory = storage.join(index_uri, tasks[0].directory)
    if damage == "receipt":
        storage.delete(f"{directory}.json")
    elif damage == "nonsense":
        storage.write_bytes(f"{directory}.json", b"{}")
    else:
        storage.write_bytes(storage.join(directory, damage), b"x")
    assert build_shard(tasks[0]) == entry
    for file in entry.files:
        assert storage.sha256_file(storage.join(directory, file.name)) == file.sha256


def test_a_receipt_of_another_plan_does_not_count(tasks: list[ShardTask], index_uri: str) -> None:
    build_shard(tasks[0])
    other = ShardTask(**{**tasks[0].__dict__, "bits": 64})
    entry = build_shard(other)
    assert Shard(entry, Path(index_uri, entry.directory), 64, 0).codes.shape[1] == 8


def test_what_does_not_read_back_the_same_is_refused(
    tasks: list[ShardTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = storage.copy_file

    def bad_disk(source: str, target: str) -> None:
        original(source, target)
        path = storage.local_path(target)
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(storage, "copy_file", bad_disk)
    with pytest.raises(CorruptArtifact, match="does not match its checksum right after it was written"):
        build_shard(tasks[0])


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path, index_uri: str) -> None:
    tiles = random_tiles(5, bits=128, dim=8)
    tiles.embeddings[3, 2] = np.nan
    tasks = tasks_for(str(tmp_path / "codes"), index_uri, tiles, 1)
    with pytest.raises(InputError, match=f"embedding of the tile '{tiles.ids[3]}' is not finite"):
        _ = [build_shard(task) for task in tasks]


def test_codes_of_a_slice_are_its_own() -> None:
    column = pa.chunked_array([pa.array([b"ab", b"cd", b"ef"], pa.binary(2)).slice(1)])
    assert code_matrix(column).tobytes() == b"cdef"
