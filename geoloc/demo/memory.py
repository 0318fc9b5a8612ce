"""Peak memory of a run over all its processes."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

import psutil

_EVERY_S = 10.0  # a look costs a third of a second of CPU: the kernel walks all pages


class MemoryWatch:
    """Samples the memory of this process and all below it, every ten seconds, while it is entered.

    Pages that processes share (libraries, Ray's object store) are divided among them (proportional set size),
    so the sum is the run's memory. Where the kernel has no such figure, the resident size is used.
    Processes of a cluster that the run attached to do not count.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watch", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        root = psutil.Process()
        while not self._ended.wait(_EVERY_S if self.peak_bytes else 0.0):
            total = 0
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # it ended while we looked
                    total += _proportional_bytes(process.pid) or process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)


def _proportional_bytes(pid: int) -> int | None:
    """The process's share of the memory it maps; None where `/proc` does not have it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)
