"""The policy of retries alone: what is tried again, how long the waits are, when an operation is given up."""

from __future__ import annotations

import errno
import time

import pytest

from geoloc.core import retry
from geoloc.core.errors import ConfigError
from geoloc.core.retry import OutOfBudget, RetryPolicy, StoreBusy, is_transient, retried

QUICK = RetryPolicy(budget_s=0.5, first_wait_s=0.01, longest_wait_s=0.05)


class _Answer(Exception):
    """An error as fsspec's stores raise them."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (StoreBusy("half"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (TimeoutError("no answer"), True),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28"), True),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: Reduce your request rate"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."), True),
        (
            OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body."),
            False,
        ),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation: no"), False),
        (OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: no"), False),
        (FileNotFoundError("none"), False),
        (PermissionError(errno.EACCES, "no"), False),
        (OSError(errno.ENOSPC, "disk full"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (_Answer(429), True),
        (_Answer(500), True),
        (_Answer(403), False),
        (ValueError("503"), False),
    ],
)
def test_which_errors_are_transient(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_an_operation_is_repeated_until_it_succeeds() -> None:
    answers = [StoreBusy("1"), StoreBusy("2"), "done"]

    def operation() -> str:
        answer = answers.pop(0)
        if isinstance(answer, StoreBusy):
            raise answer
        return answer

    assert retried(operation, what="test", policy=QUICK) == "done"


def test_a_permanent_error_is_raised_at_once() -> None:
    calls: list[int] = []

    def operation() -> None:
        calls.append(1)
        raise PermissionError("no")

    with pytest.raises(PermissionError):
        retried(operation, what="test", policy=QUICK)
    assert len(calls) == 1


def test_the_budget_ends_an_operation_that_never_succeeds() -> None:
    def operation() -> None:
        raise StoreBusy("no answer")

    start = time.monotonic()
    with pytest.raises(OutOfBudget, match=r"^\d+ tries in \d s failed, the last with: no answer$"):
        retried(operation, what="test", policy=QUICK)
    assert time.monotonic() - start <= QUICK.budget_s + 0.2


def test_waits_double_up_to_the_longest_and_are_jittered() -> None:
    policy = RetryPolicy(first_wait_s=0.1, longest_wait_s=5.0)
    for failures in range(1, 40):
        full = min(5.0, 0.1 * 2 ** (failures - 1))
        waits = [policy.wait_s(failures) for _ in range(50)]
        assert all(full / 2 <= wait <= full for wait in waits)
        assert max(waits) - min(waits) > full / 10


def test_a_long_wait_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(retry, "say", said.append)
    monkeypatch.setattr(retry, "_SAY_AFTER_S", 0.05)

    def operation() -> None:
        raise StoreBusy("stalled")

    with pytest.raises(OutOfBudget):
        retried(operation, what="read 's3://b/k'", policy=QUICK)
    assert said == ["read 's3://b/k': no answer for 0 s (stalled); trying for 0 s"]


def test_the_environment_sets_timeout_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOLOC_STORE_TIMEOUT_S", "2.5")
    monkeypatch.setenv("GEOLOC_STORE_BUDGET_S", "30")
    policy = RetryPolicy.from_environment()
    assert (policy.timeout_s, policy.connect_timeout_s, policy.budget_s) == (2.5, 2.5, 30.0)
    for value, message in (
        ("soon", "is 'soon'; give a number of seconds"),
        ("0", "is 0 s; give a number above 0"),
    ):
        monkeypatch.setenv("GEOLOC_STORE_BUDGET_S", value)
        with pytest.raises(ConfigError, match=message):
            RetryPolicy.from_environment()
