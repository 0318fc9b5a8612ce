"""The life of an index without Ray: the same functions that the pipeline spreads over tasks, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from geoloc.core import part_table, storage
from geoloc.index.build.partition_keys import Histogram
from geoloc.index.build.shard_build import ShardTask, build_name, build_shard
from geoloc.index.build.shard_plan import Plan, Source, group, pieces_of, slices_of
from geoloc.index.build.sorted_runs import RunTask, TablePart, cut_run, write_run
from geoloc.index.format.commit import commit, read_head
from geoloc.index.format.manifest import Change, Manifest, ShardEntry, bounds_around, read_manifest
from geoloc.index.maintenance.update import (
    MarkTask,
    compacted,
    mark_shard,
    sorted_ids,
    successor,
    worth_compacting,
)

from .build.test_shard_build import codes_table
from .building import Tiles, model_of

_RUN_ROWS = 40


def make_shards(
    index_uri: str, fingerprint: str, sources: Sequence[Source], bits: int, dim: int, shards: int
) -> list[ShardEntry]:
    """What `runtime.shard_job.build_shards` does."""
    name = build_name(fingerprint)
    work = storage.join(index_uri, "snapshots", name, "runs")
    storage.write_bytes(storage.join(index_uri, "snapshots", name, "build.json"), b"{}")
    runs, histograms = [], []
    for number, some in enumerate(group(sources, _RUN_ROWS)):
        run, histogram = write_run(RunTask(some, number, work, bits, dim, "space", f"{fingerprint} {number}"))
        runs.append(run)
        histograms.append(histogram)
    plan = Plan.of(Histogram.merged(histograms), shards, fingerprint)
    cuts = [cut_run(work, run.number, plan.borders) for run in runs]
    made = [
        build_shard(ShardTask(index_uri, name, work, number, fingerprint, pieces_of(cuts, number), bits, dim))
        for number in range(len(plan.counts))
    ]
    return made


def sources_of(codes_uri: str, tiles: Tiles) -> tuple[str, list[Source]]:
    """(what names the content, the parts) of a codes table of some tiles."""
    made: tuple[part_table.Part, ...] = codes_table(codes_uri, tiles, 2)
    return " ".join(part.sha256 for part in made), [TablePart(codes_uri, part, "m") for part in made]


def fingerprint_of(*content: object) -> str:
    return storage.sha256_bytes(repr(content).encode())


def build(index_uri: str, codes_uri: str, tiles: Tiles, shards: int = 3) -> str:
    """A first snapshot, or one that replaces everything."""
    content, sources = sources_of(codes_uri, tiles)
    head = read_head(index_uri)
    assert tiles.embeddings is not None
    bits, dim = tiles.codes.shape[1] * 8, tiles.embeddings.shape[1]
    fingerprint = fingerprint_of("build", content)
    entries = make_shards(index_uri, fingerprint, sources, bits, dim, shards)
    manifest = Manifest(
        fingerprint=fingerprint,
        parent=head.snapshot_id,
        change=Change(operation="build", added=len(tiles)),
        complete=True,
        bits=bits,
        embedding_dim=dim,
        count=len(tiles),
        located=True,
        bounds=bounds_around(entries),
        model=model_of(index_uri),
        shards=entries,
    )
    return commit(index_uri, manifest, head)


def add(index_uri: str, codes_uri: str, tiles: Tiles) -> str:
    """Add tiles, replacing those of the same ids."""
    content, sources = sources_of(codes_uri, tiles)
    assert tiles.embeddings is not None
    fingerprint = fingerprint_of("add", content)
    bits, dim = tiles.codes.shape[1] * 8, tiles.embeddings.shape[1]
    made = make_shards(index_uri, fingerprint, sources, bits, dim, 2)
    head, base = _base(index_uri)
    if base.fingerprint == fingerprint:
        return str(head.snapshot_id)
    kept, replaced = _without(index_uri, base, pa.array([], pa.large_string()), made)
    change = Change(operation="add", added=len(tiles) - replaced, replaced=replaced)
    return commit(
        index_uri, successor(base, str(head.snapshot_id), fingerprint, [*kept, *made], change), head
    )


def remove(index_uri: str, names: Sequence[str]) -> str:
    """Remove tiles."""
    head, base = _base(index_uri)
    kept, removed = _without(index_uri, base, sorted_ids(names), [])
    if not removed:
        return str(head.snapshot_id)
    change = Change(operation="remove", removed=removed)
    fingerprint = fingerprint_of("remove", sorted(names))
    return commit(index_uri, successor(base, str(head.snapshot_id), fingerprint, kept, change), head)


def compact(index_uri: str, size: int) -> str:
    """Write small and half-dead shards anew."""
    head, base = _base(index_uri)
    old = worth_compacting(base, size, 0.25)
    if not old:
        return str(head.snapshot_id)
    fingerprint = fingerprint_of("compact", old)
    sources: list[Source] = list(slices_of(index_uri, old, _RUN_ROWS))
    shards = max(1, -(-sum(entry.live for entry in old) // size))
    made = make_shards(index_uri, fingerprint, sources, base.bits, base.embedding_dim or 0, shards)
    shards_now = compacted(base, old, made, index_uri)
    change = Change(operation="compact")
    return commit(index_uri, successor(base, str(head.snapshot_id), fingerprint, shards_now, change), head)


def _base(index_uri: str):  # type: ignore[no-untyped-def]
    head = read_head(index_uri)
    return head, read_manifest(index_uri, str(head.snapshot_id))


def _without(
    index_uri: str, base: Manifest, ids: pa.LargeStringArray, newer: Sequence[ShardEntry]
) -> tuple[list[ShardEntry], int]:
    marked = [mark_shard(MarkTask(index_uri, entry, ids, tuple(newer))) for entry in base.shards]
    return [one.entry for one in marked if one.entry is not None], sum(one.removed for one in marked)
