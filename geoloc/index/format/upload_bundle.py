"""How a bundle of files (a shard, a run) gets to its place: put together apart, then moved or copied in, checked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from geoloc.core import storage
from geoloc.core.errors import CorruptArtifact, StorageError
from geoloc.index.format.local_cache import difference
from geoloc.index.format.manifest import FileEntry


@contextmanager
def working_directory(uri: str) -> Iterator[Path]:
    """An empty local directory on the disk of a local URI, else in the system's temporary directory; then removed."""
    root: str | None = None
    if storage.is_local(uri):
        try:
            storage.local_path(uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"Cannot write into {uri!r}: {error.strerror}.") from error
        root = str(storage.local_path(uri))
    try:
        made = tempfile.TemporaryDirectory(prefix=storage.TEMPORARY_PREFIX, dir=root)
    except OSError as error:
        raise StorageError(
            f"Cannot write into {(root or 'the temporary directory')!r}: {error.strerror}."
        ) from error
    with made as work:
        yield Path(work)


def publish(directory: Path, target_uri: str, files: Sequence[FileEntry]) -> None:
    """Bring the files of a directory to a URI; each appears whole.

    On the same disk they are synced and moved, elsewhere copied and read back. Raises `CorruptArtifact` when what
    arrived is not what was sent.
    """
    if not storage.is_local(target_uri):
        for file in files:
            uri = storage.join(target_uri, file.name)
            storage.copy_file(str(directory / file.name), uri)
            if problem := difference(uri, file):
                raise CorruptArtifact(
                    f"{uri!r} {problem} right after it was written; check the store and run again."
                )
        return
    target = storage.local_path(target_uri)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            storage.sync(directory / file.name)
            os.replace(directory / file.name, target / file.name)
        storage.sync(target)
        storage.sync(target.parent)
    except OSError as error:
        raise StorageError(f"Cannot write {target_uri!r}: {error.strerror}.") from error
