"""Timing variants against each other: interleaved, so that a busy moment hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

# OpenMP's threads keep waiting for work for a moment, on the cores that the next variant needs.
_PAUSE_S = 0.02


class Spread(BaseModel):
    """Smallest, median and greatest of several measurements."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of measurements."""
        return cls(min=min(values), median=float(np.median(values)), max=max(values))


class Bar(BaseModel):
    """A measurement and its limit: `value` has to be at most, or at least, the limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    value: Spread
    quickest: float | None = Field(None, description="The same of the quickest rounds, for a busy machine.")
    limit: float
    at_most: bool = Field(description="Whether the limit is an upper one.")
    unit: str = "x"

    @property
    def met(self) -> bool:
        """Whether the median keeps the limit."""
        return self.value.median <= self.limit if self.at_most else self.value.median >= self.limit

    def line(self) -> str:
        """One line for people."""
        sign = "<=" if self.at_most else ">="
        value = f"{self.value.median:.2f}{self.unit} ({self.value.min:.2f} to {self.value.max:.2f})"
        if self.quickest is not None:
            value += f", quickest {self.quickest:.2f}{self.unit}"
        verdict = "met" if self.met else f"missed by {abs(self.value.median / self.limit - 1):.0%}"
        return f"{self.what:<78} {value:>42}  bar {sign} {self.limit:g}{self.unit}  {verdict}"


def interleave(variants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each variant in each round; every variant runs once untimed before."""
    for work in variants.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        names = list(variants)
        # The first variant meets other contents of the caches, so the order turns with every round.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            time.sleep(_PAUSE_S)
            began = time.perf_counter()
            variants[name]()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratios(above: list[float], below: list[float]) -> Spread:
    """The ratio of two variants, round by round."""
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
