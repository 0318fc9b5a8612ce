"""One shard: writing its files and opening them memory-mapped.

    codes.faiss     IndexBinaryFlat of uint8[N, bits // 8]; FAISS maps it without a private copy
    tiles.parquet   tile_id, lat, lon, cell
    embeddings.npy  float16[N, D] for re-ranking (optional)

Rows of all three are in the order of their tile ids (bytes of UTF-8), each id once: equal distances are then
ordered by row.
"""

from __future__ import annotations

import threading
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from geoloc import storage
from geoloc.errors import ArtifactError, CorruptArtifact, StorageError
from geoloc.index.manifest import (
    CODES_NAME,
    EMBEDDINGS_NAME,
    TILES_NAME,
    Bounds,
    FileEntry,
    ShardEntry,
)

Codes = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

TILES_SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("lat", pa.float64()),
        pa.field("lon", pa.float64()),
        pa.field("cell", pa.int64()),
    ]
)
_ROW_GROUP = 65536


class Shard:
    """An open shard; its arrays lie in the files. Immutable and safe to use from many threads.

    codes: uint8[N, bits // 8]; embeddings: float16[N, D] or None; `first_row` is the row of its first tile in
    the snapshot.
    """

    def __init__(self, entry: ShardEntry, directory: Path, bits: int, first_row: int) -> None:
        self.entry = entry
        self.first_row = first_row
        self._index, self.codes = _map_codes(directory / CODES_NAME, entry.count, bits)
        self.embeddings = _map_embeddings(directory / EMBEDDINGS_NAME, entry)
        # Opened now, so that a file deleted later stays readable; parsed when first needed.
        self._tiles_file = pa.memory_map(str(directory / TILES_NAME))
        self._tiles: tuple[pa.LargeStringArray, FloatArray, FloatArray] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.entry.count

    def tiles(self) -> tuple[pa.LargeStringArray, FloatArray, FloatArray]:
        """(tile ids, lat, lon) of all rows; read at the first call, then kept. NaN without coordinates."""
        with self._lock:
            if self._tiles is None:
                table = pq.read_table(self._tiles_file, columns=["tile_id", "lat", "lon"])
                if table.num_rows != self.entry.count:
                    raise CorruptArtifact(
                        f"{self.entry.directory}/{TILES_NAME} holds {table.num_rows} tiles, its manifest says "
                        f"{self.entry.count}; build the index again."
                    )
                ids = table["tile_id"].cast(pa.large_string()).combine_chunks()
                self._tiles = ids, _degrees(table["lat"]), _degrees(table["lon"])
            return self._tiles


def _degrees(column: pa.ChunkedArray) -> FloatArray:
    return np.asarray(column.fill_null(float("nan")).to_numpy(), dtype=np.float64)


def _map_codes(path: Path, count: int, bits: int) -> tuple[faiss.IndexBinaryFlat, Codes]:
    """FAISS's index, which owns the mapping, and its codes as an array that lies in it."""
    try:
        index = faiss.read_index_binary(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptArtifact(f"{str(path)!r} is no binary index of FAISS; build the index again.") from error
    if not isinstance(index, faiss.IndexBinaryFlat) or (index.ntotal, index.d) != (count, bits):
        raise CorruptArtifact(
            f"{str(path)!r} holds {index.ntotal} codes of {index.d} bits, its manifest says {count} of {bits}; "
            "build the index again."
        )
    if not count:
        return index, np.empty((0, bits // 8), np.uint8)
    storage_of = index.xb  # type: ignore[attr-defined]
    codes = faiss.rev_swig_ptr(storage_of.data(), count * bits // 8).reshape(count, bits // 8)
    codes.flags.writeable = False
    return index, codes


def _map_embeddings(path: Path, entry: ShardEntry) -> npt.NDArray[np.float16] | None:
    if entry.file(EMBEDDINGS_NAME) is None:
        return None
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise CorruptArtifact(f"{str(path)!r} is no NumPy array; build the index again.") from error
    if array.ndim != 2 or array.shape[0] != entry.count or array.dtype != np.float16:
        raise CorruptArtifact(
            f"{str(path)!r} holds {array.dtype}{list(array.shape)}, its manifest says float16 of {entry.count} "
            "rows; build the index again."
        )
    return np.asarray(array)


def write_shard(
    directory: Path, tiles: pa.Table, codes: Codes, embeddings: npt.NDArray[np.float16] | None
) -> None:
    """Write the files of a shard into a local directory; the same content gives the same bytes.

    tiles: `TILES_SCHEMA`, in the order of tile ids; codes: uint8[N, B]; embeddings: float16[N, D], None for an
    index without. Embeddings may be a memory map of `embeddings.npy` itself, which then is only flushed.
    """
    check_ids(tiles["tile_id"])
    index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.add(np.ascontiguousarray(codes))
    rows = tiles.select(TILES_SCHEMA.names).cast(TILES_SCHEMA)
    try:
        faiss.write_index_binary(index, str(directory / CODES_NAME))
        pq.write_table(rows, directory / TILES_NAME, compression="zstd", row_group_size=_ROW_GROUP)
        if isinstance(embeddings, np.memmap):
            embeddings.flush()
        elif embeddings is not None:
            np.save(directory / EMBEDDINGS_NAME, embeddings, allow_pickle=False)
    except (OSError, RuntimeError) as error:  # FAISS says it with a RuntimeError
        detail = " ".join(str(error).split())[:200]
        raise StorageError(f"Cannot write a shard into {str(directory)!r}: {detail}") from error


def check_ids(tile_ids: pa.ChunkedArray | pa.Array) -> None:
    """`ArtifactError` unless the ids ascend strictly, naming the first that repeats."""
    if len(tile_ids) < 2:
        return
    before, after = tile_ids.slice(0, len(tile_ids) - 1), tile_ids.slice(1)
    repeated = pc.index(pc.equal(before, after), True).as_py()
    if repeated >= 0:
        raise ArtifactError(
            f"The tile id {before[repeated].as_py()!r} appears more than once; every tile of an index needs an "
            "id of its own."
        )
    if not pc.all(pc.less(before, after)).as_py():
        raise ArtifactError("The tiles of a shard must be sorted by their ids.")


def entry_of(directory: Path, relative: str, tiles: pa.Table) -> ShardEntry:
    """The manifest's entry of a shard that was written to a local directory."""
    names = sorted(path.name for path in directory.iterdir())
    files = [
        FileEntry(
            name=name,
            bytes=(directory / name).stat().st_size,
            sha256=storage.sha256_file(str(directory / name)),
        )
        for name in names
    ]
    cells = pc.min_max(tiles["cell"]).as_py()
    return ShardEntry(
        directory=relative,
        count=tiles.num_rows,
        first_cell=cells["min"],
        last_cell=cells["max"],
        bounds=bounds_of(tiles),
        files=files,
    )


def bounds_of(tiles: pa.Table) -> Bounds | None:
    """The box around the tiles' centres; None without coordinates."""
    lat, lon = pc.min_max(tiles["lat"]).as_py(), pc.min_max(tiles["lon"]).as_py()
    if lat["min"] is None or lon["min"] is None:
        return None
    return Bounds(south=lat["min"], west=lon["min"], north=lat["max"], east=lon["max"])
