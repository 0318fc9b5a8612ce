"""Gauges whose value holds until it changes.

Ray's nodes drop a gauge that was not set again within two reports (20 s). A value that changes rarely would be missing
most of the time. So a thread of the process sets the last values again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

import ray
from ray.util.metrics import Gauge

_AGAIN_S = 5.0  # Ray reports every ten seconds


class LastingGauge:
    """A gauge of Ray whose last values are exported while the process lives; only for a process with a Ray."""

    def __init__(self, name: str, description: str, labels: Sequence[str] = ()) -> None:
        self._gauge = Gauge(name, description, tuple(labels))
        self._values: dict[tuple[tuple[str, str], ...], float] = {}
        self._lock = threading.Lock()
        _refresher().add(self)

    def set(self, value: float, labels: Mapping[str, str] | None = None, *, lasting: bool = True) -> None:
        """Export a value of some labels from now on; `lasting=False` exports it once, and then forgets the labels."""
        key = tuple(sorted((labels or {}).items()))
        with self._lock:
            if lasting:
                self._values[key] = value
            else:
                self._values.pop(key, None)
            self._gauge.set(value, dict(key))

    def set_again(self) -> None:
        """Export the last values once more."""
        with self._lock:
            for key, value in self._values.items():
                self._gauge.set(value, dict(key))


class _Refresher:
    """Sets all gauges of this process again, every few seconds, in one thread."""

    def __init__(self) -> None:
        self._gauges: list[LastingGauge] = []
        threading.Thread(target=self._run, name="gauges", daemon=True).start()

    def add(self, gauge: LastingGauge) -> None:
        self._gauges.append(gauge)

    def _run(self) -> None:
        while True:
            time.sleep(_AGAIN_S)
            if ray.is_initialized():
                for gauge in list(self._gauges):
                    gauge.set_again()


@lru_cache(maxsize=1)
def _refresher() -> _Refresher:
    return _Refresher()
