"""Sorted runs: the first half of an external sort of the tiles of a build.

The tiles are written once in the order of partition keys; then each shard reads its slices. A run bounds the memory,
and a shard reads only its rows, however the table is ordered. Runs are scratch files, removed after the commit:

    <work>/run-00000/keys.npy        uint64[M], ascending
    <work>/run-00000/codes.npy       uint8[M, B], embeddings.npy float16[M, D] likewise
    <work>/run-00000/tiles.arrow     tile_id, lat, lon in batches
    <work>/run-00000/hashes.npy      uint64[M], hashes of the ids, ascending: ids that occur twice meet here
    <work>/run-00000.json            the receipt, written last
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from geoloc.core import part_table, storage
from geoloc.core.arrays import FloatArray, HalfArray, IntArray
from geoloc.core.errors import InputError, ModelMismatch
from geoloc.index.build.partition_keys import Histogram, KeyArray, Partition, hash_ids, partition_keys
from geoloc.index.format.local_cache import cache_directory, difference
from geoloc.index.format.manifest import CODES_NAME, EMBEDDINGS_NAME, TILES_NAME, FileEntry, ShardEntry
from geoloc.index.format.shard import TILES_SCHEMA, degrees, explained, file_entry, repeated_id, save_array
from geoloc.index.format.upload_bundle import publish, working_directory
from geoloc.index.search.snapshot import open_shard

KEYS_NAME = "keys.npy"
HASHES_NAME = "hashes.npy"
_BATCH_ROWS = 8192
HASH_SLICES = 256  # by the top byte of a hash


@dataclass(frozen=True)
class Rows:
    """Tiles in memory: ids, degrees (NaN without coordinates), codes uint8[M, B], embeddings float16[M, D]."""

    tile_ids: pa.LargeStringArray
    lat: FloatArray
    lon: FloatArray
    codes: npt.NDArray[np.uint8]
    embeddings: HalfArray | None


@dataclass(frozen=True)
class TablePart:
    """A part of a codes table as a source of tiles; rows of another model than `model_id` are refused."""

    codes_uri: str
    part: part_table.Part
    model_id: str

    @property
    def rows(self) -> int:
        """Number of tiles."""
        return self.part.rows

    def read(self, bits: int, embedding_dim: int | None) -> Rows:
        """All tiles. Raises `ModelMismatch`, and `InputError` for an embedding that is not finite."""
        columns = ["tile_id", "lat", "lon", "code", "model_id", *(["embedding"] if embedding_dim else [])]
        table = part_table.read_part(self.codes_uri, self.part, columns)
        for other in pc.unique(table["model_id"]).to_pylist():
            if other != self.model_id:
                raise ModelMismatch(
                    f"The codes in {self.codes_uri!r} were made by the model {other!r}, not by "
                    f"{self.model_id!r}; give the model that encoded them, or encode the tiles with this one."
                )
        return Rows(
            table["tile_id"].cast(pa.large_string()).combine_chunks(),
            degrees(table["lat"]),
            degrees(table["lon"]),
            code_matrix(table["code"])[:, : bits // 8],
            _embedding_matrix(table, embedding_dim) if embedding_dim else None,
        )


@dataclass(frozen=True)
class OldShard:
    """Rows start to stop of a snapshot's shard as a source of tiles: those that no marks removed."""

    index_uri: str
    entry: ShardEntry
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of tiles at most."""
        return self.stop - self.start

    def read(self, bits: int, embedding_dim: int | None) -> Rows:
        """The tiles."""
        shard = open_shard(self.index_uri, self.entry, bits, cache_directory())
        live = shard.live_rows if shard.live_rows is not None else np.ones(len(shard), np.bool_)
        rows = np.flatnonzero(live[self.start : self.stop]) + self.start
        embeddings = shard.embeddings[rows] if embedding_dim and shard.embeddings is not None else None
        return Rows(
            shard.tile_ids.take(pa.array(rows)),
            shard.lat[rows],
            shard.lon[rows],
            shard.codes[rows],
            embeddings,
        )


def code_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """A fixed-size binary column as uint8[N, B]."""
    array = column.combine_chunks()
    width = array.type.byte_width
    raw = np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)
    return raw.reshape(len(array), width)


def _embedding_matrix(table: pa.Table, dim: int) -> HalfArray:
    values = table["embedding"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, dim)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            f"The embedding of the tile {table['tile_id'][int(bad[0])].as_py()!r} is not finite; encode it again.",
            reason="bad_embedding",
        )
    return np.asarray(values, dtype=np.float16)


@dataclass(frozen=True)
class RunTask:
    """Everything that writing one run needs; `digest` names what its content depends on."""

    sources: tuple[TablePart | OldShard, ...]
    number: int
    work_uri: str
    bits: int
    embedding_dim: int | None
    partition: Partition
    digest: str


class Run(BaseModel):
    """A finished run: its receipt. `hash_slices` are positions in hashes.npy of the 256 values of the top byte."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    number: int
    rows: int
    unlocated: str | None  # a tile without coordinates, when none has
    located: str | None  # a tile with coordinates, when all have
    hash_slices: list[int]
    files: list[FileEntry]


def write_run(task: RunTask) -> tuple[Run, Histogram]:
    """Write a run, or find it finished; returns its receipt and the histogram of its keys.

    Memory: the run's rows three times. Raises `InputError` when only some tiles have coordinates, and what
    reading the sources raises.
    """
    uri = storage.join(task.work_uri, run_name(task.number))
    if finished := _finished(f"{uri}.json", uri, task.digest):
        return finished, Histogram.of(np.asarray(read_rows(storage.join(uri, KEYS_NAME)), np.uint64))
    rows = _joined([source.read(task.bits, task.embedding_dim) for source in task.sources])
    missing = np.isnan(rows.lat) | np.isnan(rows.lon)
    if missing.any() and not missing.all():
        raise mixed(rows.tile_ids[int(np.flatnonzero(missing)[0])].as_py())
    hashes = hash_ids(rows.tile_ids)
    keys = partition_keys(hashes, rows.lat, rows.lon, task.partition)
    with working_directory(task.work_uri) as directory:
        _write(directory, rows, keys, hashes)
        files = [file_entry(path) for path in sorted(directory.iterdir())]
        publish(directory, uri, files)
    first = rows.tile_ids[0].as_py() if len(keys) else None
    slices = np.searchsorted(np.sort(hashes), [part << 56 for part in range(HASH_SLICES)])
    run = Run(
        digest=task.digest,
        number=task.number,
        rows=len(keys),
        unlocated=first if missing.any() else None,
        located=None if missing.any() else first,
        hash_slices=[*slices.tolist(), len(keys)],
        files=files,
    )
    storage.write_bytes(f"{uri}.json", run.model_dump_json().encode())
    return run, Histogram.of(keys)


def run_name(number: int) -> str:
    """Name of a run's directory."""
    return f"run-{number:05d}"


def mixed(tile_id: str) -> InputError:
    """The error for a tile that alone lacks coordinates."""
    return InputError(
        f"The tile {tile_id!r} has no coordinates while others have; give all tiles coordinates, or make an index "
        "of each kind."
    )


def _finished(receipt_uri: str, uri: str, digest: str) -> Run | None:
    if not storage.exists(receipt_uri):
        return None
    try:
        run = Run.model_validate_json(storage.read_bytes(receipt_uri))
    except ValidationError:
        return None  # of another format: the run is written again
    if run.digest != digest or any(difference(storage.join(uri, file.name), file) for file in run.files):
        return None
    return run


def _joined(pieces: list[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    embeddings = [piece.embeddings for piece in pieces if piece.embeddings is not None]
    return Rows(
        pa.concat_arrays([piece.tile_ids for piece in pieces]),
        np.concatenate([piece.lat for piece in pieces]),
        np.concatenate([piece.lon for piece in pieces]),
        np.concatenate([piece.codes for piece in pieces]),
        np.concatenate(embeddings) if embeddings else None,
    )


def _write(directory: Path, rows: Rows, keys: KeyArray, hashes: KeyArray) -> None:
    order = np.argsort(keys, kind="stable")
    with explained(directory):
        save_array(directory / KEYS_NAME, keys[order])
        save_array(directory / HASHES_NAME, np.sort(hashes))
        save_array(directory / CODES_NAME, rows.codes[order])
        if rows.embeddings is not None:
            save_array(directory / EMBEDDINGS_NAME, rows.embeddings[order])
        columns = [rows.tile_ids.take(pa.array(order)), pa.array(rows.lat[order]), pa.array(rows.lon[order])]
        batch = pa.record_batch(columns, schema=TILES_SCHEMA)
        with (
            pa.OSFile(str(directory / TILES_NAME), "wb") as sink,
            pa.ipc.new_file(sink, TILES_SCHEMA) as writer,
        ):
            for start in range(0, len(order), _BATCH_ROWS):
                writer.write_batch(batch.slice(start, _BATCH_ROWS))


def read_rows(uri: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.generic]:
    """Rows start to stop of a NumPy file [N, ...] at any URI; only their bytes are read."""
    fs, path = storage.filesystem(uri)

    def read() -> npt.NDArray[np.generic]:
        with fs.open_input_file(path) as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            end = shape[0] if stop is None else stop
            width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
            file.seek(file.tell() + start * width)
            data = file.read_buffer((end - start) * width)
        return np.frombuffer(data, dtype).reshape(end - start, *shape[1:])

    return storage.attempt("read", uri, read)


def read_tiles(uri: str, start: int, stop: int) -> pa.Table:
    """(tile_id, lat, lon) of rows start to stop of a run's tiles.arrow; only the batches concerned are read."""
    fs, path = storage.filesystem(uri)
    if stop <= start:
        return TILES_SCHEMA.empty_table()
    first, last = start // _BATCH_ROWS, (stop - 1) // _BATCH_ROWS

    def read() -> pa.Table:
        with fs.open_input_file(path) as file, pa.ipc.open_file(file) as reader:
            return pa.Table.from_batches([reader.get_batch(number) for number in range(first, last + 1)])

    return storage.attempt("read", uri, read).slice(start - first * _BATCH_ROWS, stop - start)


def cut_run(work_uri: str, number: int, borders: Sequence[int]) -> list[int]:
    """Positions in a run at which pieces begin: rows [i] to [i + 1] have keys from borders[i] to borders[i + 1]."""
    keys = read_rows(storage.join(work_uri, run_name(number), KEYS_NAME))
    positions: list[int] = np.searchsorted(keys, np.array(borders, np.uint64)).tolist()
    return positions


def repeated_hashes(work_uri: str, runs: Sequence[Run], first: int, last: int) -> KeyArray:
    """Hashes uint64[M] that occur more than once among those whose top byte is in first..last (without last)."""
    pieces = [
        read_rows(
            storage.join(work_uri, run_name(run.number), HASHES_NAME),
            run.hash_slices[first],
            run.hash_slices[last],
        )
        for run in runs
    ]
    hashes = np.sort(np.concatenate([np.empty(0, np.uint64), *pieces]))
    return np.asarray(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]), np.uint64)


def ids_with_hashes(work_uri: str, run: Run, hashes: KeyArray) -> list[str]:
    """The ids of a run whose hash is one of uint64[M]."""
    ids = read_tiles(storage.join(work_uri, run_name(run.number), TILES_NAME), 0, run.rows)["tile_id"]
    found: list[str] = ids.filter(pa.array(np.isin(hash_ids(ids.combine_chunks()), hashes))).to_pylist()
    return found


def check_repeats(ids: Sequence[str]) -> None:
    """`ArtifactError` naming the first id that occurs twice; different ids may share a hash."""
    ordered = sorted(ids)
    for before, after in itertools.pairwise(ordered):
        if before == after:
            raise repeated_id(before)


def positions_of(order: IntArray) -> IntArray:
    """The inverse int64[N] of a permutation int64[N]."""
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order))
    return positions
