"""Where numba keeps what it compiles: beside the package, in the user's cache, else in a directory of our own.

numba refuses to load a cached function when it finds no such place, which is so on read-only file systems.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def find_place(environment: MutableMapping[str, str], package: Path, home: Path) -> None:
    """Name a private temporary directory in `NUMBA_CACHE_DIR` when numba would find no place of its own.

    A directory that the user named is kept. Must run before numba is imported.
    """
    if environment.get(VARIABLE) or os.access(package, os.W_OK) or os.access(home, os.W_OK):
        return
    environment[VARIABLE] = str(_private_directory())


def _private_directory() -> Path:
    """A directory that only we can write, the same for all our processes where that can be had."""
    place = Path(tempfile.gettempdir()) / f"geoloc-compiled-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    # Somebody else may have made it, or a link in its place: what lies there would be loaded as code.
    private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return place if private else Path(tempfile.mkdtemp(prefix="geoloc-compiled-"))
