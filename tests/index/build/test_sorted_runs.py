from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, InputError, ModelMismatch
from geoloc.index.build import sorted_runs as running
from geoloc.index.build.partition_keys import KEY_BITS, hash_ids
from geoloc.index.build.shard_plan import slices_of
from geoloc.index.build.sorted_runs import (
    RunTask,
    TablePart,
    check_repeats,
    cut_run,
    ids_with_hashes,
    read_rows,
    read_tiles,
    repeated_hashes,
    write_run,
)
from geoloc.index.format.commit import read_head
from geoloc.index.format.manifest import read_manifest

from ..building import Tiles, build, random_tiles
from .test_shard_build import codes_table


def tasks_of(tmp_path: Path, tiles: Tiles, pieces: int = 2) -> list[RunTask]:
    codes_uri = str(tmp_path / "codes")
    made = codes_table(codes_uri, tiles, pieces)
    return [
        RunTask((TablePart(codes_uri, part, "m"),), number, str(tmp_path / "runs"), 64, 8, "space", "d")
        for number, part in enumerate(made)
    ]


def test_a_run_is_sorted_and_read_in_slices(
    tmp_path: Path, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_BATCH_ROWS", 16)
    tiles = random_tiles(100, bits=64, dim=8)
    for work in (str(tmp_path / "runs"), s3_uri):
        task = RunTask(**{**tasks_of(tmp_path, tiles, 1)[0].__dict__, "work_uri": work})
        run, histogram = write_run(task)
        where = storage.join(work, "run-00000")
        keys = read_rows(f"{where}/keys.npy")
        assert (np.diff(keys.astype(np.int64)) >= 0).all()
        assert int(keys.max()) < 2**KEY_BITS
        np.testing.assert_array_equal(histogram.buckets, keys)
        start, stop = cut_run(work, 0, [int(keys[37]), int(keys[73])])
        assert (start, stop) == (37, 73)
        some = read_tiles(f"{where}/tiles.arrow", start, stop)
        rows = [tiles.ids.index(name) for name in some["tile_id"].to_pylist()]
        assert len(rows) == 36
        np.testing.assert_array_equal(read_rows(f"{where}/codes.npy", start, stop), tiles.codes[rows])
        np.testing.assert_array_equal(
            read_rows(f"{where}/embeddings.npy", start, stop), tiles.embeddings[rows]
        )
        np.testing.assert_array_equal(some["lat"], tiles.lat[rows])
        assert read_tiles(f"{where}/tiles.arrow", 5, 5).num_rows == 0
        assert write_run(task)[0] == run


def test_a_finished_run_is_kept_and_a_damaged_one_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks_of(tmp_path, random_tiles(40, bits=64, dim=8))[0]
    run, histogram = write_run(task)
    with monkeypatch.context() as patch:
        patch.setattr(TablePart, "read", lambda *_: pytest.fail("the table was read again"))
        again, same = write_run(task)
    assert again == run
    np.testing.assert_array_equal(same.buckets, histogram.buckets)
    receipt = tmp_path / "runs" / "run-00000.json"
    (tmp_path / "runs" / "run-00000" / "codes.npy").write_bytes(b"x")
    assert write_run(task)[0] == run
    receipt.write_bytes(b"{}")
    assert write_run(task)[0] == run


def test_ids_that_occur_twice_meet(tmp_path: Path) -> None:
    tiles = random_tiles(60, bits=64, dim=8)
    tiles.ids[50] = tiles.ids[3]
    tasks = tasks_of(tmp_path, tiles, 3)
    written = [write_run(task)[0] for task in tasks]
    work = tasks[0].work_uri
    pieces = [repeated_hashes(work, written, first, first + 64) for first in range(0, 256, 64)]
    hashes = np.concatenate(pieces)
    assert hashes.tolist() == hash_ids(pa.array([tiles.ids[3]], pa.large_string())).tolist()
    names = [name for run in written for name in ids_with_hashes(work, run, hashes)]
    assert names == [tiles.ids[3]] * 2
    with pytest.raises(ArtifactError, match=f"tile id '{tiles.ids[3]}' appears more than once"):
        check_repeats(names)
    check_repeats(["two ids", "of one hash"])


def test_codes_of_another_model_are_refused(tmp_path: Path) -> None:
    task = tasks_of(tmp_path, random_tiles(4, bits=64, dim=8), 1)[0]
    source = TablePart(**{**task.sources[0].__dict__, "model_id": "other"})
    with pytest.raises(ModelMismatch, match="were made by the model 'm', not by 'other'"):
        write_run(RunTask(**{**task.__dict__, "sources": (source,)}))


def test_a_tile_that_alone_lacks_coordinates_is_named(tmp_path: Path) -> None:
    tiles = random_tiles(9, bits=64, dim=8)
    tiles.lon[4] = np.nan
    with pytest.raises(InputError, match=f"tile '{tiles.ids[4]}' has no coordinates while others have"):
        write_run(tasks_of(tmp_path, tiles, 1)[0])


def test_a_shard_of_a_snapshot_is_a_source_without_its_removed_tiles(index_uri: str, tmp_path: Path) -> None:
    from geoloc.index.format.shard import write_marks

    tiles = random_tiles(50, bits=64, dim=8)
    build(index_uri, tiles, 1)
    entry = read_manifest(index_uri, read_head(index_uri).snapshot_id or "").shards[0]
    live = np.random.default_rng(3).random(50) < 0.6
    marked = entry.model_copy(update={"marks": write_marks(index_uri, live)})
    ordered = sorted(tiles.ids)
    sources = slices_of(index_uri, [marked], 20)
    assert [source.rows for source in sources] == [20, 20, 10]
    read = [source.read(64, 8) for source in sources]
    ids = [name for rows in read for name in rows.tile_ids.to_pylist()]
    assert ids == [name for name, kept in zip(ordered, live, strict=True) if kept]
    rows = [tiles.ids.index(name) for name in ids]
    np.testing.assert_array_equal(np.concatenate([piece.codes for piece in read]), tiles.codes[rows])
    np.testing.assert_array_equal(
        np.concatenate([piece.embeddings for piece in read]), tiles.embeddings[rows]
    )
