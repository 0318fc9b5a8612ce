from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import geodesy
from geoloc.core.errors import ArtifactError, CorruptArtifact, StorageError
from geoloc.index.format.manifest import LIVE_NAME, Marks, ShardEntry
from geoloc.index.format.shard import (
    SPACE_SCHEMA,
    TILES_SCHEMA,
    Shard,
    bounds_of,
    check_ids,
    entry_of,
    file_entry,
    write_marks,
    write_shard,
)


def tiles(ids: list[str]) -> pa.Table:
    return pa.table(
        {"tile_id": ids, "lat": np.linspace(-1, 1, len(ids)), "lon": np.linspace(10, 20, len(ids))}
    )


def written(directory: Path, count: int = 3) -> ShardEntry:
    directory.mkdir()
    table = tiles([f"t{number:08d}" for number in range(count)])
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
    write_shard(directory, table, codes, rng.normal(size=(count, 4)).astype(np.float16))
    return entry_of(directory, "x", table)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    entries = [written(tmp_path / name) for name in ("a", "b")]
    assert entries[0] == entries[1]
    names = [file.name for file in entries[0].files]
    assert names == ["codes.npy", "embeddings.npy", "space.arrow", "tiles.arrow"]
    cells = geodesy.cells([-1, 0, 1], [10, 15, 20])
    assert (entries[0].count, entries[0].live) == (3, 3)
    assert (entries[0].first_cell, entries[0].last_cell) == (cells.min(), cells.max())


def test_ids_must_ascend_and_differ(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="tile id 'b' appears more than once"):
        check_ids(pa.array(["a", "b", "b", "c"]))
    with pytest.raises(ArtifactError, match="sorted by their ids"):
        write_shard(tmp_path, tiles(["b", "a"]), np.zeros((2, 8), np.uint8), None)
    check_ids(pa.array(["Z", "a", "ä", "中", "😀"]))  # the order of UTF-8 bytes is that of code points


def test_bounds_hold_all_points_and_are_none_without_coordinates(tmp_path: Path) -> None:
    box = bounds_of(np.array([-1.0, 1.0]), np.array([20.0, 10.0]))
    assert box.model_dump() == {"south": -1, "west": 10, "north": 1, "east": 20}
    table = pa.table({"tile_id": ["a"], "lat": pa.nulls(1, pa.float64()), "lon": pa.nulls(1, pa.float64())})
    write_shard(tmp_path, table, np.zeros((1, 8), np.uint8), None)
    entry = entry_of(tmp_path, "x", table)
    assert (entry.bounds, entry.first_cell, entry.file("space.arrow")) == (None, None, None)
    shard = Shard(entry, tmp_path, 64, 0)
    assert shard.space is None
    assert np.isnan([shard.lat[0], shard.lon[0]]).all()


def test_the_rows_lie_along_the_curve_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    lat, lon = rng.uniform(-35.01, -35, 500), rng.uniform(149, 149.01, 500)
    table = pa.table({"tile_id": [f"t{row:04d}" for row in range(500)], "lat": lat, "lon": lon})
    write_shard(tmp_path, table, np.zeros((500, 8), np.uint8), None)
    space = Shard(entry_of(tmp_path, "x", table), tmp_path, 64, 0).space
    assert space is not None
    cells = geodesy.cells(lat, lon)
    np.testing.assert_array_equal(space.cells, cells[space.rows])
    assert sorted(space.rows.tolist()) == list(range(500))
    assert (np.diff(space.cells) >= 0).all()
    low, high = np.sort(cells)[[100, 300]]
    inside = np.flatnonzero((cells >= low) & (cells <= high))
    assert sorted(space.between(int(low), int(high)).tolist()) == inside.tolist()


def test_marks_say_which_rows_are_left(tmp_path: Path) -> None:
    entry = written(tmp_path / "s")
    live = np.array([True, False, True])
    marks = write_marks(str(tmp_path), live)
    assert write_marks(str(tmp_path), live) == marks
    marked = entry.model_copy(update={"marks": marks})
    assert (marked.count, marked.live) == (3, 2)
    shard = Shard(marked, tmp_path / "s", 64, 0, tmp_path / marks.directory)
    assert shard.live_rows is not None
    assert shard.live_rows.tolist() == live.tolist()
    with pytest.raises(ValueError, match="4 of 3 rows cannot be left"):
        ShardEntry(**{**entry.model_dump(), "marks": Marks(**{**marks.model_dump(), "live": 4})})
    np.save(tmp_path / marks.directory / LIVE_NAME, np.ones(4, bool))
    with pytest.raises(CorruptArtifact, match=r"live\.npy' holds bool\[4\]"):
        Shard(marked, tmp_path / "s", 64, 0, tmp_path / marks.directory)


def test_files_beside_the_format_s_own_are_found(tmp_path: Path) -> None:
    written(tmp_path / "s")
    (tmp_path / "s" / "lists.npy").write_bytes(b"more")
    entry = entry_of(tmp_path / "s", "x", tiles([f"t{number:08d}" for number in range(3)]))
    assert entry.file("lists.npy") == file_entry(tmp_path / "s" / "lists.npy")
    assert entry.file("other.npy") is None


def test_files_that_differ_from_the_entry_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    entry = written(directory)
    assert len(Shard(entry, directory, 64, 0)) == 3
    with pytest.raises(
        CorruptArtifact, match=r"holds uint8\[3, 8\] in .* bytes, its manifest says uint8\[4, 8\]"
    ):
        Shard(entry.model_copy(update={"count": 4}), directory, 64, 0)
    with pytest.raises(CorruptArtifact, match=r"says uint8\[3, 16\]"):
        Shard(entry, directory, 128, 0)
    good = (directory / "codes.npy").read_bytes()
    (directory / "codes.npy").write_bytes(good[:-1])
    with pytest.raises(CorruptArtifact, match=r"codes\.npy' holds uint8\[3, 8\] in 151 bytes"):
        Shard(entry, directory, 64, 0)
    (directory / "codes.npy").write_bytes(b"not an array at all")
    with pytest.raises(CorruptArtifact, match="is no NumPy array"):
        Shard(entry, directory, 64, 0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 4), np.float32), r"float32\[3, 4\] in .*says float16\[3, 'D'\]"),
        (np.zeros((2, 4), np.float16), r"float16\[2, 4\]"),
        (np.zeros((3, 4), np.float16, order="F"), r"float16\[3, 4\]"),
        (np.array([{}, {}, {}], dtype=object), r"object\[3\]"),
    ],
)
def test_embeddings_of_another_kind_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    directory = tmp_path / "s"
    entry = written(directory)
    np.save(directory / "embeddings.npy", array, allow_pickle=True)
    with pytest.raises(CorruptArtifact, match=words):
        Shard(entry, directory, 64, 0)


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        (
            [pa.record_batch([["a"], [1.0], [2.0]], schema=TILES_SCHEMA)],
            r"holds 1 rows of \['tile_id', 'lat', 'lon'\], its manifest says 3",
        ),
        ([pa.record_batch([["a"], [1.0], [2.0]], schema=TILES_SCHEMA)] * 3, "holds several batches"),
        ([pa.record_batch([[1] * 3, [2] * 3], schema=SPACE_SCHEMA)], r"3 rows of \['cell', 'row'\]"),
    ],
)
def test_tiles_of_another_shape_are_refused(
    tmp_path: Path, batches: list[pa.RecordBatch], words: str
) -> None:
    directory = tmp_path / "s"
    entry = written(directory)
    path = str(directory / "tiles.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    with pytest.raises(CorruptArtifact, match=words):
        Shard(entry, directory, 64, 0)
    (directory / "tiles.arrow").write_bytes(b"ARROW1 or not")
    with pytest.raises(CorruptArtifact, match="is no Arrow file"):
        Shard(entry, directory, 64, 0)
    (directory / "tiles.arrow").unlink()
    with pytest.raises(StorageError, match=r"Cannot map .*tiles\.arrow"):
        Shard(entry, directory, 64, 0)


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_opening_copies_nothing_and_keeps_no_file_open(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    entry = written(directory, 300_000)
    Shard(entry, directory, 64, 0)
    before, files = private_bytes(), len(list(Path("/proc/self/fd").iterdir()))
    start = time.perf_counter()
    shards = [Shard(entry, directory, 64, 0) for _ in range(100)]
    seconds = (time.perf_counter() - start) / 100
    assert shards[7].tile_ids[299_999].as_py() == "t00299999"
    assert shards[7].lat[-1] == 1.0
    assert private_bytes() - before < 30 * 2**20 < 100 * sum(file.bytes for file in entry.files) / 50
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert seconds < 0.05, "opening is mapping"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot write a shard into .*missing"):
        write_shard(tmp_path / "missing", tiles(["a"]), np.zeros((1, 8), np.uint8), None)
