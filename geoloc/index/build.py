"""Building one shard of an index from parts of a codes table: deterministic, resumable, verified.

The bytes of a shard are a function of its plan, so a build that was killed and is run again keeps the shards that
are finished (their receipt, written last, is there and their bytes still match it) and makes the same rest.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from geoloc import parts, storage
from geoloc.errors import CorruptArtifact, InputError
from geoloc.index.host import difference
from geoloc.index.manifest import CODES_NAME, EMBEDDINGS_NAME, SNAPSHOTS, ShardEntry
from geoloc.index.plan import ShardPlan
from geoloc.index.shard_files import entry_of, write_shard


@dataclass(frozen=True)
class ShardTask:
    """Everything that building one shard needs.

    `parts` are all parts of the codes table, `build` names the directory of the build below `snapshots`,
    `embedding_dim` is None when embeddings are left out.
    """

    codes_uri: str
    parts: tuple[parts.Part, ...]
    plan: ShardPlan
    index_uri: str
    build: str
    bits: int
    embedding_dim: int | None

    @property
    def directory(self) -> str:
        """Where the shard goes, relative to the index."""
        return f"{SNAPSHOTS}/{self.build}/shard-{self.plan.number:05d}"

    @property
    def digest(self) -> str:
        """Names the shard's content."""
        sources = [self.parts[piece.part].sha256 for piece in self.plan.pieces]
        content = f"{self.plan.digest()} {sources} {self.bits} {self.embedding_dim}"
        return storage.sha256_bytes(content.encode())


class Receipt(BaseModel):
    """Says that a shard is finished, and of what plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    entry: ShardEntry


def build_name(fingerprint: str) -> str:
    """Name of the directory below `snapshots` where the shards of a build lie."""
    return f"build-{fingerprint[:16]}"


def build_shard(task: ShardTask) -> ShardEntry:
    """Make a shard, or find it finished, and return its entry for the manifest.

    Memory: codes twice, ids, and one part of the table; embeddings go through a memory-mapped file.
    Raises `CorruptArtifact` when what was written does not read back the same.
    """
    if finished := _finished(task):
        return finished
    with tempfile.TemporaryDirectory(prefix=storage.TEMPORARY_PREFIX, dir=_work_root(task.index_uri)) as work:
        directory = Path(work)
        tiles = _write(task, directory)
        entry = entry_of(directory, task.directory, tiles)
        target = storage.join(task.index_uri, task.directory)
        for file in entry.files:
            uri = storage.join(target, file.name)
            storage.copy_file(str(directory / file.name), uri)
            if problem := difference(uri, file):
                raise CorruptArtifact(
                    f"{uri!r} {problem} right after it was written; check the disk and run again."
                )
    receipt = Receipt(digest=task.digest, entry=entry)
    storage.write_bytes(_receipt_uri(task), (receipt.model_dump_json(indent=1) + "\n").encode())
    return entry


def _receipt_uri(task: ShardTask) -> str:
    return storage.join(task.index_uri, f"{task.directory}.json")


def _finished(task: ShardTask) -> ShardEntry | None:
    uri = _receipt_uri(task)
    if not storage.exists(uri):
        return None
    try:
        receipt = Receipt.model_validate_json(storage.read_bytes(uri))
    except ValidationError:
        return None  # not of this format: the shard is made again
    directory = storage.join(task.index_uri, task.directory)
    if receipt.digest != task.digest:
        return None
    if any(difference(storage.join(directory, file.name), file) for file in receipt.entry.files):
        return None
    return receipt.entry


def _work_root(index_uri: str) -> str | None:
    """Where a shard is put together: on the disk it is meant for, or in the system's temporary directory."""
    if not storage.is_local(index_uri):
        return None
    root = storage.local_path(index_uri)
    root.mkdir(parents=True, exist_ok=True)
    return str(root)


def _write(task: ShardTask, directory: Path) -> pa.Table:
    """Gather the shard's rows from the parts, one part in memory at a time, and write its files."""
    plan, width = task.plan, task.bits // 8
    shape = (plan.count, width)
    codes = np.lib.format.open_memmap(directory / CODES_NAME, "w+", np.dtype(np.uint8), shape)
    embeddings = None
    if task.embedding_dim is not None:
        shape = (plan.count, task.embedding_dim)
        embeddings = np.lib.format.open_memmap(directory / EMBEDDINGS_NAME, "w+", np.dtype(np.float16), shape)
    columns = ["tile_id", "lat", "lon", "code", *(["embedding"] if embeddings is not None else [])]
    gathered = []
    for piece in plan.pieces:
        table = parts.read_part(task.codes_uri, task.parts[piece.part], columns).take(pa.array(piece.rows))
        codes[piece.positions] = code_matrix(table["code"])[:, :width]
        if embeddings is not None:
            embeddings[piece.positions] = _embedding_matrix(table, shape[1])
        gathered.append(table.select(["tile_id", "lat", "lon"]))
    positions = np.concatenate([piece.positions for piece in plan.pieces])
    tiles = pa.concat_tables(gathered).take(pa.array(np.argsort(positions))).combine_chunks()
    write_shard(directory, tiles, codes, embeddings)
    return tiles


def code_matrix(column: pa.ChunkedArray) -> npt.NDArray[np.uint8]:
    """A fixed-size binary column as uint8[N, B]."""
    array = column.combine_chunks()
    width = array.type.byte_width
    raw = np.frombuffer(array.buffers()[1], np.uint8, len(array) * width, array.offset * width)
    return raw.reshape(len(array), width)


def _embedding_matrix(table: pa.Table, dim: int) -> npt.NDArray[np.float16]:
    values = table["embedding"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, dim)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            f"The embedding of the tile {table['tile_id'][int(bad[0])].as_py()!r} is not finite; encode it again.",
            reason="bad_embedding",
        )
    return np.asarray(values, dtype=np.float16)
