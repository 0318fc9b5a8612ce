"""Gauges whose last values are exported again and again, as Ray forgets what is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from geoloc.runtime import gauges
from geoloc.runtime.gauges import LastingGauge


class Exported:
    """Stands in for Ray's gauge: notes what was set."""

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.values: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, labels: dict[str, str]) -> None:
        self.values.append((value, labels))

    def taken(self) -> list[tuple[float, dict[str, str]]]:
        values, self.values = self.values, []
        return values


@pytest.fixture
def gauge(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gauges, "Gauge", Exported)
    # The thread of the process leaves the gauge to the test.
    monkeypatch.setattr(gauges, "ray", SimpleNamespace(is_initialized=lambda: False))
    return LastingGauge("geoloc_things", "Things.", ("kind",))


def test_the_last_value_of_each_label_is_set_again(gauge: Any) -> None:
    gauge.set(1.0, {"kind": "a"})
    gauge.set(2.0, {"kind": "b"})
    gauge.set(3.0, {"kind": "a"})
    assert gauge._gauge.taken() == [(1.0, {"kind": "a"}), (2.0, {"kind": "b"}), (3.0, {"kind": "a"})]
    gauge.set_again()
    assert gauge._gauge.taken() == [(3.0, {"kind": "a"}), (2.0, {"kind": "b"})]


def test_what_does_not_last_is_set_once(gauge: Any) -> None:
    gauge.set(1.0, {"kind": "a"})
    gauge.set(0.0, {"kind": "a"}, lasting=False)
    assert gauge._gauge.taken() == [(1.0, {"kind": "a"}), (0.0, {"kind": "a"})]
    gauge.set_again()
    assert gauge._gauge.taken() == []


def test_a_thread_sets_all_gauges_again_where_a_ray_runs(gauge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gauge.set(4.0)
    gauge._gauge.taken()
    rounds = iter([None, None])

    def sleep(seconds: float) -> None:
        assert seconds < 10.0  # Ray's reports are that far apart
        if next(rounds, "over") == "over":
            raise InterruptedError

    monkeypatch.setattr(gauges.time, "sleep", sleep)
    monkeypatch.setattr(gauges, "ray", SimpleNamespace(is_initialized=lambda: True))
    refresher = object.__new__(gauges._Refresher)
    refresher._gauges = [gauge]
    with pytest.raises(InterruptedError):
        refresher._run()
    assert gauge._gauge.taken() == [(4.0, {}), (4.0, {})]
