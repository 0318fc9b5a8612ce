"""Metrics of the service, which Ray's nodes export beside Ray's own (there the names begin with `ray_`).

Every process counts what it does itself; Prometheus adds up. Nothing is recorded where no Ray runs. Labels are words of
ours (routes, reasons, steps) and names of indices, never anything that a client chose.
"""

from __future__ import annotations

from functools import lru_cache

import ray
from ray.util.metrics import Counter, Histogram

from geoloc.runtime.gauges import LastingGauge

# From a cached answer to a request at its deadline.
_BOUNDARIES_S = [
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    15.0,
]
DECODE, ENCODE, SEARCH, LOCATE = "decode", "encode", "search", "locate"
"""The steps of a photo, in their order."""


@lru_cache(maxsize=1)
def _requests() -> tuple[Counter, Histogram]:
    counted = Counter(
        "geoloc_requests", "HTTP requests by route, status and reason.", ("route", "status", "reason")
    )
    seconds = Histogram(
        "geoloc_request_seconds",
        "Seconds of an HTTP request in the ingress, its body included.",
        _BOUNDARIES_S,
        ("route",),
    )
    return counted, seconds


@lru_cache(maxsize=1)
def _steps() -> tuple[Histogram, Histogram]:
    worked = Histogram(
        "geoloc_step_seconds", "Seconds of work of a step of a photo.", _BOUNDARIES_S, ("step",)
    )
    waited = Histogram(
        "geoloc_wait_seconds",
        "Seconds that a photo waited for a step, in the process that does it.",
        _BOUNDARIES_S,
        ("step",),
    )
    return worked, waited


@lru_cache(maxsize=1)
def _photos() -> Counter:
    return Counter(
        "geoloc_photos", "Answered photos: located, or the reason why not.", ("index_name", "outcome")
    )


@lru_cache(maxsize=1)
def _in_flight() -> LastingGauge:
    return LastingGauge("geoloc_requests_in_flight", "Requests that an ingress is answering.")


@lru_cache(maxsize=1)
def _served() -> tuple[LastingGauge, LastingGauge]:
    snapshots = LastingGauge(
        "geoloc_served_snapshot",
        "1 for the snapshot that an index is served from; 0, once, for the one before it.",
        ("index_name", "snapshot_id", "model_id"),
    )
    broken = LastingGauge(
        "geoloc_broken_shards", "Shards that a search replica leaves out as damaged.", ("index_name",)
    )
    return snapshots, broken


def record_request(route: str, status: int, reason: str, seconds: float) -> None:
    """A request is over; `reason` is empty where it was answered."""
    if ray.is_initialized():
        counted, histogram = _requests()
        counted.inc(1, {"route": route, "status": str(status), "reason": reason})
        histogram.observe(seconds, {"route": route})


def record_step(step: str, worked_s: float, waited_s: float | None = None) -> None:
    """A photo has gone through a step, for which it waited so long before."""
    if ray.is_initialized():
        worked, waited = _steps()
        worked.observe(max(worked_s, 0.0), {"step": step})
        if waited_s is not None:
            waited.observe(max(waited_s, 0.0), {"step": step})


def record_photo(index_name: str, outcome: str) -> None:
    """A photo is answered."""
    if ray.is_initialized():
        _photos().inc(1, {"index_name": index_name, "outcome": outcome})


def record_in_flight(count: int) -> None:
    """So many requests are being answered now."""
    if ray.is_initialized():
        _in_flight().set(count)


def record_served(index_name: str, snapshot_id: str, model_id: str, *, serving: bool) -> None:
    """An index is served from a snapshot, or no longer."""
    if ray.is_initialized():
        labels = {"index_name": index_name, "snapshot_id": snapshot_id, "model_id": model_id}
        _served()[0].set(float(serving), labels, lasting=serving)


def record_broken_shards(index_name: str, count: int) -> None:
    """So many shards of the served snapshot are left out in this replica."""
    if ray.is_initialized():
        _served()[1].set(count, {"index_name": index_name})
