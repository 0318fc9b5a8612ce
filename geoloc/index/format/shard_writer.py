"""Writing the files of a shard (what they are: shard.py); the same content gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import geodesy, storage
from geoloc.core.arrays import BoolArray, Codes, FloatArray, HalfArray
from geoloc.core.errors import ArtifactError, StorageError
from geoloc.index.format.manifest import (
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
from geoloc.index.format.shard import SPACE_SCHEMA, TILES_SCHEMA


@contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Turn what goes wrong while files are written into one sentence with the directory."""
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
    """Write a NumPy file; unlike `np.save` it says why the disk takes no more."""
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
    """`ArtifactError` unless the ids ascend strictly, naming the first that repeats."""
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


def entry_of(directory: Path, relative: str, tiles: pa.Table) -> ShardEntry:
    """The manifest's entry of a shard that was written to a local directory: all files that lie there."""
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
        files=[file_entry(directory / name) for name in names],
    )


def file_entry(path: Path) -> FileEntry:
    """The manifest's entry of a local file."""
    return FileEntry(name=path.name, bytes=path.stat().st_size, sha256=storage.sha256_file(str(path)))


def bounds_of(lat: FloatArray, lon: FloatArray) -> Bounds:
    """The box around points in WGS84 degrees."""
    return Bounds(
        south=float(lat.min()), west=float(lon.min()), north=float(lat.max()), east=float(lon.max())
    )


def write_marks(index_uri: str, live: BoolArray) -> Marks:
    """Store which rows of a shard are left, under a name that follows from the content: bool[N]."""
    sink = pa.BufferOutputStream()
    np.lib.format.write_array(sink, np.ascontiguousarray(live, dtype=np.bool_), allow_pickle=False)
    data = sink.getvalue().to_pybytes()
    digest = storage.sha256_bytes(data)
    directory = f"{SNAPSHOTS}/marks-{digest[:16]}"
    storage.write_bytes(storage.join(index_uri, directory, LIVE_NAME), data)
    file = FileEntry(name=LIVE_NAME, bytes=len(data), sha256=digest)
    return Marks(directory=directory, file=file, live=int(live.sum()))
