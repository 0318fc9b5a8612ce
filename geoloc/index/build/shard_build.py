"""Building one shard of an index from sorted runs: deterministic, resumable, verified.

The bytes of a shard are a function of the build's inputs and settings, so a build that was killed and is run
again keeps the shards that are finished (their receipt, written last, is there and their bytes still match it)
and makes the same rest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from geoloc.core import storage
from geoloc.core.arrays import IntArray
from geoloc.index.build.list_build import make_lists, write_lists
from geoloc.index.build.sorted_runs import positions_of, read_rows, read_tiles, run_name
from geoloc.index.format.local_cache import difference
from geoloc.index.format.manifest import CODES_NAME, EMBEDDINGS_NAME, SNAPSHOTS, TILES_NAME, ShardEntry
from geoloc.index.format.shard import entry_of, explained, write_shard
from geoloc.index.format.upload_bundle import publish, working_directory
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder, write_any_heading

Scalar = TypeVar("Scalar", bound=np.generic)

_SLICE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Piece:
    """The rows start to stop of a run."""

    run: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShardTask:
    """Everything that building one shard needs.

    `build` names the directory of the build below `snapshots`; its runs lie in `work_uri`. `digest` identifies the
    inputs and settings of the build. `embedding_dim` is None when embeddings are left out, `lists` is 0 for a shard
    without inverted lists, `any_heading` None for a shard without rotation invariant codes.
    """

    index_uri: str
    build: str
    work_uri: str
    number: int
    digest: str
    pieces: tuple[Piece, ...]
    bits: int
    embedding_dim: int | None
    lists: int = 0
    any_heading: AnyHeadingCoder | None = None

    @property
    def directory(self) -> str:
        """Where the shard goes, relative to the index."""
        return shard_directory(self.build, self.number)

    @property
    def count(self) -> int:
        """Tiles of the shard."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def list_count(self) -> int:
        """Inverted lists of the shard: never more than tiles."""
        return min(self.lists, self.count)

    @property
    def any_heading_bits(self) -> int:
        """Bits of the rotation invariant codes, 0 for a shard without."""
        return self.any_heading.bits if self.any_heading is not None and self.embedding_dim else 0


class Receipt(BaseModel):
    """Marks a shard as finished, and names its build."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    entry: ShardEntry


def build_name(fingerprint: str) -> str:
    """Name of the directory below `snapshots` where the shards of a build lie."""
    return f"build-{fingerprint[:16]}"


def shard_directory(build: str, number: int) -> str:
    """Directory of a shard of a build, relative to the index."""
    return f"{SNAPSHOTS}/{build}/shard-{number:05d}"


def build_shard(task: ShardTask) -> ShardEntry:
    """Make a shard, or find it finished, and return its entry for the manifest.

    Memory: ids and coordinates of the shard, and one slice of a run; codes and embeddings go through memory-mapped
    files. Raises `CorruptArtifact` when what was written does not read back the same, `StorageError`.
    """
    if finished := finished_shard(task.index_uri, task.build, task.number, task.digest):
        return finished
    with working_directory(task.index_uri) as directory:
        tiles = _write(task, directory)
        entry = entry_of(
            directory, task.directory, tiles, lists=task.list_count, any_heading_bits=task.any_heading_bits
        )
        publish(directory, storage.join(task.index_uri, task.directory), entry.files)
    receipt = Receipt(digest=task.digest, entry=entry)
    uri = _receipt_uri(task.index_uri, task.build, task.number)
    storage.write_bytes(uri, (receipt.model_dump_json(indent=1) + "\n").encode())
    return entry


def _receipt_uri(index_uri: str, build: str, number: int) -> str:
    return storage.join(index_uri, f"{shard_directory(build, number)}.json")


def finished_shard(index_uri: str, build: str, number: int, digest: str) -> ShardEntry | None:
    """The entry of a shard that this or an earlier run finished and whose bytes are right, else None."""
    uri = _receipt_uri(index_uri, build, number)
    if not storage.exists(uri):
        return None
    try:
        receipt = Receipt.model_validate_json(storage.read_bytes(uri))
    except ValidationError:
        return None  # of another format: the shard is built again
    if receipt.digest != digest:
        return None
    directory = storage.join(index_uri, shard_directory(build, number))
    if any(difference(storage.join(directory, file.name), file) for file in receipt.entry.files):
        return None
    return receipt.entry


def _write(task: ShardTask, directory: Path) -> pa.Table:
    """Gather the shard's rows from the runs, one slice in memory at a time, and write its files."""
    tiles = pa.concat_tables([read_tiles(_uri(task, piece, TILES_NAME), piece.start, piece.stop)
                              for piece in task.pieces])  # fmt: skip
    order = pc.sort_indices(tiles["tile_id"]).to_numpy().astype(np.int64)
    tiles = tiles.take(pa.array(order)).combine_chunks()
    positions = positions_of(order)
    with explained(directory):
        codes = _gathered(task, directory / CODES_NAME, positions, np.uint8, task.bits // 8)
        embeddings = None
        if task.embedding_dim is not None:
            embeddings = _gathered(
                task, directory / EMBEDDINGS_NAME, positions, np.float16, task.embedding_dim
            )
    write_shard(directory, tiles, codes, embeddings)
    if task.list_count:
        with explained(directory):
            write_lists(directory, make_lists(codes, task.list_count))
    if task.any_heading is not None and embeddings is not None:
        with explained(directory):
            write_any_heading(directory, task.any_heading, embeddings)
    return tiles


def _uri(task: ShardTask, piece: Piece, name: str) -> str:
    return storage.join(task.work_uri, run_name(piece.run), name)


def _gathered(
    task: ShardTask, path: Path, positions: IntArray, kind: type[Scalar], width: int
) -> npt.NDArray[Scalar]:
    """A column of the shard as a memory map of the file it is written to."""
    column = np.lib.format.open_memmap(path, "w+", np.dtype(kind), (task.count, width))
    with path.open("r+b") as file:  # a full disk shows here, as an error, not later as a signal
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    step, place = max(1, _SLICE_BYTES // (width * np.dtype(kind).itemsize)), 0
    for piece in task.pieces:
        for start in range(piece.start, piece.stop, step):
            stop = min(start + step, piece.stop)
            rows = read_rows(_uri(task, piece, path.name), start, stop)
            column[positions[place : place + len(rows)]] = rows
            place += len(rows)
    return column
