"""Opening a sheet with GDAL: its options, and the files beside the sheet that belong to it.

Local files are opened in place. From stores GDAL reads ranges through `RemoteFile`, so time-outs and retries are those
of every other read, and a store that fails is never taken for a broken sheet. A sheet means the same wherever it lies:
GDAL sees its masks, world files, overviews and `.aux.xml` in every kind of store.

Sheets come from strangers. GDAL's GeoTIFF driver alone opens them: others read whatever files and addresses a sheet
names. `check_sheet_files` refuses what would make that driver open other kinds of files after all.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import rasterio
from rasterio.abc import FileContainer
from rasterio.errors import RasterioError

from geoloc.core import storage
from geoloc.core.errors import GeolocError, InputError, StorageError
from geoloc.core.remote_file import RemoteFile

_DRIVER = "GTiff"
_IN_MEMORY_LIMIT_BYTES = 2 * 2**30
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PICTURE_ENDINGS = (".msk", ".ovr")  # side files that GDAL opens as pictures, with any of its drivers
_LARGEST_XML_BYTES = 2**22
_LISTING_S = 60.0
# Endings after the whole name (a.tif.msk) and after the stem (a.tfw) of files that GDAL reads with a GeoTIFF.
_AFTER_NAME = (".aux.xml", ".msk", ".msk.ovr", ".ovr")
_AFTER_STEM = (".aux", ".tfw", ".tifw", ".tiffw", ".wld", ".tab", ".rpb", "_rpc.txt", ".imd")


def gdal_environment() -> dict[str, str | int]:
    """GDAL's settings for this process: side files are seen, a bounded cache."""
    return {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "GDAL_CACHEMAX": 256}


@contextlib.contextmanager
def open_sheet(uri: str, *, with_place: bool = False) -> Iterator[Any]:
    """The sheet as a rasterio dataset, open for reading; rasterio's errors pass through.

    `with_place`: a sheet of a store that is placed by a text file beside it alone (`.tfw`) is read whole, up to
    `_IN_MEMORY_LIMIT_BYTES`, because rasterio reads no lines of text there; its pixels are read without.
    Raises `StoreUnavailable` or `StorageError` where it is the store that failed, whatever GDAL took that for.
    """
    with rasterio.Env(**gdal_environment()), contextlib.ExitStack() as stack:
        if storage.is_local(uri):
            yield stack.enter_context(rasterio.open(storage.local_path(uri), driver=_DRIVER))
            return
        files = _StoreFiles(uri)
        try:
            source = stack.enter_context(rasterio.open(uri, driver=_DRIVER, opener=files))
            if with_place and source.transform.is_identity and _placed_by_text(uri):
                source = stack.enter_context(_in_memory(uri, stack).open(driver=_DRIVER))
            yield source
        except (RasterioError, ValueError) as error:
            if files.failures:
                raise files.failures[0] from error
            raise
        if files.failures:
            raise files.failures[0]


def _placed_by_text(uri: str) -> bool:
    return any(not side.lower().endswith((*_PICTURE_ENDINGS, ".xml")) for side in side_files(uri))


def _in_memory(uri: str, stack: contextlib.ExitStack) -> rasterio.MemoryFile:
    """The sheet in GDAL's memory, with its side files in the same folder there, until the stack closes."""
    folder = secrets.token_hex(8)
    for each in (*side_files(uri), uri):
        size = storage.size_bytes(each)
        if size > _IN_MEMORY_LIMIT_BYTES:
            raise StorageError(
                f"{each!r} has {size:,} bytes; a sheet that a text file beside it places is read whole, up to "
                f"{_IN_MEMORY_LIMIT_BYTES:,} bytes: write its place into it with `gdal_edit.py`, or copy it to a disk."
            )
        memory = rasterio.MemoryFile(
            storage.read_bytes(each), dirname=folder, filename=each.rpartition("/")[2]
        )
        stack.enter_context(memory)
    return memory


class _StoreFiles(FileContainer):  # type: ignore[misc]  # rasterio has no types
    """A sheet's folder as GDAL's file system. It must not raise inside GDAL: failures are kept, files seem to end."""

    def __init__(self, uri: str) -> None:
        self.folder = uri.rpartition("/")[0]
        self.failures: list[GeolocError] = []

    def open(self, path: str, mode: str = "r", **_: Any) -> io.IOBase:
        """A file of the folder, opened when it is read; an empty one elsewhere (rasterio tries the name `test`)."""
        return _GdalFile(path, self.failures) if path.startswith(f"{self.folder}/") else io.BytesIO()

    def isfile(self, path: str) -> bool:
        """Whether a file is at the path."""
        return path.rpartition("/")[2] in self._names(path)

    def isdir(self, path: str) -> bool:
        """False: GDAL is given files."""
        return False

    def ls(self, path: str) -> list[str]:
        """Names of the files in a folder."""
        return self._names(storage.join(path, "any"))

    def mtime(self, path: str) -> int:
        """0: sheets do not change while they are read."""
        return 0

    def rm(self, path: str) -> None:
        """Refused: sheets are only read."""
        raise OSError(f"{path!r} is open for reading only.")

    def size(self, path: str) -> int:
        """Size of a file in bytes."""
        return self.open(path).seek(0, io.SEEK_END)

    def _names(self, path: str) -> list[str]:
        try:
            return _folder_names(path.rpartition("/")[0], int(time.monotonic() / _LISTING_S))
        except GeolocError as error:
            self.failures.append(error)
            return []


@lru_cache(maxsize=64)
def _folder_names(folder: str, _minute: int) -> list[str]:
    """Names of the files in a folder; a listing is kept for a minute, because every opening asks for it."""
    return [file.name for file in storage.list_files(folder, recursive=False)]


class _GdalFile(RemoteFile):
    """A file that GDAL reads."""

    def __init__(self, uri: str, failures: list[GeolocError]) -> None:
        super().__init__(uri)
        self._failures = failures

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes from here on; none when the store failed."""
        try:
            return super().read(size)
        except GeolocError as error:
            self._failures.append(error)
            return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position; the start when the store failed."""
        try:
            return super().seek(offset, whence)
        except GeolocError as error:
            self._failures.append(error)
            return 0


def check_sheet_files(uri: str, source: Any) -> None:
    """Refuse a sheet, opened as `source`, that makes GDAL open other files than GeoTIFFs beside it.

    Raises `InputError` for a mask or an overview that is no TIFF, and for a named overview file, which could be any
    file of this machine or any address.
    """
    if source.tags(ns="OVERVIEWS").get("OVERVIEW_FILE"):
        raise InputError(
            f"{uri!r} names another file as its overviews; remove that with `gdal_edit.py -unsetmd`.",
            reason="foreign_file",
        )
    for side in side_files(uri):
        if side.lower().endswith(_PICTURE_ENDINGS) and storage.read_range(side, 0, 4) not in _TIFF_MAGIC:
            raise InputError(
                f"{side!r} is no TIFF, as masks and overviews of sheets must be; delete it.",
                reason="foreign_file",
            )
        if side.lower().endswith(".xml") and storage.size_bytes(side) > _LARGEST_XML_BYTES:
            raise InputError(
                f"{side!r} has more than {_LARGEST_XML_BYTES:,} bytes; delete it.", reason="foreign_file"
            )


def side_files(uri: str) -> list[str]:
    """URIs of the files beside a sheet that GDAL reads with it, sorted."""
    folder, _, name = uri.rpartition("/")
    stem = name.rpartition(".")[0].lower()
    belonging = {name.lower() + ending for ending in _AFTER_NAME} | {stem + end for end in _AFTER_STEM}
    files = storage.list_files(folder or ".", recursive=False)
    return [file.uri for file in files if file.name.lower() in belonging]
