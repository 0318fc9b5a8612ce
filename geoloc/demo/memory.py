"""Peak memory of a run over all its processes."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType

import psutil

_EVERY_S = 1.0


class MemoryWatch:
    """Samples the resident memory of this process and all below it, once a second, while it is entered.

    Pages that processes share (libraries, Ray's object store) count once for each: the true need is lower.
    Processes of a cluster that was attached to are not ours and do not count.
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
                    total += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
