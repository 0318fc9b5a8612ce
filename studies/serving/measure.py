"""The service under load while something happens to it: swaps and a killed replica, scaling, a soak, hostile clients.

    python studies/serving/measure.py swaps   --index my-index --photos tables/queries
    python studies/serving/measure.py scaling --index my-index --photos tables/queries --plot scaling.png
    python studies/serving/measure.py soak    --index my-index --photos tables/queries --seconds 420
    python studies/serving/measure.py hostile --index my-index --photos tables/queries --rate 5

The text and the figures are in docs/serving.md. Requests are sent at a stated rate, whether or not earlier ones were
answered, by this very process; it shares the machine with the service that it starts. JSON goes to standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import ray
from PIL import Image
from ray import serve

from geoloc.bench.serve import BOUNDARY, load_of, photo_body, photos_of, service_processes
from geoloc.core import storage
from geoloc.core.images import decode_picture
from geoloc.index.format.commit import current_snapshot
from geoloc.index.maintenance.history import RollbackConfig, rollback
from geoloc.localization.localizer import Localizer
from geoloc.serving.server import APPLICATION, ServeConfig, start
from geoloc.stages.index_update import RemoveInputs, UpdateConfig, remove

HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass(frozen=True)
class Reply:
    """What came back of a photo that was sent `at_s` seconds after the load began; status 0: no HTTP answer."""

    photo: int
    at_s: float
    seconds: float
    status: int
    snapshot_id: str = ""
    first_tile: str = ""


class Load:
    """Photos that are posted to a service at a rate that may change with time."""

    def __init__(self, url: str, bodies: Sequence[bytes]) -> None:
        self.url, self.bodies = url, bodies
        self.began = 0.0

    def run(self, rate: Callable[[float], float], seconds: float) -> list[Reply]:
        """Post at `rate(seconds since the begin)` requests a second; returns when all are answered."""
        return asyncio.run(self._run(rate, seconds))

    async def _run(self, rate: Callable[[float], float], seconds: float) -> list[Reply]:
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        async with httpx.AsyncClient(base_url=self.url, timeout=30, limits=limits, trust_env=False) as client:
            self.began = time.monotonic()
            due, tasks = 0.0, []
            while due < seconds:
                await asyncio.sleep(max(0.0, self.began + due - time.monotonic()))
                tasks.append(asyncio.create_task(self._post(client, len(tasks) % len(self.bodies))))
                due += 1 / rate(due)
            return await asyncio.gather(*tasks)

    async def _post(self, client: httpx.AsyncClient, photo: int) -> Reply:
        sent = time.monotonic()
        try:
            answer = await client.post("/v1/localize", content=self.bodies[photo], headers=HEADERS)
        except httpx.HTTPError:
            return Reply(photo, sent - self.began, time.monotonic() - sent, 0)
        spent = time.monotonic() - sent
        if answer.status_code != 200:
            return Reply(photo, sent - self.began, spent, answer.status_code)
        document = answer.json()
        first = document["matches"][0]["tile_id"]
        return Reply(photo, sent - self.began, spent, 200, document["snapshot_id"], first)


def latencies(replies: Sequence[Reply]) -> dict[str, Any]:
    """Counts by status, and percentiles of the answered ones in milliseconds."""
    counts = {"requests": len(replies), "statuses": dict(Counter(str(one.status) for one in replies))}
    answered = [1e3 * one.seconds for one in replies if one.status == 200]
    if not answered:
        return counts
    shares = {f"p{share}_ms": round(float(np.percentile(answered, share)), 1) for share in (50, 99)}
    return {**counts, **shares, "max_ms": round(max(answered), 1)}


def first_tiles(index: str, snapshot_id: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The best tile of each photo in a snapshot, by the library in this process."""
    with_snapshot = Localizer.open(index, snapshot_id)
    fields = ("view", "heading_deg", "fov_deg")
    found = [
        with_snapshot.localize(
            decode_picture(row["image"]).pixels, k=1, **{name: row[name] for name in fields}
        )
        for row in rows
    ]
    return [fix.matches[0].tile_id for fix in found]


def two_snapshots(
    index: str, scratch: Path, rows: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, list[str]]]:
    """A copy of an index with a second snapshot, in which no photo finds its first tile; best tiles by snapshot."""
    copy = str(scratch / "index")
    shutil.copytree(storage.local_path(storage.absolute(index)), copy)
    whole = current_snapshot(copy)
    expected = {whole: first_tiles(copy, whole, rows)}
    ids = scratch / "ids.txt"
    ids.write_text("\n".join(sorted(set(expected[whole]))) + "\n")
    fewer = remove(UpdateConfig(), RemoveInputs(tiles=str(ids)), copy).snapshot_id
    expected[fewer] = first_tiles(copy, fewer, rows)
    return copy, expected


def swaps(given: argparse.Namespace, rows: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """Requests at a steady rate while the index is swapped, and a replica of each kind in `--kill` is killed."""
    index, expected = two_snapshots(given.index, scratch, rows)
    one, other = expected
    service = start(
        ServeConfig(
            index=index,
            port=0,
            watch_s=0.5,
            search_replicas=2,
            encoder_replicas=2,
            uncalibrated=True,
            cpus_per_replica=0.1,
        )
    )
    events: list[dict[str, Any]] = []
    try:
        load = Load(service.url, [photo_body(row) for row in rows])
        load.run(lambda at: 5.0, 5.0)  # what is opened and compiled by the first requests is not counted
        act = threading.Thread(target=_swap_and_kill, args=(given, load, index, [one, other], events))
        load.began = 0.0
        act.start()
        replies = load.run(lambda at: given.rate, given.seconds)
        act.join()
    finally:
        service.stop()
    wrong = [
        reply
        for reply in replies
        if reply.status == 200 and reply.first_tile != expected[reply.snapshot_id][reply.photo]
    ]
    failed = [reply for reply in replies if reply.status != 200]
    return {
        **latencies(replies),
        "failed": len(failed),
        "last_failed_at_s": max((round(reply.at_s, 1) for reply in failed), default=None),
        "mixed": len(wrong),
        "by_snapshot": dict(Counter(reply.snapshot_id for reply in replies)),
        "worst_ms_by_second": _worst(replies),
        "events": events,
    }


def _swap_and_kill(
    given: argparse.Namespace, load: Load, index: str, snapshots: list[str], events: list[dict[str, Any]]
) -> None:
    """Make the other snapshot current at even times, and kill a replica between the swaps."""
    while not load.began:
        time.sleep(0.01)
    plan: list[tuple[float, str]] = [
        (given.seconds * (number + 1) / (given.swaps + 1), "swap") for number in range(given.swaps)
    ]
    plan += [
        (given.seconds * (0.35 + 0.3 * number), f"kill {kind}") for number, kind in enumerate(given.kill)
    ]
    current = snapshots[1]
    for at_s, what in sorted(plan):
        time.sleep(max(0.0, load.began + at_s - time.monotonic()))
        event: dict[str, Any] = {"at_s": round(time.monotonic() - load.began, 1), "what": what}
        if what == "swap":
            current = snapshots[0] if current == snapshots[1] else snapshots[1]
            rollback(index, RollbackConfig(to=current))
            event["snapshot_id"] = current
        else:
            kind = what.removeprefix("kill ")
            kill_replica(kind)
            event["whole_again_s"] = _whole_again_s(load.url)
        events.append(event)


def kill_replica(deployment: str) -> None:
    """Kill the process of one replica, as a fault would."""
    for name in ray.util.list_named_actors(all_namespaces=True):
        if f"#{deployment}#" in name["name"]:
            ray.kill(ray.get_actor(name["name"], namespace=name["namespace"]))
            return


def _whole_again_s(url: str) -> float | None:
    """Seconds until the service counts all replicas again; None: not within a minute."""
    began = time.monotonic()
    time.sleep(1.0)  # a health that was asked before holds for a second
    while time.monotonic() - began < 60:
        answer = httpx.get(f"{url}/readyz", timeout=10, trust_env=False)
        if answer.status_code == 200:
            (index,) = answer.json()["indices"]
            if index["searchers"] == "2/2" and index["encoders"] == "2/2":
                return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    return None


def _worst(replies: Sequence[Reply]) -> list[int]:
    """The slowest answer of each second, in milliseconds."""
    worst = np.zeros(1 + int(max(reply.at_s for reply in replies)))
    for reply in replies:
        worst[int(reply.at_s)] = max(worst[int(reply.at_s)], 1e3 * reply.seconds)
    return [round(value) for value in worst]


def scaling(given: argparse.Namespace, rows: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """Little load, much, and little again, with replicas that follow it; their numbers once a second."""
    service = start(
        ServeConfig(
            index=given.index, port=0, watch_s=0, max_encoder_replicas=3, max_search_replicas=3, cpus_per_replica=0.1,
            target_ongoing_requests=1.0, scale_up_after_s=2.0, scale_down_after_s=10.0,
        )
    )  # fmt: skip
    calm_s = given.seconds / 4
    samples: list[dict[str, float]] = []
    over = threading.Event()
    try:
        load = Load(service.url, [photo_body(row) for row in rows])
        load.run(lambda at: 5.0, 5.0)
        load.began = 0.0
        watch = threading.Thread(target=_count_replicas, args=(load, samples, over))
        watch.start()
        busy = (calm_s, 2 * calm_s)
        replies = load.run(lambda at: given.rate if busy[0] <= at < busy[1] else 2.0, given.seconds)
        over.set()
        watch.join()
    finally:
        over.set()
        service.stop()
    if given.plot:
        _plot(given, busy, samples, replies)
    return {
        **latencies(replies),
        "failed": sum(reply.status != 200 for reply in replies),
        "busy_s": busy,
        "most": {kind: max(one[kind] for one in samples) for kind in ("Encoder", "Search")},
        "last": {kind: samples[-1][kind] for kind in ("Encoder", "Search")},
        "samples": samples,
    }


def _count_replicas(load: Load, samples: list[dict[str, float]], over: threading.Event) -> None:
    while not over.wait(1.0):
        deployments = serve.status().applications[APPLICATION].deployments
        if load.began:
            counts = {name: float(one.replica_states.get("RUNNING", 0)) for name, one in deployments.items()}
            samples.append({"at_s": round(time.monotonic() - load.began, 1), **counts})


def _plot(
    given: argparse.Namespace,
    busy: tuple[float, float],
    samples: list[dict[str, float]],
    replies: Sequence[Reply],
) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 4), sharex=True, layout="constrained")
    at = [one["at_s"] for one in samples]
    for kind, style in (("Encoder", "-"), ("Search", "--")):
        above.step(at, [one[kind] for one in samples], style, where="post", label=kind)
    above.axvspan(*busy, alpha=0.12, color="grey", label=f"{given.rate:g} requests/s, else 2")
    above.set_ylabel("replicas")
    above.set_ylim(0, 3.4)
    above.legend(fontsize=8, loc="upper right")
    seconds = np.arange(0, given.seconds, 2.0)
    middle = [
        np.median([1e3 * one.seconds for one in replies if begin <= one.at_s < begin + 2] or [np.nan])
        for begin in seconds
    ]
    below.plot(seconds, middle)
    below.axvspan(*busy, alpha=0.12, color="grey")
    below.set_ylim(bottom=0)
    below.set_ylabel("median latency, ms")
    below.set_xlabel("seconds")
    figure.savefig(given.plot, dpi=100)


def soak(given: argparse.Namespace, rows: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """A steady load of a share of the capacity; memory and open files of the service's processes."""
    service = start(ServeConfig(index=given.index, port=0, watch_s=10))
    samples: list[dict[str, float]] = []
    over = threading.Event()
    try:
        for number, row in enumerate(rows):
            (scratch / f"{number:05d}").write_bytes(photo_body(row))
        load_of(service.url, scratch, 1, 3)
        capacity = load_of(service.url, scratch, 16, 15).per_s
        rate = given.share * capacity
        watch = threading.Thread(target=_watch_memory, args=(samples, over))
        watch.start()
        replies = Load(service.url, [photo_body(row) for row in rows]).run(lambda at: rate, given.seconds)
        over.set()
        watch.join()
    finally:
        over.set()
        service.stop()
    later = [
        one for one in samples if one["at_s"] >= given.seconds / 4
    ]  # what caches fill at first is no leak
    minutes = np.array([one["at_s"] / 60 for one in later])
    slopes = {
        name: round(float(np.polyfit(minutes, [one[name] for one in later], 1)[0]), 2)
        for name in later[0]
        if name.endswith("_mb")
    }
    return {
        "capacity_per_s": round(capacity, 1),
        "rate_per_s": round(rate, 1),
        **latencies(replies),
        "failed": sum(reply.status != 200 for reply in replies),
        "first": samples[0],
        "last": samples[-1],
        "mb_a_minute": slopes,
        "samples": samples,
    }


def hostile(given: argparse.Namespace, rows: list[dict[str, Any]], scratch: Path) -> dict[str, Any]:
    """A steady load while bombs arrive in the second third, and bodies that never end in the last one."""
    service = start(ServeConfig(index=given.index, port=0, watch_s=0))
    samples: list[dict[str, float]] = []
    over = threading.Event()
    third = given.seconds / 3
    statuses: dict[str, Counter[str]] = {"bombs": Counter(), "slow": Counter()}
    try:
        load = Load(service.url, [photo_body(row) for row in rows])
        load.run(lambda at: given.rate, 5.0)
        load.began = 0.0
        watch = threading.Thread(target=_watch_memory, args=(samples, over, 0.25))
        attack = threading.Thread(target=_attack, args=(load, third, statuses))
        watch.start()
        attack.start()
        replies = load.run(lambda at: given.rate, given.seconds)
        attack.join()
        over.set()
        watch.join()
    finally:
        over.set()
        service.stop()
    found: dict[str, Any] = {}
    for number, name in enumerate(("calm", "bombs", "slow")):
        begin, end = number * third, (number + 1) * third
        inside = [one for one in replies if begin <= one.at_s < end]
        memory = [one for one in samples if begin <= one["at_s"] < end]
        found[name] = {
            **latencies(inside),
            "attackers": dict(statuses.get(name, ())),
            "most_mb": {key: max(one.get(key, 0.0) for one in memory) for key in ("all_mb", "decoders_mb")},
        }
    return found


def _attack(load: Load, third_s: float, statuses: dict[str, Counter[str]]) -> None:
    while not load.began:
        time.sleep(0.01)
    sink = io.BytesIO()
    Image.new("RGB", (5000, 5000), (90, 120, 60)).save(sink, "WEBP", lossless=True)
    bomb = photo_body({"image": sink.getvalue(), "view": None, "heading_deg": None, "fov_deg": None})

    def post(body: Any) -> str:
        try:
            answer = httpx.post(
                f"{load.url}/v1/localize", content=body, headers=HEADERS, timeout=60, trust_env=False
            )
        except httpx.HTTPError as error:
            return type(error).__name__
        return str(answer.status_code)

    def dripping() -> Iterator[bytes]:
        yield bomb[:200]
        while time.monotonic() < load.began + 3 * third_s:
            time.sleep(0.5)
            yield b"\0"

    with ThreadPoolExecutor(64) as pool:
        for number, (name, bodies) in enumerate(
            (("bombs", [bomb] * 20), ("slow", [dripping() for _ in range(64)])), start=1
        ):
            time.sleep(max(0.0, load.began + number * third_s - time.monotonic()))
            statuses[name].update(pool.map(post, bodies))


def _watch_memory(samples: list[dict[str, float]], over: threading.Event, every_s: float = 5.0) -> None:
    """Resident memory by kind of process, and open files of all, from time to time."""
    began = time.monotonic()
    while True:
        sample: dict[str, float] = {"at_s": round(time.monotonic() - began, 1), "files": 0.0, "all_mb": 0.0}
        for kind, process in service_processes():
            with contextlib.suppress(psutil.Error):  # a decoder may end meanwhile
                megabytes = process.memory_info().rss / 2**20
                sample[f"{kind}_mb"] = round(sample.get(f"{kind}_mb", 0.0) + megabytes, 1)
                sample["all_mb"] = round(sample["all_mb"] + megabytes, 1)
                sample["files"] += process.num_fds()
        samples.append(sample)
        if over.wait(every_s):
            return


def main() -> None:
    """Run one of the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("study", choices=("swaps", "scaling", "soak", "hostile"))
    parser.add_argument("--index", required=True, help="path of an index")
    parser.add_argument("--photos", required=True, help="table of queries, whose photos are posted")
    parser.add_argument("--count", type=int, default=64, help="photos to take from it")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load lasts")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second (scaling: at most)")
    parser.add_argument("--swaps", type=int, default=5, help="how often the index is swapped")
    parser.add_argument("--kill", nargs="*", default=["Search"], help="deployments that lose a replica")
    parser.add_argument("--share", type=float, default=0.6, help="soak: share of the measured capacity")
    parser.add_argument("--plot", help="scaling: PNG of replicas and latency")
    given = parser.parse_args()
    rows = photos_of(given.photos, given.count)
    with tempfile.TemporaryDirectory(prefix="geoloc-study-") as scratch:
        studies = {"swaps": swaps, "scaling": scaling, "soak": soak, "hostile": hostile}
        found = studies[given.study](given, rows, Path(scratch))
    report = {
        **vars(given),
        "cpus": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[2], 1),
        **found,
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
