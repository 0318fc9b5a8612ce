"""What a piece of work had reserved of a Ray cluster: CPU-seconds and GPU-seconds, which are what machines cost."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import ray

_EVERY_S = 1.0


class ReservedSeconds:
    """Sums up, while it is entered, what all work on the cluster has reserved.

    It looks once a second, so each change counts up to a second wrongly. Other work on the same cluster counts too;
    the driver's own processor time does not.
    """

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.gpu_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="reserved", daemon=True)

    def __enter__(self) -> ReservedSeconds:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        last_s = time.monotonic()
        while True:
            stopped = self._stop.wait(_EVERY_S)
            now_s = time.monotonic()
            cpus, gpus = _reserved() if ray.is_initialized() else (0.0, 0.0)
            self.cpu_s += cpus * (now_s - last_s)
            self.gpu_s += gpus * (now_s - last_s)
            last_s = now_s
            if stopped:
                return


def _reserved() -> tuple[float, float]:
    """CPUs and GPUs of the cluster that are not free."""
    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = (max(0.0, total.get(name, 0.0) - free.get(name, 0.0)) for name in ("CPU", "GPU"))
    return cpus, gpus
