"""Files of an index on this host: checked once, kept with the verdict, afterwards only mapped.

`ensure_local` gives the local directory of a bundle (the files of a shard or of a model) after every file's size
and SHA-256 were found right. Local bundles stay where they are; others are copied into the cache directory once,
under a name that hashes their checksums. The verdict is an empty file in the cache whose name hashes each file's
path, size, times, inode and checksum: change any of them and the file is read again. Each use renews the time of
the copy and of the verdict; `prune_cache` removes what was not used for long.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from geoloc.core import storage
from geoloc.core.errors import ConfigError, CorruptArtifact, StorageError
from geoloc.index.format.manifest import FileEntry


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else `GEOLOC_CACHE`, else `~/.cache/geoloc`."""
    chosen = cache_dir or os.environ.get("GEOLOC_CACHE") or "~/.cache/geoloc"
    return Path(chosen).expanduser().absolute()


def ensure_local(directory_uri: str, files: Sequence[FileEntry], cache: Path) -> Path:
    """The local directory that holds the files, all of them verified.

    Raises `CorruptArtifact` naming the file that is missing or differs from its entry.
    """
    remote = not storage.is_local(directory_uri)
    directory = cache / "bundles" / _bundle_id(files) if remote else storage.local_path(directory_uri)
    if remote:
        for file in files:
            _fetch(storage.join(directory_uri, file.name), file, directory / file.name)
    verdict = cache / "verdicts" / _verdict_id(directory, files)
    if not verdict.exists():
        for file in files:
            problem = difference(str(directory / file.name), file)
            if problem and remote:  # the copy is bad, the original may be right
                (directory / file.name).unlink()
                _fetch(storage.join(directory_uri, file.name), file, directory / file.name)
            elif problem:
                raise CorruptArtifact(_sentence(str(directory / file.name), problem))
        _keep(cache / "verdicts" / _verdict_id(directory, files))
    for used in (verdict, directory) if remote else (verdict,):
        with contextlib.suppress(OSError):  # a cache that others fill: its age is theirs to keep
            os.utime(used)
    return directory


class PruneReport(BaseModel):
    """What was removed from a host's cache, or would be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache: str
    dry_run: bool
    copies: int
    verdicts: int
    bytes: int


def prune_cache(
    *, min_age_s: float = 30 * 86_400.0, dry_run: bool = False, cache_dir: str | None = None
) -> PruneReport:
    """Remove copies of remote indexes, and results of their checks, that nobody on this host used lately.

    Who has a copy open keeps it (it is mapped); who opens it later copies it again. Raises `ConfigError` for a
    negative age, `StorageError` for a cache that cannot be changed.
    """
    if not min_age_s >= 0:
        raise ConfigError(f"min_age_s is {min_age_s}; give 0 or more seconds.")
    cache, limit_s = cache_directory(cache_dir), time.time() - min_age_s
    copies = [path for path in _entries(cache / "bundles") if path.stat().st_mtime < limit_s]
    verdicts = [path for path in _entries(cache / "verdicts") if path.stat().st_mtime < limit_s]
    size = sum(file.stat().st_size for path in copies for file in path.rglob("*") if file.is_file())
    if not dry_run:
        try:
            for path in copies:
                shutil.rmtree(path)
            for path in verdicts:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"Cannot remove {error.filename!r} from the cache: {error.strerror}."
            ) from error
    return PruneReport(
        cache=str(cache), dry_run=dry_run, copies=len(copies), verdicts=len(verdicts), bytes=size
    )


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def difference(uri: str, file: FileEntry) -> str | None:
    """How a file differs from its entry, None when size and checksum are right (reads the whole file)."""
    info = storage.file_info(uri)
    if info.size is None:
        return "is missing"
    if info.size != file.bytes:
        return f"has {info.size} bytes, its manifest says {file.bytes}"
    return None if storage.sha256_file(uri) == file.sha256 else "does not match its checksum"


def _bundle_id(files: Sequence[FileEntry]) -> str:
    lines = sorted(f"{file.name} {file.bytes} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def _fetch(uri: str, file: FileEntry, target: Path) -> None:
    """Copy a file into the cache unless a copy of its size is there."""
    if target.exists() and target.stat().st_size == file.bytes:
        return
    size = storage.file_info(uri).size
    if size != file.bytes:
        what = "is missing" if size is None else f"has {size} bytes, its manifest says {file.bytes}"
        raise CorruptArtifact(_sentence(uri, what))
    # Another process may do the same: each copy appears whole, and both are the same bytes.
    storage.copy_file(uri, str(target))
    if problem := difference(str(target), file):
        target.unlink(missing_ok=True)
        raise CorruptArtifact(_sentence(uri, problem))


def _verdict_id(directory: Path, files: Sequence[FileEntry]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        path = directory / file.name
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            raise CorruptArtifact(_sentence(str(path), "is missing")) from error
        except OSError as error:
            raise StorageError(f"Cannot look at {str(path)!r}: {error.strerror}.") from error
        facts = (str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
        digest.update(f"{facts} {file.bytes} {file.sha256}\n".encode())
    return digest.hexdigest()[:32]


def _sentence(uri: str, what: str) -> str:
    return f"{uri!r} {what}; restore the file or build the index again."


def _keep(verdict: Path) -> None:
    try:
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.touch()
    except OSError as error:
        raise StorageError(
            f"Cannot write to the cache directory {str(verdict.parent)!r} ({error.strerror}); "
            "set GEOLOC_CACHE to a directory that can be written."
        ) from error
