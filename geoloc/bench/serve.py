"""`geoloc bench serve`: a service under load, beside its own steps in a plain process, against the bars.

Load is made by locust, in a process of its own, for a bounded time. Service, load and the plain process share the
machine's cores, one after the other; ratios are what to keep.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict, Field

from geoloc.bench.measure import Bar, Spread
from geoloc.core import part_table, storage
from geoloc.core.errors import ConfigError, ServiceUnavailable
from geoloc.core.images import decode_picture
from geoloc.core.progress import say
from geoloc.localization.localizer import Localizer
from geoloc.localization.query_photos import encode_photos, photo
from geoloc.serving.limits import ServingLimits
from geoloc.serving.server import ServeConfig, start

BOUNDARY = "geoloc-bench"
_COLUMNS = ("view", "image", "heading_deg", "fov_deg")
_LATENCY_LIMIT, _LATENCY_MS, _THROUGHPUT_LIMIT = 1.25, 5.0, 0.8
_BATCH = 16


class ServeBench(BaseModel):
    """What is measured; the defaults take about two minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    photos: str = Field(description="URI of a table of queries, whose photos are posted.")
    clients: list[int] = Field([1, 8, 64], description="Clients at once, each without a pause.")
    seconds: int = Field(15, ge=3, le=600, description="How long each number of clients asks.")
    count: int = Field(64, ge=1, description="Photos to take from the table, evenly.")
    port: int = Field(0, ge=0, le=65535, description="Port of the service; 0 takes a free one.")


class Load(BaseModel):
    """What a number of clients saw, and the memory of the service's processes at the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clients: int
    requests: int
    failed: int
    per_s: float
    p50_ms: float
    p99_ms: float
    memory_bytes: int
    cpu_ms: dict[str, float] = Field(description="Milliseconds of a processor for a request, by process.")


class ServeReport(BaseModel):
    """What `geoloc bench serve` measured, and the bars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: int
    steps_ms: dict[str, Spread]
    forward_per_s: Spread
    loads: list[Load]
    bars: list[Bar]

    def text(self) -> str:
        """Tables of the measurements, the bars last."""
        lines = [
            f"{self.cpus} CPUs; steps of one photo in a plain process, milliseconds: median (min to max)"
        ]
        lines += [
            f"  {name:<10} {one.median:8.2f} ({one.min:.2f} to {one.max:.2f})"
            for name, one in self.steps_ms.items()
        ]
        lines.append(f"forward pass alone, batches of {_BATCH}: {self.forward_per_s.median:.1f} photos/s")
        names = ("clients", "requests", "failed", "per s", "p50 ms", "p99 ms", "MiB")
        lines.append("  " + " ".join(f"{name:>9}" for name in names))
        lines += [
            f"  {one.clients:>9} {one.requests:>9} {one.failed:>9} {one.per_s:>9.1f} {one.p50_ms:>9.0f} "
            f"{one.p99_ms:>9.0f} {one.memory_bytes / 2**20:>9.0f}"
            for one in self.loads
        ]
        lines.append("milliseconds of a processor for a request, by process")
        lines += [f"  {one.clients:>9} clients: {_by_process(one.cpu_ms)}" for one in self.loads]
        return "\n".join([*lines, "bars:", *(f"  {bar.line()}" for bar in self.bars)])


def run(config: ServeBench, output: str | None = None) -> ServeReport:
    """Serve an index, post photos to it from several clients at once, and compare with the steps themselves.

    With `output` the report is written there as JSON. Raises `ServiceUnavailable` when the load cannot be made.
    """
    if not config.clients or min(config.clients) < 1:
        raise ConfigError(f"clients is {config.clients}; give numbers of 1 or more.")
    if importlib.util.find_spec("locust") is None:
        raise ConfigError("The load is made by locust, which is not installed; install geoloc[dev].")
    rows = photos_of(config.photos, config.count)
    steps, forward = measure_steps(config.index, rows)
    with tempfile.TemporaryDirectory(prefix="geoloc-bench-") as scratch:
        bodies = Path(scratch) / "bodies"
        bodies.mkdir()
        for number, row in enumerate(rows):
            (bodies / f"{number:05d}").write_bytes(photo_body(row))
        say("bench: starting the service")
        handle = start(ServeConfig(index=config.index, port=config.port, watch_s=0))
        try:
            load_of(handle.url, bodies, 1, 3)  # the first requests compile and open; they are not counted
            loads = [load_of(handle.url, bodies, clients, config.seconds) for clients in config.clients]
        finally:
            handle.stop()
    report = ServeReport(
        cpus=len(os.sched_getaffinity(0)),
        steps_ms=steps,
        forward_per_s=forward,
        loads=loads,
        bars=bars_of(steps["all"], forward, loads),
    )
    if output:
        storage.write_bytes(storage.absolute(output), (report.model_dump_json(indent=1) + "\n").encode())
    return report


def bars_of(steps_ms: Spread, forward_per_s: Spread, loads: Sequence[Load]) -> list[Bar]:
    """The bars of latency, with the fewest clients, and of throughput, at the most requests a second."""
    calm, full = min(loads, key=lambda one: one.clients), max(loads, key=lambda one: one.per_s)
    return [
        Bar(
            what=f"p50 of {calm.clients} client(s), less {_LATENCY_MS:g} ms, to the steps of a plain process",
            value=Spread.of([(calm.p50_ms - _LATENCY_MS) / steps_ms.median]),
            limit=_LATENCY_LIMIT,
            at_most=True,
        ),
        Bar(
            what=f"requests a second with {full.clients} clients, to the batched forward pass",
            value=Spread.of([full.per_s / forward_per_s.median]),
            limit=_THROUGHPUT_LIMIT,
            at_most=False,
        ),
    ]


def photos_of(queries: str, count: int) -> list[dict[str, Any]]:
    """Image and fields of `count` photos, taken evenly from a table of queries."""
    table = part_table.read(queries, kind="queries", columns=_COLUMNS)
    chosen = np.unique(np.linspace(0, table.num_rows - 1, min(count, table.num_rows)).round().astype(int))
    rows: list[dict[str, Any]] = table.take(chosen).to_pylist()
    return rows


def measure_steps(index: str, rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Spread], Spread]:
    """(milliseconds of each step of one photo, photos a second of the batched forward pass) in this process."""
    say("bench: the steps in a plain process")
    localizer, limits = Localizer.open(index), ServingLimits()
    times: dict[str, list[float]] = {"decode": [], "encode": [], "search": [], "all": []}
    pictures = []
    for turn in range(2):  # the first turn compiles and opens
        for row in rows:
            marks = [time.perf_counter()]
            taken = decode_picture(row["image"], limits=limits.image)
            fields = {name: row[name] for name in ("view", "heading_deg", "fov_deg")}
            one = photo(taken.pixels, **fields, facts=taken.facts)
            marks.append(time.perf_counter())
            queries = encode_photos(localizer.encoder, [one])
            marks.append(time.perf_counter())
            localizer.locator.locate(queries, k=10)
            marks.append(time.perf_counter())
            if turn:
                for name, spent in zip(times, [*np.diff(marks), marks[-1] - marks[0]], strict=True):
                    times[name].append(1e3 * float(spent))
                pictures.append(one)
    return {name: Spread.of(values) for name, values in times.items()}, _forward(localizer, pictures)


def _forward(localizer: Localizer, photos: Sequence[Any]) -> Spread:
    """Photos a second of the encoder alone, on prepared pictures of one view."""
    encoder, view = localizer.encoder, photos[0].view
    alike = [one for one in photos if one.view == view]
    batch = encoder.prepare(
        [alike[number % len(alike)].image for number in range(_BATCH)],
        view,
        fov_deg=[alike[number % len(alike)].fov_deg for number in range(_BATCH)],
    )
    per_s = []
    for _ in range(10):
        began = time.perf_counter()
        encoder.encode(batch, view)
        per_s.append(_BATCH / (time.perf_counter() - began))
    return Spread.of(per_s)


def photo_body(row: dict[str, Any]) -> bytes:
    """The multipart body of a photo and what is known of it; its boundary is `BOUNDARY`."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{row[name]}\r\n'.encode()
        for name in ("view", "heading_deg", "fov_deg")
        if row[name] is not None
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo"\r\n\r\n'.encode()
    return b"".join([*parts, head, row["image"], f"\r\n--{BOUNDARY}--\r\n".encode()])


def load_of(url: str, bodies: Path, clients: int, seconds: int, *, stop_s: int = 20) -> Load:
    """What `clients` see that post for some seconds; requests that are under way then get `stop_s` seconds more.

    Raises `ServiceUnavailable` where locust fails, and where no request came to an end.
    """
    say(f"bench: {clients} clients for {seconds} s")
    with tempfile.TemporaryDirectory(prefix="geoloc-load-") as scratch:
        command = [
            *(sys.executable, "-m", "locust", "--headless", "--only-summary", "--skip-log"),
            *("--exit-code-on-error", "0"),
            *("--locustfile", str(Path(__file__).with_name("serve_load.py")), "--host", url),
            *("--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{seconds}s"),
            *("--stop-timeout", str(stop_s), "--json-file", f"{scratch}/load"),
        ]
        environment = os.environ | {"GEOLOC_BENCH_PHOTOS": str(bodies), "GEOLOC_BENCH_BOUNDARY": BOUNDARY}
        limit_s = seconds + stop_s + 60
        before = _processor_seconds()
        try:
            done = subprocess.run(  # noqa: S603 (our own words)
                command,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServiceUnavailable(f"The load of {clients} clients did not end in {limit_s} s.") from error
        statistics = Path(scratch) / "load.json"
        found = json.loads(statistics.read_bytes()) if statistics.exists() else []
    if not found:
        raise ServiceUnavailable(
            f"The load on {url} could not be made, no request came to an end: {' '.join(done.stderr.split())[-300:]}"
        )
    after = _processor_seconds()
    return _load(found[0], clients, {kind: after[kind] - before.get(kind, 0.0) for kind in after})


def _load(found: dict[str, Any], clients: int, processor_s: dict[str, float]) -> Load:
    """Locust's statistics of the one route; it rounds times above 100 ms to two digits."""
    count = int(found["num_requests"])
    times = sorted((float(time_ms), int(number)) for time_ms, number in found["response_times"].items())
    ends = np.cumsum([number for _, number in times])
    p50_ms, p99_ms = (times[int(np.searchsorted(ends, share * count))][0] for share in (0.5, 0.99))
    return Load(
        clients=clients,
        requests=count,
        failed=int(found["num_failures"]),
        per_s=count / max(found["last_request_timestamp"] - found["start_time"], 1e-3),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        memory_bytes=sum(process.memory_info().rss for _, process in service_processes()),
        cpu_ms={kind: round(1e3 * spent / max(count, 1), 2) for kind, spent in processor_s.items()},
    )


def _by_process(cpu_ms: dict[str, float]) -> str:
    shown = ", ".join(
        f"{kind} {spent:.1f}" for kind, spent in sorted(cpu_ms.items(), key=lambda one: -one[1])
    )
    return f"{sum(cpu_ms.values()):.1f} in all: {shown}"


def service_processes() -> list[tuple[str, psutil.Process]]:
    """(kind, process) of what serves: replicas by their deployment, decoders, Serve's proxy and controller.

    They are the descendants of this process where it started its Ray, else those of this machine.
    """
    below = [(_command(one), one) for one in psutil.Process().children(recursive=True)]
    if not any("/raylet " in f"{words} " for words, _ in below):
        below = [(_command(one), one) for one in psutil.process_iter()]
    return [(kind, one) for words, one in below if (kind := _kind(words))]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it ended meanwhile
        return ""


def _kind(words: str) -> str:
    if replica := re.search(r"ServeReplica:\w+:(\w+)", words):
        return replica[1]
    if "geoloc.serving.decoder_process" in words:
        return "decoders"
    return "proxy" if "ProxyActor" in words else "controller" if "ServeController" in words else ""


def _processor_seconds() -> dict[str, float]:
    """Seconds of a processor by kind of process since each began, and of ended children of this process (locust)."""
    spent = {"load": sum(os.times()[2:4])}
    for kind, process in service_processes():
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            spent[kind] = spent.get(kind, 0.0) + times.user + times.system
    return spent
