from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import geodesy, storage
from geoloc.core.errors import CorruptArtifact, InputError, StorageError
from geoloc.core.part_table import Part, TablePlan
from geoloc.index.build import shard_build as building
from geoloc.index.build.partition_keys import Histogram, Partition
from geoloc.index.build.shard_build import ShardTask, build_shard
from geoloc.index.build.shard_plan import Plan, pieces_of
from geoloc.index.build.sorted_runs import RunTask, TablePart, code_matrix, cut_run, write_run
from geoloc.index.format.shard import Shard

from ..building import Tiles, random_tiles


def codes_table(uri: str, tiles: Tiles, pieces: int, model_id: str = "m") -> tuple[Part, ...]:
    """Parts of a codes table, rows in their own order."""
    made = []
    for number, rows in enumerate(np.array_split(np.arange(len(tiles)), pieces)):
        some = tiles.rows(rows)
        located = some.lat is not None and some.lon is not None
        columns = {
            "tile_id": some.ids,
            "lat": pa.array(some.lat if located else [None] * len(some), pa.float64()),
            "lon": pa.array(some.lon if located else [None] * len(some), pa.float64()),
            "code": pa.array([code.tobytes() for code in some.codes], pa.binary(tiles.codes.shape[1])),
            "model_id": [model_id] * len(some),
        }
        if some.embeddings is not None:
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(
                some.embeddings.ravel(), some.embeddings.shape[1]
            )
        made.append(TablePlan(uri, "test").write_part(number, pa.table(columns)))
    return tuple(made)


def tasks_for(
    codes_uri: str,
    index_uri: str,
    tiles: Tiles,
    pieces: int,
    *,
    bits: int = 128,
    shards: int = 3,
    partition: Partition = "space",
) -> list[ShardTask]:
    """What the pipeline does with Ray, one after the other."""
    work = storage.join(index_uri, "snapshots/build-x/runs")
    runs, histograms = zip(
        *(
            write_run(RunTask((TablePart(codes_uri, part, "m"),), number, work, bits, 8, partition, "d"))
            for number, part in enumerate(codes_table(codes_uri, tiles, pieces))
        ),
        strict=True,
    )
    plan = Plan.of(Histogram.merged(histograms), shards, "d")
    cuts = [cut_run(work, run.number, plan.borders) for run in runs]
    return [
        ShardTask(index_uri, "build-x", work, number, "d", pieces_of(cuts, number), bits, 8)
        for number in range(len(plan.counts))
    ]


@pytest.fixture
def tasks(tmp_path: Path, index_uri: str) -> list[ShardTask]:
    return tasks_for(str(tmp_path / "codes"), index_uri, random_tiles(120, bits=128, dim=8), 4)


def test_a_shard_holds_the_rows_of_its_plan_in_the_order_of_ids(
    tasks: list[ShardTask], index_uri: str
) -> None:
    tiles = random_tiles(120, bits=128, dim=8)
    row_of = {name: row for row, name in enumerate(tiles.ids)}
    seen: list[int] = []
    cells = []
    for task in tasks:
        entry = build_shard(task)
        assert entry.count == task.count == 40
        shard = Shard(entry, Path(index_uri, entry.directory), 128, 0)
        ids, lat, lon = shard.tiles()
        rows = [row_of[name] for name in ids.to_pylist()]
        np.testing.assert_array_equal(shard.codes, tiles.codes[rows])
        np.testing.assert_array_equal(shard.embeddings, tiles.embeddings[rows])
        np.testing.assert_array_equal(np.stack([lat, lon]), np.stack([tiles.lat[rows], tiles.lon[rows]]))
        assert ids.to_pylist() == sorted(ids.to_pylist())
        cells.append(sorted(geodesy.cells(lat, lon).tolist()))
        seen += rows
    assert sorted(seen) == list(range(120))
    # Shards are pieces of the space-filling curve.
    assert all(one[-1] <= other[0] for one, other in itertools.pairwise(cells))
    assert not [path for path in Path(index_uri).rglob("*") if path.name.startswith(storage.TEMPORARY_PREFIX)]


@pytest.mark.parametrize("partition", ["space", "even"])
def test_the_bytes_of_a_shard_do_not_depend_on_how_the_table_is_cut(
    tmp_path: Path, partition: Partition
) -> None:
    tiles = random_tiles(120, bits=128, dim=8)
    shuffled = tiles.rows(np.random.default_rng(1).permutation(120))
    entries = []
    for pieces, table in ((1, tiles), (5, shuffled)):
        where = tmp_path / str(pieces)
        tasks = tasks_for(str(where / "codes"), str(where / "i"), table, pieces, partition=partition)
        entries.append([build_shard(task) for task in tasks])
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


@pytest.mark.parametrize(
    "damage", ["codes.npy", "tiles.arrow", "space.arrow", "embeddings.npy", "receipt", "nonsense"]
)
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


def test_a_receipt_of_another_build_does_not_count(tasks: list[ShardTask], index_uri: str) -> None:
    build_shard(tasks[0])
    other = ShardTask(**{**tasks[0].__dict__, "pieces": tasks[1].pieces, "digest": "another"})
    assert Shard(build_shard(other), Path(index_uri, other.directory), 128, 0).entry.count == other.count


def test_what_does_not_read_back_the_same_is_refused(
    tasks: list[ShardTask], s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = storage.copy_file

    def bad_disk(source: str, target: str) -> None:
        path = storage.local_path(source)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        original(source, target)

    monkeypatch.setattr(storage, "copy_file", bad_disk)
    with pytest.raises(CorruptArtifact, match="does not match its checksum right after it was written"):
        build_shard(ShardTask(**{**tasks[0].__dict__, "index_uri": s3_uri}))


def test_a_full_disk_is_an_error_not_a_signal(
    tasks: list[ShardTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int, _start: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StorageError, match=r"Cannot write a shard into .*No space left on device"):
            build_shard(tasks[0])
    assert build_shard(tasks[0]).count == 40


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path, index_uri: str) -> None:
    tiles = random_tiles(5, bits=128, dim=8)
    tiles.embeddings[3, 2] = np.nan
    with pytest.raises(InputError, match=f"embedding of the tile '{tiles.ids[3]}' is not finite"):
        tasks_for(str(tmp_path / "codes"), index_uri, tiles, 1)


def test_codes_of_a_slice_are_its_own() -> None:
    column = pa.chunked_array([pa.array([b"ab", b"cd", b"ef"], pa.binary(2)).slice(1)])
    assert code_matrix(column).tobytes() == b"cdef"
