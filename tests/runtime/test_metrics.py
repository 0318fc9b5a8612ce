"""Metrics of stages, as a node of Ray exports them."""

from __future__ import annotations

import time
import urllib.request

import pytest
import ray

from geoloc.core import progress
from geoloc.runtime import metrics

_PATIENCE_S = 90.0


def _exported() -> dict[str, float]:
    """Values by name and labels of our own metrics on this node."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        name, _, rest = line.partition("{")
        if name.startswith("ray_geoloc_"):
            labels, _, value = rest.rpartition("} ")
            reason = [word for word in labels.split(",") if word.startswith("reason=")]
            found[",".join([name, *reason])] = float(value)
    return found


@pytest.mark.slow  # Ray reports every ten seconds
def test_progress_and_rows_reach_the_metrics_of_the_node(ray_local: None) -> None:
    metrics.export_progress()
    for _ in progress.track(range(3), total=3, what="cutting tiles"):
        pass
    metrics.record_part("cutting tiles", 7, {"quarantined/empty": 2, "mostly_nodata": 5})
    wanted = {
        "ray_geoloc_work_done": 3.0,
        "ray_geoloc_work_planned": 3.0,
        "ray_geoloc_rows_total": 7.0,
        'ray_geoloc_refused_rows_total,reason="empty"': 2.0,
    }
    until = time.monotonic() + _PATIENCE_S
    while (found := _exported()) != wanted and time.monotonic() < until:
        time.sleep(1.0)
    assert found == wanted


def test_nothing_is_exported_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    metrics._counters.cache_clear()
    metrics.record_part("cutting tiles", 7, {"quarantined/empty": 2})
    assert metrics._counters.cache_info().currsize == 0
