"""Opening a sheet with GDAL: its options, and the files beside the sheet that belong to it.

Local files are opened in place; `s3://` goes through GDAL's own range requests (/vsis3) with the endpoint and
the credentials of the standard AWS environment; any other store is read into memory first, up to
`_IN_MEMORY_LIMIT_BYTES` a sheet. A sheet means the same wherever it lies: GDAL sees its masks, world files,
overviews and `.aux.xml` in every kind of store.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import rasterio

from geoloc.core import storage
from geoloc.core.errors import StorageError

_IN_MEMORY_LIMIT_BYTES = 2 * 2**30
# Endings after the whole name (a.tif.msk) and after the stem (a.tfw) of files that GDAL reads with a GeoTIFF.
_AFTER_NAME = (".aux.xml", ".msk", ".msk.ovr", ".ovr")
_AFTER_STEM = (".aux", ".tfw", ".tifw", ".tiffw", ".wld", ".tab", ".rpb", "_rpc.txt", ".imd")


def gdal_environment() -> dict[str, str | int]:
    """GDAL's settings for this process: side files are seen, a bounded cache, the S3 endpoint."""
    settings: dict[str, str | int] = {"GDAL_DISABLE_READDIR_ON_OPEN": "FALSE", "GDAL_CACHEMAX": 256}
    if endpoint := storage.s3_endpoint():
        scheme, _, host = endpoint.rpartition("://")
        settings |= {
            "AWS_S3_ENDPOINT": host.rstrip("/"),
            "AWS_HTTPS": "NO" if scheme == "http" else "YES",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        }
    return settings


@contextlib.contextmanager
def open_sheet(uri: str) -> Iterator[Any]:
    """The sheet as a rasterio dataset, open for reading; rasterio's errors pass through."""
    with rasterio.Env(**gdal_environment()):
        if storage.is_local(uri):
            with rasterio.open(storage.local_path(uri)) as source:
                yield source
        elif uri.startswith("s3://"):
            os.environ.setdefault("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
            with rasterio.open("/vsis3/" + uri.removeprefix("s3://")) as source:
                yield source
        else:
            with _in_memory(uri) as memory, memory.open() as source:
                yield source


def side_files(uri: str) -> list[str]:
    """URIs of the files beside a sheet that GDAL reads with it, sorted."""
    folder, _, name = uri.rpartition("/")
    stem = name.rpartition(".")[0].lower()
    belonging = {name.lower() + ending for ending in _AFTER_NAME} | {stem + end for end in _AFTER_STEM}
    files = storage.list_files(folder or ".", recursive=False)
    return [file.uri for file in files if file.name.lower() in belonging]


@contextlib.contextmanager
def _in_memory(uri: str) -> Iterator[Any]:
    """The sheet in GDAL's memory, with its side files in the same folder there."""
    folder = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        for each in (*side_files(uri), uri):
            content = _content(each)
            memory = rasterio.MemoryFile(content, dirname=folder, filename=each.rpartition("/")[2])
            stack.enter_context(memory)
        yield memory


def _content(uri: str) -> bytes:
    size = storage.size_bytes(uri)
    if size > _IN_MEMORY_LIMIT_BYTES:
        raise StorageError(
            f"{uri!r} has {size:,} bytes; from this kind of store files up to {_IN_MEMORY_LIMIT_BYTES:,} bytes are "
            "read: copy it to a disk or to S3."
        )
    return storage.read_bytes(uri)
