"""Metrics of stages, which Ray's nodes export beside Ray's own (there the names begin with `ray_`).

They are of the driver: it knows of every part that a task has finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import ray
from ray.util.metrics import Counter

from geoloc.core import progress
from geoloc.runtime.gauges import LastingGauge

_REFUSED = "quarantined/"


@lru_cache(maxsize=1)
def _gauges() -> tuple[LastingGauge, LastingGauge]:
    done = LastingGauge("geoloc_work_done", "Items of a stage's work that are finished.", ("work",))
    return done, LastingGauge("geoloc_work_planned", "Items of a stage's work in all.", ("work",))


@lru_cache(maxsize=1)
def _counters() -> tuple[Counter, Counter]:
    rows = Counter("geoloc_rows", "Rows of tables that stages wrote.", ("work",))
    return rows, Counter("geoloc_refused_rows", "Rows that stages put into quarantine.", ("work", "reason"))


def export_progress() -> None:
    """Export the progress of all tracked work of this process from now on."""
    progress.listen(_record_progress)


def _record_progress(what: str, done: int, total: int) -> None:
    if ray.is_initialized():
        finished, planned = _gauges()
        finished.set(done, {"work": what})
        planned.set(total, {"work": what})


def record_part(what: str, rows: int, counts: Mapping[str, int]) -> None:
    """Count the rows of a part of a table, and by reason those refused (`quarantined/<reason>` in `counts`)."""
    if not ray.is_initialized():
        return
    written, refused = _counters()
    if rows:
        written.inc(rows, {"work": what})
    for name, count in counts.items():
        if name.startswith(_REFUSED) and count:
            refused.inc(count, {"work": what, "reason": name.removeprefix(_REFUSED)})
