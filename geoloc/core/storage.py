"""URIs: open, list, write atomically, put if absent, compare and swap, checksums.

A location is a plain path, `file://...`, `s3://bucket/key` or any other URI that fsspec knows. Bulk bytes
go through `pyarrow.fs`; on S3 the conditional puts that commits rest on go through s3fs: pyarrow has none.
S3 credentials, region and endpoint come from the standard AWS environment (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`).

Atomicity: `write_bytes` shows a reader the old bytes or the new ones. Locally that is a temporary file in
the same directory, fsync, rename and fsync of the directory; on object stores a put is atomic by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from geoloc.core import local_listing
from geoloc.core.errors import ArtifactError, StorageError

_CHUNK_BYTES = 8 * 2**20
TEMPORARY_PREFIX = ".tmp-"


@dataclass(frozen=True)
class StoredFile:
    """One file of a listing."""

    uri: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The last part of the URI."""
        return self.uri.rsplit("/", 1)[-1]


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI with single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)]) or "/"


def is_local(uri: str) -> bool:
    """Whether the URI names this machine's file system."""
    return urlparse(uri).scheme in ("", "file") or "://" not in uri


def local_path(uri: str) -> Path:
    """The path behind a local URI; `StorageError` for any other kind."""
    if not is_local(uri):
        raise StorageError(f"{uri!r} is not on this machine's file system; copy it here first.")
    return Path(unquote(urlparse(uri).path) if uri.startswith("file:") else uri).expanduser().absolute()


def absolute(uri: str) -> str:
    """The same location, independent of the working directory (local paths become absolute)."""
    return str(local_path(uri)) if is_local(uri) else uri


def s3_endpoint() -> str | None:
    """The S3 endpoint of the AWS environment, or None for AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


@lru_cache(maxsize=8)
def _s3_filesystem(endpoint: str | None, region: str | None, _key: str | None, _pid: int) -> pafs.FileSystem:
    options: dict[str, Any] = {"allow_bucket_creation": True}
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    if region or endpoint:
        options["region"] = region or "us-east-1"
    return pafs.S3FileSystem(**options)


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system and the path within it for a URI."""
    if is_local(uri):
        return pafs.LocalFileSystem(), str(local_path(uri))
    if urlparse(uri).scheme == "s3":
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        key = os.environ.get("AWS_ACCESS_KEY_ID")
        # The pid keeps a forked child from sharing the parent's connections.
        return _s3_filesystem(s3_endpoint(), region, key, os.getpid()), uri.removeprefix("s3://").rstrip("/")
    try:
        other, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"Cannot open {uri!r}: {error}. Use a path, file:// or s3://.") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(other)), path


@contextlib.contextmanager
def _explained(action: str, uri: str) -> Iterator[None]:
    """Turn the file systems' many exceptions into one sentence that names the action and the URI."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"Cannot {action} {uri!r}: there is no such file or directory.") from error
    except (OSError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:300]
        raise StorageError(f"Cannot {action} {uri!r}: {detail}") from error


def file_info(uri: str) -> pafs.FileInfo:
    """Type and size of what is at a URI; the type is `NotFound` where nothing is."""
    fs, path = filesystem(uri)
    with _explained("look at", uri):
        return fs.get_file_info(path)


def exists(uri: str) -> bool:
    """Whether a file or directory is at the URI."""
    return bool(file_info(uri).type != pafs.FileType.NotFound)


def is_directory(uri: str) -> bool:
    """Whether a directory (on object stores: a prefix with objects) is at the URI."""
    return bool(file_info(uri).type == pafs.FileType.Directory)


def size_bytes(uri: str) -> int:
    """Size of a file; `ArtifactError` when it is missing."""
    info = file_info(uri)
    if info.type != pafs.FileType.File:
        raise ArtifactError(f"Cannot look at {uri!r}: there is no such file.")
    return int(info.size)


def modified(uri: str) -> str:
    """When a file was last written, as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC; `ArtifactError` when it is missing."""
    info = file_info(uri)
    if info.type != pafs.FileType.File:
        raise ArtifactError(f"Cannot look at {uri!r}: there is no such file.")
    return str(info.mtime.strftime("%Y-%m-%d %H:%M:%S.%f"))


def read_bytes(uri: str) -> bytes:
    """The whole file."""
    fs, path = filesystem(uri)
    with _explained("read", uri), fs.open_input_file(path) as stream:
        data: bytes = stream.readall()
        return data


def read_text(uri: str) -> str:
    """The whole file as UTF-8 (a leading byte-order mark is dropped)."""
    data = read_bytes(uri)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri!r} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically; parents are made as needed."""
    if is_local(uri):
        with _explained("write", uri):
            _replace_local(local_path(uri), data)
        return
    fs, path = filesystem(uri)
    with _explained("write", uri), fs.open_output_stream(path) as stream:
        stream.write(data)


def _replace_local(path: Path, data: bytes) -> None:
    temporary = _temporary_beside(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _temporary_beside(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_if_absent(uri: str, data: bytes) -> bool:
    """Create a file only where none is; True when ours was created, False when another is there.

    Locally a hard link to a finished temporary file, on S3 a put with `If-None-Match: *`: of any number of
    racing writers exactly one gets True. A put that was retried after a lost answer is recognised by its
    bytes, so racing writers must not write identical data if they need to know who won.
    """
    if is_local(uri):
        with _explained("write", uri):
            return _link_local(local_path(uri), data)
    if urlparse(uri).scheme != "s3":
        raise StorageError(f"{uri!r}: this kind of store has no conditional put; use a local path or s3://.")
    return _conditional_put(uri, data, {"IfNoneMatch": "*"})


def _link_local(path: Path, data: bytes) -> bool:
    temporary = _temporary_beside(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)
    return True


def _s3fs() -> Any:
    import s3fs

    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return s3fs.S3FileSystem(
        endpoint_url=s3_endpoint(), client_kwargs={"region_name": region}, use_listings_cache=False
    )


def _conditional_put(uri: str, data: bytes, condition: dict[str, str]) -> bool:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with _explained("write", uri):
        try:
            _s3fs().call_s3("put_object", Bucket=bucket, Key=key, Body=data, **condition)
        except OSError as error:
            if not _is_precondition_failure(error):
                raise
            return exists(uri) and read_bytes(uri) == data
    return True


def _is_precondition_failure(error: OSError) -> bool:
    text = f"{error} {error.__cause__}"
    return any(
        mark in text for mark in ("PreconditionFailed", "412", "ConditionalRequestConflict", "pre-condition")
    )


def compare_and_swap(uri: str, data: bytes, expected: bytes | None) -> bool:
    """Replace a small file only if it still holds `expected` (None: is absent); True when replaced.

    Locally under an exclusive lock on `<name>.lock` (advisory: all writers use this function), on S3 by
    `If-Match` with the ETag that belongs to the bytes compared.
    """
    if expected is None:
        return put_if_absent(uri, data)
    if is_local(uri):
        path = local_path(uri)
        with _explained("write", uri), _locked(path.with_name(path.name + ".lock")):
            if not path.exists() or path.read_bytes() != expected:
                return False
            _replace_local(path, data)
            return True
    if urlparse(uri).scheme != "s3":
        raise StorageError(f"{uri!r}: this kind of store has no conditional put; use a local path or s3://.")
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with _explained("read", uri):
        head = _s3fs().call_s3("head_object", Bucket=bucket, Key=key)
    # Looked at before the bytes: a swap in between shows as other bytes or as another ETag, never as neither.
    if read_bytes(uri) != expected:
        return False
    return _conditional_put(uri, data, {"IfMatch": str(head["ETag"])})


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def list_files(uri: str, *, suffix: str = "", recursive: bool = True) -> list[StoredFile]:
    """Files below a directory, sorted by URI; empty when it does not exist. Temporary files are left out.

    Of a local directory also what cannot be listed, such as links that lead nowhere
    (`geoloc.core.file_selection.select` counts them).
    """
    if is_local(uri):
        return [file for file in list_local(uri, recursive=recursive)[0] if file.uri.endswith(suffix)]
    fs, path = filesystem(uri)
    with _explained("list", uri):
        infos = fs.get_file_info(pafs.FileSelector(path, recursive=recursive, allow_not_found=True))
    root = uri.rstrip("/")
    found = [
        StoredFile(join(root, info.path[len(path) :]), int(info.size))
        for info in infos
        if info.type == pafs.FileType.File
        and info.path.endswith(suffix)
        and not info.base_name.startswith(TEMPORARY_PREFIX)
    ]
    return sorted(found, key=lambda file: file.uri)


def list_local(uri: str, *, recursive: bool = True) -> tuple[list[StoredFile], Counter[str]]:
    """Files below a local directory, sorted by URI, and counts of what cannot be listed, by reason."""
    path = str(local_path(uri))
    with _explained("list", uri):
        files, left_out = local_listing.walk(path, recursive=recursive)
    root = uri.rstrip("/")
    found = [StoredFile(join(root, file[len(path) :]), size) for file, size in files]
    return [file for file in found if not file.name.startswith(TEMPORARY_PREFIX)], left_out


def delete(uri: str) -> None:
    """Remove a file or a directory with all below it; nothing happens where nothing is."""
    info = file_info(uri)
    fs, path = filesystem(uri)
    with _explained("delete", uri):
        if info.type == pafs.FileType.Directory:
            fs.delete_dir(path)
        elif info.type == pafs.FileType.File:
            fs.delete_file(path)


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(uri: str) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks (constant memory)."""
    digest = hashlib.sha256()
    fs, path = filesystem(uri)
    with _explained("read", uri), fs.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def content_tag(uri: str) -> str | None:
    """What changes when the bytes of a file change: size and ETag on S3, else the SHA-256; None for no file.

    A file on S3 and its local copy have different tags.
    """
    if file_info(uri).type != pafs.FileType.File:
        return None
    if urlparse(uri).scheme != "s3":
        return sha256_file(uri)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with _explained("look at", uri):
        head = _s3fs().call_s3("head_object", Bucket=bucket, Key=key)
    return f"{head['ContentLength']} {head['ETag']}"


def copy_file(source: str, target: str) -> None:
    """Copy one file between any two locations, in chunks; the target appears whole or not at all."""
    source_fs, source_path = filesystem(source)
    with _explained("read", source), source_fs.open_input_stream(source_path) as reader:
        if is_local(target):
            _copy_to_local(reader, target)
            return
        target_fs, target_path = filesystem(target)
        with _explained("write", target):
            try:
                with target_fs.open_output_stream(target_path) as writer:
                    shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
            except BaseException:
                delete(target)  # closing the stream published what had been written so far
                raise


def _copy_to_local(reader: Any, target: str) -> None:
    path = local_path(target)
    with _explained("write", target):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                shutil.copyfileobj(reader, stream, _CHUNK_BYTES)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        finally:
            Path(name).unlink(missing_ok=True)
        _sync_directory(path.parent)
