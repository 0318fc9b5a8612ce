"""Files below a local folder, and what a listing has to leave out: no link is followed twice, no name is lost."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

DANGLING = "links that lead nowhere"
SEEN_BEFORE = "links to a folder that is listed already"
NOT_UTF8 = "names that are not UTF-8 (rename them)"
NOT_A_FILE = "pipes, sockets or devices"


def walk(folder: str, *, recursive: bool = True) -> tuple[list[tuple[str, int]], Counter[str]]:
    """(path, size in bytes) of the files below a folder, sorted, and counts of what was left out, by reason.

    Links to files and folders are followed, a folder once: real folders come before links to them. A folder that
    does not exist holds nothing. Raises `OSError` for one that cannot be read.
    """
    files: list[tuple[str, int]] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], list[str]()
    while waiting or links:
        path = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            left_out[SEEN_BEFORE] += 1
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(path, left_out):
            if not entry.is_dir():
                files.append((entry.path, entry.stat().st_size))
            elif recursive:
                (links if entry.is_symlink() else waiting).append(entry.path)
    return sorted(files), left_out


def _entries(path: str, left_out: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """Folders and plain files of a folder; the others are counted."""
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            try:
                entry.name.encode()
                entry.stat()
            except UnicodeEncodeError:
                left_out[NOT_UTF8] += 1
                continue
            except OSError:  # a link whose target is gone, or a link to itself
                left_out[DANGLING] += 1
                continue
            if entry.is_dir() or entry.is_file():
                yield entry
            else:
                left_out[NOT_A_FILE] += 1
