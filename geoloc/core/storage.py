"""URIs: open, list, write atomically, put if absent, compare and swap, checksums.

A location is a plain path, `file://...`, `s3://bucket/key` or a store that fsspec knows (gs, az, ...). Bulk bytes
go through `pyarrow.fs`; on S3 the conditional puts that commits rest on go through s3fs: pyarrow has none.
S3 credentials, region and endpoint come from the standard AWS environment (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`).

A store that fails or stalls costs time: every operation is repeated by the policy of `geoloc.core.retry`.

Atomicity: `write_bytes` shows a reader the old bytes or the new ones. Locally that is a temporary file in
the same directory, fsync, rename and fsync of the directory; on object stores a put is atomic by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs

from geoloc.core import local_listing, s3
from geoloc.core.errors import ArtifactError, InputError, StorageError, StoreUnavailable
from geoloc.core.retry import OutOfBudget, StoreBusy, retried

_CHUNK_BYTES = 8 * 2**20
TEMPORARY_PREFIX = ".tmp-"
# Stores that fsspec reaches with a package of its own. The web is none: it cannot be listed, and names in a user's
# table would make this machine ask any other one.
_OTHER_STORES = ("gs", "gcs", "az", "abfs", "abfss", "hdfs", "oci", "memory")
Result = TypeVar("Result")


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
    return "://" not in uri or urlparse(uri).scheme in ("", "file")


def local_path(uri: str) -> Path:
    """The path behind a local URI; `StorageError` for any other kind."""
    if not is_local(uri):
        raise StorageError(f"{uri!r} is not on this machine's file system; copy it here first.")
    return Path(unquote(urlparse(uri).path) if uri.startswith("file:") else uri).expanduser().absolute()


def _plain_path(uri: str) -> str:
    """As `local_path`, at once where there is nothing to do: lists name millions of files."""
    return uri if uri.startswith("/") else str(local_path(uri))


def absolute(uri: str) -> str:
    """The same location, independent of the working directory (local paths become absolute)."""
    return str(local_path(uri)) if is_local(uri) else uri


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The pyarrow file system and the path within it for a URI; call it inside `attempt`, which repeats.

    Raises `StorageError` for a scheme that is none of a store, and for chained URIs (`a::b`).
    """
    if is_local(uri):
        return pafs.LocalFileSystem(), str(local_path(uri))
    scheme = urlparse(uri).scheme
    if scheme == "s3":
        return s3.filesystem(), uri.removeprefix(s3.SCHEME).rstrip("/")
    if scheme not in _OTHER_STORES or "::" in uri:
        raise StorageError(
            f"Cannot open {uri!r}: this is no place that geoloc reads or writes. Use a path, file:// or s3://, or copy "
            f"the file there (with a package of fsspec also {', '.join(_OTHER_STORES[:3])}, ...)."
        )
    try:
        other, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(f"Cannot open {uri!r}: {error}. Use a path, file:// or s3://.") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(other)), path


def patient_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """As `filesystem`, for a library that reads and writes by itself; on S3 it outlives what `attempt` would."""
    if urlparse(uri).scheme != "s3":
        return filesystem(uri)
    return s3.patient_filesystem(), uri.removeprefix(s3.SCHEME).rstrip("/")


def attempt(action: str, uri: str, operation: Callable[[], Result]) -> Result:
    """The result of an operation that may be repeated, tried again while a store's error is transient.

    Turns the file systems' many exceptions into one sentence that names the action and the URI: `ArtifactError` for
    a missing file, `StoreUnavailable` when the budget of the policy is spent, `StorageError` for everything else.
    """
    try:
        return retried(operation, what=f"{action} {uri!r}")
    except FileNotFoundError as error:
        raise ArtifactError(f"Cannot {action} {uri!r}: there is no such file or directory.") from error
    except OutOfBudget as error:
        raise StoreUnavailable(
            f"Cannot {action} {uri!r}: {error}. The store failed, nothing is wrong with the input: run it again."
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise _refused(action, uri, error) from error


def _refused(action: str, uri: str, error: Exception) -> StorageError:
    return StorageError(f"Cannot {action} {uri!r}: {' '.join(str(error).split())[:300]}")


def file_info(uri: str) -> pafs.FileInfo:
    """Type and size of what is at a URI; the type is `NotFound` where nothing is."""
    fs, path = filesystem(uri)
    return attempt("look at", uri, lambda: fs.get_file_info(path))


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


def file_size(uri: str) -> int | None:
    """Size of a file in bytes by a single look; None where there is no file."""
    if is_local(uri):
        return _local_size(uri)
    if urlparse(uri).scheme == "s3":
        try:
            return attempt("look at", uri, lambda: s3.head(uri))[0]
        except ArtifactError:
            return None
    info = file_info(uri)
    return int(info.size) if info.type == pafs.FileType.File else None


def _local_size(uri: str) -> int | None:
    try:
        status = os.stat(_plain_path(uri))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no name of a file has a zero in it
        return None
    except OSError as error:
        raise _refused("look at", uri, error) from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def modified(uri: str) -> str:
    """When a file was last written, as `YYYY-MM-DD HH:MM:SS.ffffff` in UTC; `ArtifactError` when it is missing."""
    info = file_info(uri)
    if info.type != pafs.FileType.File:
        raise ArtifactError(f"Cannot look at {uri!r}: there is no such file.")
    return str(info.mtime.strftime("%Y-%m-%d %H:%M:%S.%f"))


def read_bytes(uri: str, *, limit_bytes: int | None = None) -> bytes:
    """The whole file; `InputError` (`too_large`), before a byte is read, for one above the limit."""
    fs, path = filesystem(uri)

    def read() -> bytes:
        with fs.open_input_file(path) as stream:
            if limit_bytes is not None and stream.size() > limit_bytes:
                raise InputError(
                    f"{uri!r} has {stream.size():,} bytes; at most {limit_bytes:,} are read.",
                    reason="too_large",
                )
            data: bytes = stream.readall()
            if len(data) < stream.size():
                raise StoreBusy(f"{len(data):,} of {stream.size():,} bytes arrived")
            return data

    return attempt("read", uri, read)


def read_range(uri: str, offset: int, size_bytes: int) -> bytes:
    """Bytes of a file from an offset on; fewer than asked for where the file ends."""
    fs, path = filesystem(uri)

    def read() -> bytes:
        with fs.open_input_file(path) as stream:
            data: bytes = stream.read_at(size_bytes, offset)
            if len(data) < min(size_bytes, max(0, stream.size() - offset)):
                raise StoreBusy(f"{len(data):,} of {size_bytes:,} bytes arrived")
            return data

    return attempt("read", uri, read)


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
        attempt("write", uri, lambda: _replace_local(local_path(uri), data))
        return
    fs, path = filesystem(uri)

    def write() -> None:
        with fs.open_output_stream(path) as stream:
            stream.write(data)

    attempt("write", uri, write)


def _replace_local(path: Path, data: bytes) -> None:
    temporary = _temporary_beside(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


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


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def has_conditional_put(uri: str) -> bool:
    """Whether `put_if_absent` and `compare_and_swap` work at a URI: on local paths and S3."""
    return urlparse(uri).scheme in ("", "file", "s3")


def put_if_absent(uri: str, data: bytes) -> bool:
    """Create a file only where none is; True when ours was created, False when another is there.

    Locally a hard link to a finished temporary file, on S3 a put with `If-None-Match: *`: of any number of
    racing writers exactly one gets True. A put that was retried after a lost answer is recognised by its
    bytes, so racing writers must not write identical data if they need to know who won.
    """
    if is_local(uri):
        return attempt("write", uri, lambda: _link_local(local_path(uri), data))
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
    sync(path.parent)
    return True


def _conditional_put(uri: str, data: bytes, condition: dict[str, str]) -> bool:
    if attempt("write", uri, lambda: s3.put_if(uri, data, condition)):
        return True
    return _held(uri) == data  # an answer that was lost on its way: the put had been done


def _held(uri: str) -> bytes | None:
    """The bytes of a file that others may remove at any moment; None where there is none."""
    try:
        return read_bytes(uri)
    except ArtifactError:
        return None


def compare_and_swap(uri: str, data: bytes, expected: bytes | None) -> bool:
    """Replace a small file only if it still holds `expected` (None: is absent); True when replaced.

    Locally under an exclusive lock on `<name>.lock`, which is there only meanwhile (all writers use this), on S3 by
    `If-Match` with the ETag that belongs to the bytes compared.
    """
    if expected is None:
        return put_if_absent(uri, data)
    if is_local(uri):
        return attempt("write", uri, lambda: _swap_local(local_path(uri), data, expected))
    if urlparse(uri).scheme != "s3":
        raise StorageError(f"{uri!r}: this kind of store has no conditional put; use a local path or s3://.")
    try:
        _, etag = attempt("read", uri, lambda: s3.head(uri))
    except ArtifactError:
        return False  # it is absent
    # Looked at before the bytes: a swap in between shows as other bytes or as another ETag, never as neither.
    if _held(uri) != expected:
        return False
    return _conditional_put(uri, data, {"IfMatch": etag})


def _swap_local(path: Path, data: bytes, expected: bytes) -> bool:
    with _locked(path.with_name(path.name + ".lock")):
        if not path.exists() or path.read_bytes() != expected:
            return False
        _replace_local(path, data)
        return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                ours = os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except FileNotFoundError:
                ours = False
            if ours:  # else the last owner removed the file while we waited
                try:
                    yield
                finally:
                    path.unlink()
                return


def list_files(uri: str, *, suffix: str = "", recursive: bool = True) -> list[StoredFile]:
    """Files below a directory, sorted by URI; empty when it does not exist. Temporary files are left out.

    Of a local directory also what cannot be listed, such as links that lead nowhere
    (`geoloc.core.file_selection.select` counts them).
    """
    if is_local(uri):
        return [file for file in list_local(uri, recursive=recursive)[0] if file.uri.endswith(suffix)]
    fs, path = filesystem(uri)
    selector = pafs.FileSelector(path, recursive=recursive, allow_not_found=True)
    infos = attempt("list", uri, lambda: fs.get_file_info(selector))
    root = uri.rstrip("/")
    found = [
        StoredFile(join(root, info.path[len(path) :]), int(info.size))
        for info in infos
        if info.type == pafs.FileType.File
        and info.path.endswith(suffix)
        and not info.base_name.startswith(TEMPORARY_PREFIX)
    ]
    return sorted(found, key=lambda file: file.uri)


def entry_names(uri: str) -> list[str]:
    """Names of files and directories directly in a directory, in no order; empty when there is no such directory."""
    if is_local(uri):
        path = local_path(uri)
        return attempt("list", uri, lambda: os.listdir(path) if path.is_dir() else [])
    fs, path_there = filesystem(uri)
    selector = pafs.FileSelector(path_there, recursive=False, allow_not_found=True)
    return [info.base_name for info in attempt("list", uri, lambda: fs.get_file_info(selector))]


def list_local(uri: str, *, recursive: bool = True) -> tuple[list[StoredFile], Counter[str]]:
    """Files below a local directory, sorted by URI, and counts of what cannot be listed, by reason."""
    path = str(local_path(uri))
    files, left_out = attempt("list", uri, lambda: local_listing.walk(path, recursive=recursive))
    root = uri.rstrip("/")
    found = [StoredFile(join(root, file[len(path) :]), size) for file, size in files]
    return [file for file in found if not file.name.startswith(TEMPORARY_PREFIX)], left_out


def delete(uri: str) -> None:
    """Remove a file or a directory with all below it; nothing happens where nothing is."""
    info = file_info(uri)
    fs, path = filesystem(uri)
    if info.type == pafs.FileType.NotFound:
        return
    remove = fs.delete_dir if info.type == pafs.FileType.Directory else fs.delete_file
    with contextlib.suppress(
        ArtifactError
    ):  # another one was faster, or the answer to our first try was lost
        attempt("delete", uri, lambda: remove(path))


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(uri: str) -> str:
    """Hexadecimal SHA-256 of a file, read in chunks (constant memory)."""
    fs, path = filesystem(uri)

    def digest() -> str:
        found = hashlib.sha256()
        with fs.open_input_stream(path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                found.update(chunk)
        return found.hexdigest()

    return attempt("read", uri, digest)


def content_tag(uri: str) -> str | None:
    """What changes when the bytes of a file change: size and ETag on S3, else the SHA-256; None for no file.

    A file on S3 and its local copy have different tags.
    """
    if is_local(uri):
        return _local_digest(uri)
    if urlparse(uri).scheme != "s3":
        return sha256_file(uri) if file_info(uri).type == pafs.FileType.File else None
    try:
        size, etag = attempt("look at", uri, lambda: s3.head(uri))
    except ArtifactError:
        return None
    return f"{size} {etag}"


def _local_digest(uri: str) -> str | None:
    if _local_size(uri) is None:
        return None
    try:
        with open(_plain_path(uri), "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _refused("read", uri, error) from error


def copy_file(source: str, target: str) -> None:
    """Copy one file between any two locations, in chunks; the target appears whole or not at all."""
    source_fs, source_path = filesystem(source)

    def copy() -> None:
        with source_fs.open_input_stream(source_path) as reader:
            if is_local(target):
                _copy_to_local(reader, local_path(target))
            else:
                _copy_to_store(reader, target)

    attempt("copy", source, copy)


def _copy_to_store(reader: Any, target: str) -> None:
    fs, path = filesystem(target)
    try:
        with fs.open_output_stream(path) as writer:
            shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
    except BaseException:
        delete(target)  # closing the stream published what had been written so far
        raise


def _copy_to_local(reader: Any, path: Path) -> None:
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
    sync(path.parent)
