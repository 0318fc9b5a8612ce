"""Progress of long work: a bar on a terminal, a plain line with rate and time left otherwise."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
logger = logging.getLogger("geoloc")

_LINE_EVERY_S = 10.0


def say(message: str) -> None:
    """One line about what is going on, to standard error (standard output stays for results)."""
    tqdm.write(message, file=sys.stderr)


def track(items: Iterable[Item], *, total: int, what: str, unit: str = "rows") -> Iterator[Item]:
    """Yield the items while showing how far the work has come.

    `total` counts items and `unit` names them. A terminal gets a bar; a log gets a line every ten seconds.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, unit=f" {unit}", leave=False)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            rate = count / (now - start)
            say(f"{what}: {count:,} of {total:,} {unit}, {rate:,.0f}/s, {(total - count) / rate:,.0f} s left")
