"""The files of a shard: how they are written, and how they are opened (mapped, never read whole).

    codes.npy       uint8[N, bits // 8]
    tiles.arrow     tile_id, lat, lon: an uncompressed Arrow file of one batch; NaN without coordinates
    space.arrow     cell (ascending), row: the rows along the space-filling curve; only with coordinates
    embeddings.npy  float16[N, D] for re-ranking (optional)
    any-heading.npy uint8[N, B2]: codes that no turn changes (search/rotation_invariant_codes.py; optional)
    live.npy        bool[N], beside the shard: rows that later removals left (optional)

Rows of all but space.arrow are in the order of their tile ids (bytes of UTF-8), each id once: equal distances are
then ordered by row. The same content gives the same bytes. A mapping keeps no open file, so thousands of shards can
be open, and files that are deleted later stay readable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import geodesy, storage
from geoloc.core.arrays import BoolArray, Codes, FloatArray, HalfArray, IntArray
from geoloc.core.errors import ArtifactError, CorruptArtifact, StorageError
from geoloc.index.format.manifest import (
    ANY_HEADING_NAME,
    CODES_NAME,
    EMBEDDINGS_NAME,
    LIVE_NAME,
    SNAPSHOTS,
    SPACE_NAME,
    TILES_NAME,
    Bounds,
    FileEntry,
    Marks,
    ShardEntry,
)

Scalar = TypeVar("Scalar", bound=np.generic)

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
        """Rows uint32[M] whose cell lies in first..last, both included."""
        start, stop = np.searchsorted(self.cells, (first, last + 1))
        return self.rows[start:stop]


class Shard:
    """An open shard; its arrays lie in the files. Immutable and safe to use from many threads.

    codes: uint8[N, bits // 8]; embeddings: float16[N, D] or None; any_heading: uint8[N, B2] or None; tile_ids: N
    strings; lat, lon: float64[N] degrees, NaN without coordinates; space: None without coordinates; live_rows: bool[N],
    False for removed tiles, None when all are there. `first_row` is the row of the first tile in the snapshot; removed
    tiles keep their rows. `directory` holds the files, `marks` is the directory of live.npy.
    """

    def __init__(
        self, entry: ShardEntry, directory: Path, bits: int, first_row: int, marks: Path | None = None
    ) -> None:
        self.entry = entry
        self.directory = directory
        self.first_row = first_row
        self.codes: Codes = mapped_array(directory / CODES_NAME, (entry.count, bits // 8), np.uint8)
        self.embeddings: HalfArray | None = None
        if entry.file(EMBEDDINGS_NAME) is not None:
            self.embeddings = mapped_array(directory / EMBEDDINGS_NAME, (entry.count, None), np.float16)
        self.any_heading: Codes | None = None
        if entry.any_heading_bits:
            shape = (entry.count, entry.any_heading_bits // 8)
            self.any_heading = mapped_array(directory / ANY_HEADING_NAME, shape, np.uint8)
        self.tile_ids, self.lat, self.lon = open_tiles(directory / TILES_NAME, entry.count)
        self.space = _open_space(directory / SPACE_NAME, entry) if entry.file(SPACE_NAME) else None
        self.live_rows: BoolArray | None = None
        if entry.marks is not None and marks is not None:
            self.live_rows = open_live(marks / LIVE_NAME, entry)

    def __len__(self) -> int:
        return self.entry.count

    def tiles(self) -> tuple[pa.LargeStringArray, FloatArray, FloatArray]:
        """(tile ids, lat, lon float64[N]) of all rows, removed rows too; NaN without coordinates."""
        return self.tile_ids, self.lat, self.lon


def _map(path: Path) -> pa.Buffer:
    """The bytes of a file, mapped; the file does not stay open."""
    try:
        with pa.memory_map(str(path)) as file:
            return file.read_buffer()
    except OSError as error:
        raise StorageError(f"Cannot map {str(path)!r}: {' '.join(str(error).split())[:200]}.") from error


def mapped_array(
    path: Path, shape: tuple[int | None, int | None] | tuple[int], kind: type[Scalar]
) -> npt.NDArray[Scalar]:
    """A NumPy file as a read-only mapped array [N, ...] of this shape; None in `shape` takes any size.

    Raises `StorageError` when the file cannot be mapped, `CorruptArtifact` when it holds another shape or type.
    """
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
    """(tile ids, lat float64[N], lon float64[N]) of a tiles.arrow file, mapped."""
    ids, lat, lon = _open_batch(path, TILES_SCHEMA, count).columns
    return ids, np.asarray(lat), np.asarray(lon)


def _open_space(path: Path, entry: ShardEntry) -> SpatialOrder:
    cells, rows = _open_batch(path, SPACE_SCHEMA, entry.count).columns
    return SpatialOrder(np.asarray(cells), np.asarray(rows))


def open_live(path: Path, entry: ShardEntry) -> BoolArray:
    """Which rows of a shard are not removed: bool[N], mapped."""
    return np.asarray(mapped_array(path, (entry.count,), np.bool_))


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn an error of writing files into one sentence that names the directory."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:200]
        raise StorageError(f"Cannot write a shard into {str(directory)!r}: {detail}") from error


def write_shard(directory: Path, tiles: pa.Table, codes: Codes, embeddings: HalfArray | None) -> None:
    """Write the files of a shard into a local directory.

    tiles: tile_id, lat, lon (null or NaN without coordinates), in the order of tile ids; codes: uint8[N, B];
    embeddings: float16[N, D], None for an index without. Memory maps of `codes.npy` and `embeddings.npy`
    themselves are only flushed. Raises `ArtifactError` for ids that are not strictly ascending.
    """
    check_ids(tiles["tile_id"])
    lat, lon = degrees(tiles["lat"]), degrees(tiles["lon"])
    with explained(directory):
        for name, array in ((CODES_NAME, codes), (EMBEDDINGS_NAME, embeddings)):
            if isinstance(array, np.memmap):
                array.flush()
            elif array is not None:
                save_array(directory / name, array)
        ids = tiles["tile_id"].cast(pa.large_string())
        ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        _write_batch(directory / TILES_NAME, TILES_SCHEMA, [ids, pa.array(lat), pa.array(lon)])
        if len(lat) and not np.isnan(lat).any():
            cells = geodesy.cells(lat, lon)
            order = np.argsort(cells, kind="stable")
            columns = [pa.array(cells[order]), pa.array(order.astype(np.uint32))]
            _write_batch(directory / SPACE_NAME, SPACE_SCHEMA, columns)


def save_array(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Write an array [...] as a NumPy file; unlike `np.save` the error says why the disk refused it."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.reshape(-1).view(np.uint8).data)


def _write_batch(path: Path, schema: pa.Schema, columns: list[pa.Array]) -> None:
    batch = pa.record_batch([column.cast(field.type) for column, field in zip(columns, schema, strict=True)],
                            schema=schema)  # fmt: skip
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)


def degrees(column: pa.ChunkedArray) -> FloatArray:
    """A column as float64[N]; NaN for null."""
    values = column.cast(pa.float64()).fill_null(math.nan).to_numpy()
    return np.asarray(values, dtype=np.float64)


def check_ids(tile_ids: pa.ChunkedArray | pa.Array) -> None:
    """`ArtifactError` unless the ids (strings [N]) ascend strictly; it names the first that repeats."""
    if len(tile_ids) < 2:
        return
    before, after = tile_ids.slice(0, len(tile_ids) - 1), tile_ids.slice(1)
    repeated = pc.index(pc.equal(before, after), True).as_py()
    if repeated >= 0:
        raise repeated_id(before[repeated].as_py())
    if not pc.all(pc.less(before, after)).as_py():
        raise ArtifactError("The tiles of a shard must be sorted by their ids.")


def repeated_id(tile_id: str) -> ArtifactError:
    """The error for an id that two tiles have."""
    return ArtifactError(
        f"The tile id {tile_id!r} appears more than once; every tile of an index needs an id of its own."
    )


def entry_of(
    directory: Path, relative: str, tiles: pa.Table, *, lists: int = 0, any_heading_bits: int = 0
) -> ShardEntry:
    """The manifest's entry of a shard that was written to a local directory, with all files that lie there.

    relative: the shard's directory within the index; tiles: as `write_shard` got them.
    """
    names = sorted(path.name for path in directory.iterdir())
    lat, lon = degrees(tiles["lat"]), degrees(tiles["lon"])
    located = len(lat) > 0 and not np.isnan(lat).any()
    cells = geodesy.cells(lat, lon) if located else np.empty(0, np.int64)
    return ShardEntry(
        directory=relative,
        count=tiles.num_rows,
        first_cell=int(cells.min()) if located else None,
        last_cell=int(cells.max()) if located else None,
        bounds=bounds_of(lat, lon) if located else None,
        lists=lists,
        any_heading_bits=any_heading_bits,
        files=[file_entry(directory / name) for name in names],
    )


def file_entry(path: Path) -> FileEntry:
    """The manifest's entry of a local file."""
    return FileEntry(name=path.name, bytes=path.stat().st_size, sha256=storage.sha256_file(str(path)))


def bounds_of(lat: FloatArray, lon: FloatArray) -> Bounds:
    """The box around points: lat, lon float64[N], WGS84 degrees."""
    return Bounds(
        south=float(lat.min()), west=float(lon.min()), north=float(lat.max()), east=float(lon.max())
    )


def write_marks(index_uri: str, live: BoolArray) -> Marks:
    """Store deletion marks under a name that follows from the content: live bool[N], False for removed rows."""
    sink = pa.BufferOutputStream()
    np.lib.format.write_array(sink, np.ascontiguousarray(live, dtype=np.bool_), allow_pickle=False)
    data = sink.getvalue().to_pybytes()
    digest = storage.sha256_bytes(data)
    directory = f"{SNAPSHOTS}/marks-{digest[:16]}"
    storage.write_bytes(storage.join(index_uri, directory, LIVE_NAME), data)
    file = FileEntry(name=LIVE_NAME, bytes=len(data), sha256=digest)
    return Marks(directory=directory, file=file, live=int(live.sum()))
