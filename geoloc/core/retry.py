"""One policy for stores that fail or stall: which errors are tried again, how long, and when they are given up.

An operation (one read, one write, one listing) is repeated while its error is transient and its budget lasts. The
waits grow from `first_wait_s` to `longest_wait_s`, each shortened by up to a half at random, so that many workers do
not come back at the same moment. When the budget is spent, `StoreUnavailable` is raised.

Transient: no connection, a broken connection, no byte for `timeout_s`, half an answer, the HTTP statuses 408, 409
(two conditional writes at once), 425, 429 and 5xx. Everything else is permanent and raised at once: a missing file
or bucket, a refused key, a full disk. Only stores are retried: errors of a local disk are permanent.
"""

from __future__ import annotations

import math
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

from geoloc.core.errors import ConfigError
from geoloc.core.progress import say

TIMEOUT_VARIABLE = "GEOLOC_STORE_TIMEOUT_S"
BUDGET_VARIABLE = "GEOLOC_STORE_BUDGET_S"
Result = TypeVar("Result")

_TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
# What the S3 client of Arrow calls these answers; one that it has no name for is followed by its status.
_TRANSIENT_NAMES = frozenset(
    {
        "NETWORK_CONNECTION",
        "INTERNAL_FAILURE",
        "SERVICE_UNAVAILABLE",
        "SLOW_DOWN",
        "THROTTLING",
        "REQUEST_TIMEOUT",
        "REQUEST_EXPIRED",
    }
)
_ARROW_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))?")
_SAY_AFTER_S = 10.0
_random = random.SystemRandom()


class StoreBusy(OSError):
    """A store gave no answer, half an answer, or one that asks to try again."""


class OutOfBudget(OSError):
    """The last error of an operation whose budget is spent."""


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds: without a byte until a request is given up, for a connection, for one operation, between tries."""

    timeout_s: float = 20.0
    connect_timeout_s: float = 10.0
    budget_s: float = 300.0
    first_wait_s: float = 0.1
    longest_wait_s: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{field.name} of stores is {value:g} s; give a number above 0.")

    @classmethod
    def from_environment(cls) -> RetryPolicy:
        """The policy with `GEOLOC_STORE_TIMEOUT_S` and `GEOLOC_STORE_BUDGET_S` where they are set."""
        timeout_s = _seconds(TIMEOUT_VARIABLE, cls.timeout_s)
        return cls(
            timeout_s=timeout_s,
            connect_timeout_s=min(timeout_s, cls.connect_timeout_s),
            budget_s=_seconds(BUDGET_VARIABLE, cls.budget_s),
        )

    def wait_s(self, failures: int) -> float:
        """Time to wait after this many failures (1, 2, ...): doubled each time, half of it at random."""
        longest = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))
        return longest * _random.uniform(0.5, 1.0)


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        return float(text) if text else default
    except ValueError as error:
        raise ConfigError(f"{variable} is {text!r}; give a number of seconds.") from error


def is_transient(error: BaseException) -> bool:
    """Whether an error of a store may pass by itself; the module's docstring has the rule."""
    if isinstance(error, StoreBusy | ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and (match := _ARROW_ERROR.search(str(error))):
        name, status = match.groups()
        return name in _TRANSIENT_NAMES or (status is not None and is_transient_status(int(status)))
    # File systems of fsspec put the status of an answer on their errors, under one of these names.
    status = next((getattr(error, name, None) for name in ("status", "status_code", "code")), None)
    return isinstance(status, int) and is_transient_status(status)


def is_transient_status(status: int) -> bool:
    """Whether an HTTP status asks for another try."""
    return status in _TRANSIENT_STATUSES or status >= 500


def retried(operation: Callable[[], Result], *, what: str, policy: RetryPolicy | None = None) -> Result:
    """The result of an operation that may be repeated; `what` names it in the line that says that it waits.

    Raises a permanent error as it is and `OutOfBudget` from the last transient one.
    """
    start = time.monotonic()
    failures, silent = 0, True
    while True:
        try:
            return operation()
        except Exception as error:
            if not is_transient(error):
                raise
            policy = policy or RetryPolicy.from_environment()
            failures += 1
            wait_s = policy.wait_s(failures)
            spent_s = time.monotonic() - start
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            if spent_s + wait_s > policy.budget_s:
                raise OutOfBudget(
                    f"{failures} tries in {spent_s:.0f} s failed, the last with: {detail}"
                ) from error
        if silent and spent_s >= _SAY_AFTER_S:
            silent = False
            say(f"{what}: no answer for {spent_s:.0f} s ({detail}); trying for {policy.budget_s:.0f} s")
        time.sleep(wait_s)
