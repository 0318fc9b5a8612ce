"""One shard, open: its arrays lie in the files, which are mapped, never read whole.

    codes.npy       uint8[N, bits // 8]
    tiles.arrow     tile_id, lat, lon: an uncompressed Arrow file of one batch; NaN without coordinates
    space.arrow     cell (ascending), row: the rows along the space-filling curve; only with coordinates
    embeddings.npy  float16[N, D] for re-ranking (optional)
    any-heading.npy uint8[N, B2]: codes that no turn changes (anyheading.py; optional)
    live.npy        bool[N], beside the shard: rows that later removals left (optional)

Rows of all but space.arrow are in the order of their tile ids (bytes of UTF-8), each id once: equal distances are
then ordered by row. A mapping needs no open file afterwards, so thousands of shards can be open, and files that
are deleted later stay readable.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geoloc.core.arrays import BoolArray, Codes, FloatArray, HalfArray, IntArray
from geoloc.core.errors import CorruptArtifact, StorageError
from geoloc.index.format.manifest import (
    ANY_HEADING_NAME,
    CODES_NAME,
    EMBEDDINGS_NAME,
    LIVE_NAME,
    SPACE_NAME,
    TILES_NAME,
    ShardEntry,
)

TILES_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.large_string(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),
        pa.field("lon", pa.float64(), nullable=False),
    ]
)
SPACE_SCHEMA = pa.schema(
    [pa.field("cell", pa.int64(), nullable=False), pa.field("row", pa.uint32(), nullable=False)]
)


@dataclass(frozen=True)
class SpatialOrder:
    """The rows of a shard along the space-filling curve.

    cells: int64[N], `geodesy.cells` of the tiles' centres, ascending; rows: uint32[N], the row at each place
    (ascending within a cell). The tiles of all cells from a to b are `rows[slice(*np.searchsorted(cells, ...))]`.
    """

    cells: IntArray
    rows: npt.NDArray[np.uint32]

    def between(self, first: int, last: int) -> npt.NDArray[np.uint32]:
        """Rows whose cell lies in first..last, both included."""
        start, stop = np.searchsorted(self.cells, (first, last + 1))
        return self.rows[start:stop]


class Shard:
    """An open shard; its arrays lie in the files. Immutable and safe to use from many threads.

    codes: uint8[N, bits // 8]; embeddings: float16[N, D] or None; any_heading:
    uint8[N, B2] or None; tile_ids: N strings; lat, lon: float64[N]
    degrees, NaN without coordinates; space: `SpatialOrder`, None without coordinates; live_rows: bool[N], False
    for tiles that were removed, None when all are there. `first_row` is the row of its first tile in the
    snapshot: removed tiles keep their rows. `directory` holds the files, `marks` the directory of live.npy.
    """

    def __init__(
        self, entry: ShardEntry, directory: Path, bits: int, first_row: int, marks: Path | None = None
    ) -> None:
        self.entry = entry
        self.directory = directory
        self.first_row = first_row
        self.codes: Codes = _mapped_array(directory / CODES_NAME, (entry.count, bits // 8), np.uint8)
        self.embeddings: HalfArray | None = None
        if entry.file(EMBEDDINGS_NAME) is not None:
            self.embeddings = _mapped_array(directory / EMBEDDINGS_NAME, (entry.count, None), np.float16)
        self.any_heading: Codes | None = None
        if entry.file(ANY_HEADING_NAME) is not None:
            self.any_heading = _mapped_array(directory / ANY_HEADING_NAME, (entry.count, None), np.uint8)
        self.tile_ids, self.lat, self.lon = open_tiles(directory / TILES_NAME, entry.count)
        self.space = _open_space(directory / SPACE_NAME, entry) if entry.file(SPACE_NAME) else None
        self.live_rows: BoolArray | None = None
        if entry.marks is not None and marks is not None:
            self.live_rows = open_live(marks / LIVE_NAME, entry)

    def __len__(self) -> int:
        return self.entry.count

    def tiles(self) -> tuple[pa.LargeStringArray, FloatArray, FloatArray]:
        """(tile ids, lat, lon) of all rows, removed ones too; NaN without coordinates."""
        return self.tile_ids, self.lat, self.lon

    def extra(self, name: str) -> Path | None:
        """The path of a file that is not of the format itself, verified like the others; None when not there."""
        return None if self.entry.file(name) is None else self.directory / name


def _map(path: Path) -> pa.Buffer:
    """The file's bytes, mapped; nothing stays open but the mapping."""
    try:
        with pa.memory_map(str(path)) as file:
            return file.read_buffer()
    except OSError as error:
        raise StorageError(f"Cannot map {str(path)!r}: {' '.join(str(error).split())[:200]}.") from error


def _mapped_array(path: Path, shape: tuple[int, int | None] | tuple[int], kind: type) -> npt.NDArray:  # type: ignore[type-arg]
    """A NumPy file as a read-only array in its mapping; None in `shape` takes any size."""
    buffer = _map(path)
    stream = pa.BufferReader(buffer)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("version")
        found, column_major, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise CorruptArtifact(f"{str(path)!r} is no NumPy array; build the index again.") from error
    wanted = tuple(size if size is not None else (*found, 0, 0)[axis] for axis, size in enumerate(shape))
    size = int(np.prod(wanted, dtype=np.int64)) * np.dtype(kind).itemsize
    if found != wanted or dtype != kind or column_major or buffer.size != stream.tell() + size:
        raise CorruptArtifact(
            f"{str(path)!r} holds {dtype}{list(found)} in {buffer.size} bytes, its manifest says "
            f"{np.dtype(kind)}{['D' if size is None else size for size in shape]}; build the index again."
        )
    return np.frombuffer(buffer, kind, offset=stream.tell()).reshape(wanted)


def _open_batch(path: Path, schema: pa.Schema, count: int) -> pa.RecordBatch:
    """The one batch of an Arrow file; its columns lie in the mapping."""
    try:
        reader = pa.ipc.open_file(pa.BufferReader(_map(path)))
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
    except (pa.ArrowException, OSError) as error:
        raise CorruptArtifact(f"{str(path)!r} is no Arrow file; build the index again.") from error
    if batch is None or reader.schema != schema or batch.num_rows != count:
        found = "several batches" if batch is None else f"{batch.num_rows} rows of {reader.schema.names}"
        raise CorruptArtifact(
            f"{str(path)!r} holds {found}, its manifest says {count} of {schema.names}; build the index again."
        )
    return batch


def open_tiles(path: Path, count: int) -> tuple[pa.LargeStringArray, FloatArray, FloatArray]:
    """(tile ids, lat, lon) of a tiles.arrow file, mapped."""
    ids, lat, lon = _open_batch(path, TILES_SCHEMA, count).columns
    return ids, np.asarray(lat), np.asarray(lon)


def _open_space(path: Path, entry: ShardEntry) -> SpatialOrder:
    cells, rows = _open_batch(path, SPACE_SCHEMA, entry.count).columns
    return SpatialOrder(np.asarray(cells), np.asarray(rows))


def open_live(path: Path, entry: ShardEntry) -> BoolArray:
    """Which rows of a shard are left: bool[N], mapped."""
    return np.asarray(_mapped_array(path, (entry.count,), np.bool_))
