"""Points of a map25d tile out of its city's cloud, which is memory-mapped and never held whole.

The cloud is `<city>U.npy`, float[P, 3] with the columns x (east), height, z (south), metres, and `<city>U.csv`,
a class a line. Convention: a tile's points are rows of (east, north, height, class) about the tile's centre.
"""

from __future__ import annotations

import io
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from geoloc.core import storage
from geoloc.core.arrays import Float32Array, FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.sources.datasets.rows import CloudPlace

SQUARE_M = 114.0  # half the side of the square kept around a tile, the authors' value


def tile_points(place: CloudPlace) -> Float32Array:
    """float32[P * 4]: flattened rows (east, north, height, class) about the tile's centre.

    With an index array the points are those rows in its order; without, all within the square of +-114 m.
    Raises `InputError` when the cloud, its classes and the indices do not fit together.
    """
    cloud, classes = _cloud(place.points), _classes(place.classes)
    if len(classes) != len(cloud):
        raise InputError(
            f"{place.classes!r} has {len(classes):,} lines for {len(cloud):,} points of {place.points!r}; copy both "
            "again.",
            reason="bad_annotation",
        )
    rows = _square(place) if place.indices is None else _indices(place.indices, len(cloud))
    points = np.asarray(cloud[rows], dtype=np.float64)
    flat = np.empty((len(rows), 4), dtype=np.float32)
    flat[:, 0] = points[:, 0] - place.x
    flat[:, 1] = place.y - points[:, 2]
    flat[:, 2] = points[:, 1]
    flat[:, 3] = classes[rows]
    return flat.ravel()


def _indices(uri: str, count: int) -> IntArray:
    rows = read_array(uri)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InputError(
            f"{uri!r} holds {rows.dtype} of shape {rows.shape}, not a row of indices.",
            reason="bad_annotation",
        )
    if rows.size and not (int(rows.min()) >= 0 and int(rows.max()) < count):
        raise InputError(
            f"{uri!r} has indices from {rows.min():,} to {rows.max():,}; the cloud has {count:,} points.",
            reason="bad_annotation",
        )
    return rows.astype(np.int64)


def read_array(uri: str) -> npt.NDArray[np.generic]:
    """A small `.npy` array [...]; `InputError` when it is broken or holds Python objects."""
    try:
        array: npt.NDArray[np.generic] = np.load(io.BytesIO(storage.read_bytes(uri)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _broken(uri, error) from error
    return array


def _broken(uri: str, error: Exception) -> InputError:
    detail = " ".join(str(error).split())[:120]
    return InputError(f"{uri!r} is no whole .npy file ({detail}); copy it again.", reason="bad_annotation")


@lru_cache(maxsize=4)
def _cloud(uri: str) -> npt.NDArray[np.generic]:
    path = _on_disk(uri)
    try:
        cloud: npt.NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _broken(uri, error) from error
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise InputError(
            f"{uri!r} has the shape {cloud.shape}, not points x 3 (x, height, z).", reason="bad_annotation"
        )
    return cloud


def _on_disk(uri: str) -> Path:
    """The file itself, or this process's copy of a remote one, which ends with the process."""
    if storage.is_local(uri):
        return storage.local_path(uri)
    path = Path(_scratch().name) / storage.sha256_bytes(uri.encode())
    if not path.exists():
        storage.copy_file(uri, str(path))
    return path


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="geoloc-cloud-")


@lru_cache(maxsize=4)
def _classes(uri: str) -> npt.NDArray[np.uint8]:
    options = pa_csv.ReadOptions(column_names=["class"])
    convert = pa_csv.ConvertOptions(column_types={"class": pa.uint8()})
    try:
        read = pa_csv.read_csv(pa.BufferReader(storage.read_bytes(uri)), options, convert_options=convert)
    except pa.ArrowException as error:
        detail = " ".join(str(error).split())[:160]
        raise InputError(
            f"{uri!r} is not one class (0 to 24) a line: {detail}", reason="bad_annotation"
        ) from error
    classes: npt.NDArray[np.uint8] = read["class"].to_numpy()
    return classes


@lru_cache(maxsize=2)
def _west_to_east(uri: str) -> tuple[IntArray, FloatArray]:
    """Point numbers from west to east and their x: 16 bytes a point, for clouds without index arrays."""
    x = np.asarray(_cloud(uri)[:, 0], dtype=np.float64)
    order = np.argsort(x, kind="stable")
    return order, x[order]


def _square(place: CloudPlace) -> IntArray:
    order, x = _west_to_east(place.points)
    first, last = np.searchsorted(x, [place.x - SQUARE_M, place.x + SQUARE_M], side="left")
    strip = np.sort(order[first:last])
    z = np.asarray(_cloud(place.points)[strip, 2], dtype=np.float64)
    return strip[np.abs(z - place.y) <= SQUARE_M]
