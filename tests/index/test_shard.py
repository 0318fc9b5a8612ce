from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from geoloc.errors import ArtifactError, CorruptArtifact, StorageError
from geoloc.index.shard import Shard, bounds_of, check_ids, entry_of, write_shard


def tiles(ids: list[str]) -> pa.Table:
    return pa.table(
        {
            "tile_id": ids,
            "lat": np.linspace(-1, 1, len(ids)),
            "lon": np.linspace(10, 20, len(ids)),
            "cell": np.arange(len(ids)),
        }
    )


def written(directory: Path, count: int = 3) -> pa.Table:
    directory.mkdir()
    table = tiles([f"t{number}" for number in range(count)])
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
    write_shard(directory, table, codes, rng.normal(size=(count, 4)).astype(np.float16))
    return table


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    entries = [entry_of(tmp_path / name, "x", written(tmp_path / name)) for name in ("a", "b")]
    assert entries[0] == entries[1]
    assert [file.name for file in entries[0].files] == ["codes.faiss", "embeddings.npy", "tiles.parquet"]
    assert (entries[0].count, entries[0].first_cell, entries[0].last_cell) == (3, 0, 2)


def test_ids_must_ascend_and_differ(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="tile id 'b' appears more than once"):
        check_ids(pa.array(["a", "b", "b", "c"]))
    with pytest.raises(ArtifactError, match="sorted by their ids"):
        write_shard(tmp_path, tiles(["b", "a"]), np.zeros((2, 8), np.uint8), None)
    check_ids(pa.array(["Z", "a", "ä", "中", "😀"]))  # the order of UTF-8 bytes is that of code points


def test_bounds_are_none_without_coordinates() -> None:
    table = tiles(["a", "b"])
    assert bounds_of(table).model_dump() == {"south": -1, "west": 10, "north": 1, "east": 20}
    assert bounds_of(table.set_column(1, "lat", pa.nulls(2, pa.float64()))) is None


def test_files_that_differ_from_the_entry_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "s"
    entry = entry_of(directory, "x", written(directory))
    assert len(Shard(entry, directory, 64, 0)) == 3
    with pytest.raises(CorruptArtifact, match="holds 3 codes of 64 bits, its manifest says 4 of 64"):
        Shard(entry.model_copy(update={"count": 4}), directory, 64, 0)
    with pytest.raises(CorruptArtifact, match="says 3 of 128"):
        Shard(entry, directory, 128, 0)
    faiss.write_index_binary(faiss.IndexBinaryHash(64, 8), str(directory / "codes.faiss"))
    with pytest.raises(CorruptArtifact, match=r"codes\.faiss"):
        Shard(entry, directory, 64, 0)
    (directory / "codes.faiss").write_bytes(b"not an index at all")
    with pytest.raises(CorruptArtifact, match="is no binary index of FAISS"):
        Shard(entry, directory, 64, 0)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 4), np.float32), r"float32\[3, 4\], its manifest says float16 of 3 rows"),
        (np.zeros((2, 4), np.float16), r"float16\[2, 4\]"),
        (np.array([{}, {}, {}], dtype=object), "is no NumPy array"),
    ],
)
def test_embeddings_of_another_kind_are_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    directory = tmp_path / "s"
    entry = entry_of(directory, "x", written(directory))
    np.save(directory / "embeddings.npy", array, allow_pickle=True)
    with pytest.raises(CorruptArtifact, match=words):
        Shard(entry, directory, 64, 0)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"Cannot write a shard into .*missing"):
        write_shard(tmp_path / "missing", tiles(["a"]), np.zeros((1, 8), np.uint8), None)
