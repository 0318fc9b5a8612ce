"""Which mapped files were cut since they were opened.

Reading a mapped file beyond its present end kills the process (SIGBUS), so the sizes are looked at before each search.
A file that was removed or replaced by another is no danger: the mapping keeps the bytes that it had.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


class MappedFiles:
    """The files of one shard as they were when they were mapped."""

    def __init__(self, directories: Iterable[Path | None]) -> None:
        self._files: list[tuple[str, int, int, int]] = []
        for directory in directories:
            for entry in os.scandir(directory) if directory is not None else ():
                stat = entry.stat()
                self._files.append((entry.path, stat.st_dev, stat.st_ino, stat.st_size))

    def cut(self) -> str | None:
        """The first file that is shorter than when it was mapped, None when all are whole."""
        for path, device, inode, size in self._files:
            try:
                stat = os.stat(path)
            except OSError:  # removed, or out of reach: what is mapped stays mapped
                continue
            if (stat.st_dev, stat.st_ino) == (device, inode) and stat.st_size < size:
                return path
        return None
