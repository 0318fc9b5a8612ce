"""Builds shards of tiles on Ray: sorted runs, one plan, tasks that build; for `index build`, `add`, `compact`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from geoloc.core import storage
from geoloc.core.errors import GeolocError
from geoloc.core.progress import track
from geoloc.index.build import gpu_centroids
from geoloc.index.build.partition_keys import Histogram, Partition
from geoloc.index.build.shard_build import ShardTask, build_name, build_shard, finished_shard
from geoloc.index.build.shard_plan import (
    Plan,
    Source,
    group,
    pieces_of,
    read_plan,
    run_rows,
    save_plan,
    tile_bytes,
)
from geoloc.index.build.sorted_runs import (
    HASH_SLICES,
    Run,
    RunTask,
    check_repeats,
    cut_run,
    ids_with_hashes,
    mixed,
    repeated_hashes,
    write_run,
)
from geoloc.index.format.manifest import SNAPSHOTS, ShardEntry
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder
from geoloc.runtime.ray_session import cpu_count, gpu_count, remote_task

_HASHES_PER_TASK = 8_000_000
_TASK_BYTES = 64 * 2**20  # of shards that a task builds at least, where there are enough for all workers


@dataclass(frozen=True)
class Build:
    """Inputs and settings of a build; `fingerprint` identifies everything that the shards depend on."""

    index_uri: str
    fingerprint: str
    sources: tuple[Source, ...]
    bits: int
    embedding_dim: int | None
    partition: Partition
    shards: int
    memory_per_task_bytes: int
    lists: int = 0
    any_heading: AnyHeadingCoder | None = None

    @property
    def name(self) -> str:
        """Directory of the build below `snapshots`."""
        return build_name(self.fingerprint)

    @property
    def work_uri(self) -> str:
        """URI of its sorted runs, until they are removed."""
        return storage.join(self.index_uri, SNAPSHOTS, self.name, "runs")

    @property
    def tiles(self) -> int:
        """Tiles of the sources, at most."""
        return sum(source.rows for source in self.sources)


def build_shards(build: Build) -> list[ShardEntry]:
    """Build all shards; shards that an earlier run finished are kept.

    Raises `ArtifactError` naming an id that occurs twice, `InputError` when only some tiles have coordinates.
    """
    # Renews the age of the build's directory, so that garbage collection leaves it alone while we work.
    note = json.dumps({"fingerprint": build.fingerprint}).encode()
    storage.write_bytes(storage.join(build.index_uri, SNAPSHOTS, build.name, "build.json"), note)
    plan_uri = storage.join(build.index_uri, SNAPSHOTS, build.name)
    plan = read_plan(plan_uri, build.fingerprint)
    entries = _finished(build, plan)
    if plan is not None and entries is not None:
        return entries
    runs, histogram = _write_runs(build)
    _check_repeats(build, runs)
    plan = Plan.of(histogram, build.shards, build.fingerprint)
    save_plan(plan_uri, plan)
    cuts = gather(
        [remote_task(cut_run).remote(build.work_uri, run.number, plan.borders) for run in runs],
        "index: cutting",
        "runs",
    )
    tasks = [_task(build, number, cuts) for number in range(len(plan.counts))]
    remote = remote_task(_build_in_turn, memory=build.memory_per_task_bytes, num_gpus=_gpus(build))
    any_heading_bits = build.any_heading.bits if build.any_heading else 0
    bytes_per_tile = tile_bytes(build.bits, build.embedding_dim, any_heading_bits)
    groups = in_groups([task.count * bytes_per_tile for task in tasks], cpu_count())
    refs = [remote.remote(tasks[group.start : group.stop]) for group in groups]
    unit = "shards" if len(groups) == len(tasks) else "groups of shards"
    return list(itertools.chain.from_iterable(gather(refs, "index: building", unit)))


def in_groups(sizes_bytes: Sequence[int], workers: int) -> list[range]:
    """Ranges of neighbouring shards that a task builds in turn: small ones together, large ones alone.

    A task costs about as much as writing some megabytes. Shards of equal size make `workers` groups or more, if there
    are as many of them.
    """
    if not sizes_bytes:
        return []
    sizes = np.maximum(sizes_bytes, 1)
    groups = min(len(sizes), max(workers, -(-sum(sizes_bytes) // _TASK_BYTES)))
    middles = np.cumsum(sizes) - sizes / 2
    group_of = (middles * groups / sizes.sum()).astype(np.int64)
    edges = np.flatnonzero(np.diff(group_of)) + 1
    return [range(first, last) for first, last in itertools.pairwise([0, *edges.tolist(), len(sizes)])]


def _build_in_turn(tasks: Sequence[ShardTask]) -> list[ShardEntry]:
    """Build the shards of a group, one after the other; the memory is that of the largest."""
    return [build_shard(task) for task in tasks]


def remove_runs(build: Build) -> None:
    """Free the scratch space of a build; its shards stay."""
    storage.delete(build.work_uri)


def _finished(build: Build, plan: Plan | None) -> list[ShardEntry] | None:
    """All shards, when an earlier run has finished every one of them."""
    if plan is None:
        return None
    remote = remote_task(finished_shard)
    refs = [
        remote.remote(build.index_uri, build.name, number, build.fingerprint)
        for number in range(len(plan.counts))
    ]
    entries: list[ShardEntry | None] = gather(refs, "index: looking at finished shards", "shards")
    whole = [entry for entry in entries if entry is not None]
    return whole if len(whole) == len(entries) else None


def _write_runs(build: Build) -> tuple[list[Run], Histogram]:
    rows = run_rows(build.tiles, tile_bytes(build.bits, build.embedding_dim), cpu_count())
    remote = remote_task(write_run, memory=build.memory_per_task_bytes)
    groups = group(build.sources, rows)
    runs: list[Run | None] = [None] * len(groups)
    total = Histogram.merged([])
    refs = [remote.remote(_run_task(build, number, sources)) for number, sources in enumerate(groups)]
    # One histogram at a time: there may be thousands of runs.
    for number, (run, histogram) in as_finished(refs, "index: sorting", "runs"):
        runs[number] = run
        total = Histogram.merged([total, histogram])
    whole = [run for run in runs if run is not None]
    _check_coordinates(whole)
    return whole, total


def _run_task(build: Build, number: int, sources: tuple[Source, ...]) -> RunTask:
    digest = storage.sha256_bytes(f"{build.fingerprint} {number} {sources}".encode())
    return RunTask(sources, number, build.work_uri, build.bits, build.embedding_dim, build.partition, digest)


def _check_coordinates(runs: Sequence[Run]) -> None:
    without = [run.unlocated for run in runs if run.unlocated is not None]
    if without and any(run.located is not None for run in runs):
        raise mixed(without[0])


def _check_repeats(build: Build, runs: Sequence[Run]) -> None:
    """Refuse an id that two tiles have; equal hashes give the candidates, which the ids confirm."""
    tasks = max(1, min(HASH_SLICES, build.tiles // _HASHES_PER_TASK))
    edges = np.linspace(0, HASH_SLICES, tasks + 1).astype(int).tolist()
    compare = remote_task(repeated_hashes)
    shared: Any = ray.put(list(runs))  # Ray hands a task the value of a reference
    slices = [
        compare.remote(build.work_uri, shared, first, last) for first, last in itertools.pairwise(edges)
    ]
    hashes = np.concatenate(gather(slices, "index: comparing ids", "slices"))[:1000]
    if len(hashes):
        find = remote_task(ids_with_hashes)
        refs = [find.remote(build.work_uri, run, hashes) for run in runs]
        check_repeats([name for names in gather(refs, "index: naming ids", "runs") for name in names])


def _gpus(build: Build) -> int:
    """GPUs of a task: 1 where lists are made, the cluster has GPUs and FAISS can use them."""
    return int(bool(build.lists) and gpu_centroids.built_for_gpu() and gpu_count() > 0)


def _task(build: Build, number: int, cuts: Sequence[Sequence[int]]) -> ShardTask:
    return ShardTask(
        index_uri=build.index_uri,
        build=build.name,
        work_uri=build.work_uri,
        number=number,
        digest=build.fingerprint,
        pieces=pieces_of(cuts, number),
        bits=build.bits,
        embedding_dim=build.embedding_dim,
        lists=build.lists,
        any_heading=build.any_heading,
    )


def gather(refs: Sequence[Any], what: str, unit: str) -> list[Any]:
    """Results of Ray tasks in order; a `GeolocError` is raised as itself, without Ray's wrapper."""
    results: list[Any] = [None] * len(refs)
    for place, result in as_finished(refs, what, unit):
        results[place] = result
    return results


def as_finished(refs: Sequence[Any], what: str, unit: str) -> Iterator[tuple[int, Any]]:
    """(position, result) of Ray tasks as they finish, without keeping results; errors as from `gather`."""
    places = {ref: place for place, ref in enumerate(refs)}
    waiting = list(places)

    def finished() -> Iterator[Any]:
        while waiting:
            done, rest = ray.wait(waiting)
            waiting[:] = rest
            yield from done

    try:
        for ref in track(finished(), total=len(places), what=what, unit=unit):
            yield places.pop(ref), ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, GeolocError):
            raise error.cause from None
        raise
