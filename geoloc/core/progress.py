"""Progress of long work: a bar on a terminal, else a plain line with rate and time left; others may listen.

With `GEOLOC_LOG=json` every line is one JSON object with the time, the run and the stage that it belongs to.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Listener = Callable[[str, int, int], None]  # what, done, total
logger = logging.getLogger("geoloc")

FORMAT_VARIABLE, RUN_ID_VARIABLE = "GEOLOC_LOG", "GEOLOC_RUN_ID"
_LINE_EVERY_S = 10.0
_run = {"run_id": "", "stage": ""}
_listeners: list[Listener] = []


def begin_run(stage: str) -> str:
    """Name the stage of the lines that follow; returns the run's id: that of `GEOLOC_RUN_ID`, else a new one."""
    _run.update(run_id=os.environ.get(RUN_ID_VARIABLE) or uuid.uuid4().hex[:12], stage=stage)
    return _run["run_id"]


def enter_stage(stage: str) -> str:
    """Name a stage within a run that goes on; returns the run's id, a new one where none was begun."""
    if not _run["run_id"]:
        return begin_run(stage)
    _run["stage"] = stage
    return _run["run_id"]


def listen(listener: Listener) -> None:
    """Call `listener(what, done, total)` at the start of tracked work and after each item; once however often asked."""
    if listener not in _listeners:
        _listeners.append(listener)


def say(message: str) -> None:
    """One line about what is going on, to standard error (standard output stays for results)."""
    if os.environ.get(FORMAT_VARIABLE) == "json":
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = json.dumps({"time": now, **_run, "message": message}, ensure_ascii=False)
    tqdm.write(message, file=sys.stderr)


def track(items: Iterable[Item], *, total: int, what: str, unit: str = "rows") -> Iterator[Item]:
    """Yield the items while showing how far the work has come.

    `total` counts items and `unit` names them. A terminal gets a bar; a log gets a line every ten seconds.
    """
    if sys.stderr.isatty():
        yield from _told(tqdm(items, total=total, desc=what, unit=f" {unit}", leave=False), total, what)
        return
    start = last = time.monotonic()
    for count, item in enumerate(_told(items, total, what), start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            rate = count / (now - start)
            say(f"{what}: {count:,} of {total:,} {unit}, {rate:,.0f}/s, {(total - count) / rate:,.0f} s left")


def _told(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items; the listeners hear of each after it was used."""
    done = 0
    for listener in _listeners:
        listener(what, done, total)
    for item in items:
        yield item
        done += 1
        for listener in _listeners:
            listener(what, done, total)
