"""What training keeps on the disk of a node: columns of pairs and prepared pictures, made once for all its workers.

    <cache>/training/<identity>/lock               held by who fills it
    <cache>/training/<identity>/in-use             shared by processes that have it open
    <cache>/training/<identity>/<name>.u8          pictures uint8[n, h, w, 3]
    <cache>/training/<identity>/<name>.<n>.json    a part that is filled, with the checksum of its pictures
    <cache>/training/<identity>/checked            the run in which all parts were last compared with their checksums
    <cache>/training/<identity>/columns/           arrays of numbers, with `columns.json` when they are whole
    <cache>/training/<identity>/<list>/            neighbours of the pairs, as `columns/`

`<identity>` hashes the tables and what was cut from them. A worker that starts again finds what is there. The cache has
a limit. Where a run needs room, runs that nobody has open are removed, those unused for longest first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from geoloc.core.arrays import Pixels
from geoloc.core.errors import ConfigError, StorageError
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.progress import say
from geoloc.training.pictures import PictureSet, Span, fill_span

Fill = Callable[[Callable[..., None], Iterable[tuple[Any, ...]]], None]
"""Calls a function with each of the arguments: here, or in other processes of this node."""

_FOLDER = "training"
_FREE_SHARE = 0.9  # of the free disk that the cache may take where no limit is given
_CHECKERS = 4
# Locks by folder. They live as long as the process, whatever becomes of a `NodeCache`.
_IN_USE: dict[Path, IO[bytes]] = {}
_GB = 1e9


def fill_here(function: Callable[..., None], calls: Iterable[tuple[Any, ...]]) -> None:
    """Call the function with each of the arguments, in this process."""
    for arguments in calls:
        function(*arguments)


@dataclass
class NodeCache:
    """The cache of one run on this node.

    `root` is the cache directory of the host. `identity` says what the content is made from. `run` names this call of
    the stage: pictures are compared with their checksums once in each. `limit_bytes` is what all runs may keep here.
    """

    root: Path
    identity: str
    run: str
    limit_bytes: float | None = None
    fill: Fill = fill_here

    @property
    def folder(self) -> Path:
        """Where the files of this run lie."""
        return self.root / _FOLDER / self.identity

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that fills this cache; others wait. It is in use while this process lives."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)
            lock = (self.folder / "lock").open("ab")
        except OSError as error:
            raise StorageError(
                f"Cannot write to the cache {str(self.folder)!r} ({error.strerror}); set GEOLOC_CACHE to a directory "
                "on a local disk that can be written."
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _hold(self.folder)
            yield

    def columns(
        self, make: Callable[[Path], dict[str, Any]], name: str = "columns"
    ) -> tuple[Path, dict[str, Any]]:
        """The folder `name` of columns and what `make(folder)`, which writes them, noted about them; made once."""
        folder = self.folder / name
        note = folder / "columns.json"
        with self.locked():
            if not note.exists():
                shutil.rmtree(folder, ignore_errors=True)
                self.fill(_make_columns, [(make, str(folder))])
        return folder, json.loads(note.read_text(encoding="utf-8"))

    def pictures(self, sets: Sequence[PictureSet]) -> list[Pixels]:
        """The pictures of each set uint8[n, h, w, 3], mapped; those that are missing are prepared first."""
        with self.locked():
            self._check(sets)
            missing = [(each, span) for each in sets for span in each.spans() if not self._has(each, span)]
            if missing:
                self._make_room(sum(each.bytes for each in sets))
                for each in sets:
                    _reserve(self._file(each), each.bytes)
                calls = (
                    (each.table, each.maker, span, str(self._file(each)), each.shape)
                    for each, span in missing
                )
                self.fill(_fill_file, calls)
        return [np.memmap(self._file(each), dtype=np.uint8, mode="r", shape=each.shape) for each in sets]

    def _file(self, pictures: PictureSet) -> Path:
        return self.folder / f"{pictures.name}.u8"

    def _has(self, pictures: PictureSet, span: Span) -> bool:
        file = self._file(pictures)
        return _receipt(file, span).exists() and file.exists() and file.stat().st_size == pictures.bytes

    def _check(self, sets: Sequence[PictureSet]) -> None:
        """Compare the parts that are there with their checksums, once in a run; those that differ are made again."""
        mark = self.folder / "checked"
        if mark.exists() and mark.read_text(encoding="utf-8") == self.run:
            return
        spans = [(each, span) for each in sets for span in each.spans() if self._has(each, span)]
        with ThreadPoolExecutor(_CHECKERS) as pool:
            same = pool.map(lambda found: _is_right(self._file(found[0]), found[0].shape, found[1]), spans)
            wrong = [
                _receipt(self._file(each), span)
                for (each, span), right in zip(spans, same, strict=True)
                if not right
            ]
        for receipt in wrong:
            receipt.unlink()
        if wrong:
            say(
                f"train: {len(wrong):,} parts in the cache {str(self.folder)!r} are damaged and are made again"
            )
        mark.write_text(self.run, encoding="utf-8")

    def _make_room(self, wanted_bytes: int) -> None:
        """Remove runs that nobody has open, the longest unused first, until `wanted_bytes` fit below the limit."""
        here, room = _size(self.folder), 0.0
        others = sorted(
            (path for path in self.folder.parent.iterdir() if path.is_dir() and path != self.folder),
            key=lambda path: path.stat().st_mtime,
        )
        kept = {path: _size(path) for path in others}
        for path in [None, *others]:
            if path is not None and _remove_unused(path):
                say(
                    f"train: removed {kept.pop(path) / _GB:.1f} GB of an earlier run from the cache {str(self.root)!r}"
                )
            free = shutil.disk_usage(self.folder).free * _FREE_SHARE + here
            limit = self.limit_bytes if self.limit_bytes is not None else free + sum(kept.values())
            room = max(0.0, min(free, limit - sum(kept.values())))
            if wanted_bytes <= room:
                return
        raise ConfigError(
            f"The pictures of this run take {wanted_bytes / _GB:.1f} GB on each node; the cache {str(self.root)!r} has "
            f"room for {room / _GB:.1f} GB: raise cache_gb, set GEOLOC_CACHE to a larger disk, or choose a smaller "
            "tile_px and panorama_px."
        )


def _hold(folder: Path) -> None:
    """Keep a folder in use while this process lives."""
    if folder not in _IN_USE:
        _IN_USE[folder] = (folder / "in-use").open("ab")
        fcntl.flock(_IN_USE[folder], fcntl.LOCK_SH)


def cache_identity(*content: object) -> str:
    """The name of a cache that is made from this JSON-able content."""
    return fingerprint_of([1, *content])[:32]


def _make_columns(make: Callable[[Path], dict[str, Any]], folder: str) -> None:
    note = make(Path(folder))
    _write_whole(Path(folder) / "columns.json", json.dumps(note))


def _fill_file(table: str, maker: Any, span: Span, file: str, shape: tuple[int, int, int, int]) -> None:
    """Prepare the pictures of a span into their place in the file, then write the receipt with their checksum."""
    whole = np.memmap(file, dtype=np.uint8, mode="r+", shape=shape)
    pictures = whole[span.start : span.start + len(span.rows)]
    fill_span(table, span, maker, pictures)
    whole.flush()
    _write_whole(
        _receipt(Path(file), span), json.dumps({"sha256": _checksum(pictures), "rows": len(span.rows)})
    )


def _is_right(file: Path, shape: tuple[int, int, int, int], span: Span) -> bool:
    whole = np.memmap(file, dtype=np.uint8, mode="r", shape=shape)
    noted = json.loads(_receipt(file, span).read_text(encoding="utf-8"))
    return bool(noted["sha256"] == _checksum(whole[span.start : span.start + len(span.rows)]))


def _checksum(pictures: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pictures).data).hexdigest()


def _receipt(file: Path, span: Span) -> Path:
    return file.with_suffix(f".{span.start}.json")


def _reserve(file: Path, size_bytes: int) -> None:
    """A file of this size; its pages take room when they are written."""
    with file.open("ab") as stream:
        stream.truncate(size_bytes)


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _size(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_blocks * 512
    return size


def _remove_unused(folder: Path) -> bool:
    """Remove the cache of a run unless a process has it open."""
    try:
        with (folder / "in-use").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except (BlockingIOError, FileNotFoundError):
        return False
    return True
