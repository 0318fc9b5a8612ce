"""Stages `index add`, `index remove` and `index compact`: each makes the next snapshot, which shares unchanged shards.

A stage first builds new shards. Then it marks removed tiles of the snapshot that is current by then, and commits. When
another writer commits in between, the stage repeats this step on the new snapshot, at most `retries` times. After that
it raises `CommitConflict`; running the command again finds the finished shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.errors import CommitConflict, InputError
from geoloc.core.fingerprint import Streamed, fingerprint_of
from geoloc.core.progress import say
from geoloc.index.build.estimate import estimate
from geoloc.index.build.shard_plan import run_rows, slices_of, tile_bytes
from geoloc.index.format.commit import commit, current_snapshot, read_head
from geoloc.index.format.manifest import (
    Change,
    Manifest,
    Operation,
    ShardEntry,
    encode,
    read_manifest,
)
from geoloc.index.maintenance.update import (
    MarkedShard,
    MarkTask,
    check_addition,
    check_embeddings,
    compacted,
    default_tiles_per_shard,
    mark_shard,
    sorted_ids,
    successor,
    worth_compacting,
)
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder
from geoloc.localization.calibration import OldCalibration, load_calibration, save_calibration
from geoloc.runtime.ray_session import cpu_count, ensure_ray, remote_task
from geoloc.runtime.shard_job import Build, build_shards, gather, remove_runs
from geoloc.stages.index_build import (
    IndexConfig,
    IndexInputs,
    any_heading_of,
    inspect_inputs,
    machine,
    plan_build,
)

_COMPACT_BYTES_PER_S = 100e6
_NO_IDS = pa.array([], pa.large_string())


class AddInputs(BaseModel):
    """New tiles; they replace tiles of the same ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: str = Field(description="URI of a codes table, made by the index's own model.")


class RemoveInputs(BaseModel):
    """Tiles to remove."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiles: str = Field(
        description="URI of the ids: a text file with one a line, a Parquet file with a column tile_id, or a table."
    )


class UpdateConfig(BaseModel):
    """Settings of committing an update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retries: int = Field(
        3, ge=0, description="How often to start again from another writer's snapshot before giving up."
    )


class AddConfig(UpdateConfig):
    """Settings of adding tiles."""

    tiles_per_shard: int | None = Field(
        None, ge=1, description="Tiles of a new shard at most; default: as many as the index's largest shard."
    )


class CompactConfig(UpdateConfig):
    """Settings of compacting: shards less than half full, or with many removed rows."""

    tiles_per_shard: int | None = Field(
        None, ge=1, description="Tiles of a new shard at most; default: as many as the index's largest shard."
    )
    dead_share: float = Field(
        0.25, gt=0, le=1, description="Shards with at least this share of removed rows are rewritten."
    )
    lists: int | None = Field(
        None,
        ge=0,
        le=65_536,
        description="Inverted lists of a new shard; default: as many as the index has.",
    )
    everything: bool = Field(False, description="Rewrite all shards, as a new build would.")


class UpdateResult(BaseModel):
    """The snapshot after an update; `reused` when there was nothing to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_uri: str
    snapshot_id: str
    parent: str | None
    tiles: int
    shards: int
    added: int
    replaced: int
    removed: int
    reused: bool
    findings: list[str]


def add(config: AddConfig, inputs: AddInputs, index_uri: str) -> UpdateResult:
    """Add tiles to an index, or replace those that have the same ids, as a new snapshot.

    Raises `ArtifactError` (no index, an id twice in the codes), `ModelMismatch`, `InputError`, `ConfigError`
    (memory), `StorageError` (disk) and `CommitConflict`.
    """
    index_uri = storage.absolute(index_uri)
    base = read_manifest(index_uri, current_snapshot(index_uri))
    settings = IndexConfig(
        bits=base.bits,
        keep_embeddings=base.embedding_dim is not None,
        any_heading_bits=base.any_heading_bits,
    )
    model = storage.join(index_uri, base.model.directory)
    source = inspect_inputs(settings, IndexInputs(codes=inputs.codes, model=model))
    check_embeddings(index_uri, base, source.embedding_dim)
    size = config.tiles_per_shard or default_tiles_per_shard(base)
    settings = settings.model_copy(update={"shards": -(-source.tiles // size)})
    fingerprint = _fingerprint("add", [part.sha256 for part in source.parts], base.model.model_id, size)
    ensure_ray()
    build, needs = plan_build(settings, source, index_uri, fingerprint)
    say(f"index: adding {needs.text()}")
    needs.check_fits(index_uri)
    made = build_shards(build)
    count = sum(entry.count for entry in made)

    def prepare(parent: str, base: Manifest) -> Manifest | None:
        if base.fingerprint == fingerprint:
            return None
        check_addition(index_uri, base, made)
        kept, replaced = _without(index_uri, base, _NO_IDS, made)
        change = Change(operation="add", added=count - replaced, replaced=replaced)
        return successor(base, parent, fingerprint, [*kept, *made], change)

    result = _commit_upon(index_uri, prepare, config.retries)
    remove_runs(build)
    return result


def remove(config: UpdateConfig, inputs: RemoveInputs, index_uri: str) -> UpdateResult:
    """Remove tiles from an index as a new snapshot; ids that it does not have are counted.

    Raises `ArtifactError` (no index), `InputError` (ids that cannot be read) and `CommitConflict`.
    """
    index_uri = storage.absolute(index_uri)
    current_snapshot(index_uri)
    ids = sorted_ids(read_ids(storage.absolute(inputs.tiles)))
    fingerprint = _fingerprint("remove", Streamed(each.as_py() for each in ids))
    ensure_ray()
    findings: list[str] = []

    def prepare(parent: str, base: Manifest) -> Manifest | None:
        findings.clear()
        kept, removed = _without(index_uri, base, ids, [])
        if removed < len(ids) and base.fingerprint != fingerprint:
            findings.append(f"{len(ids) - removed:,} of {len(ids):,} ids are not in the index.")
        if not removed:
            return None
        return successor(base, parent, fingerprint, kept, Change(operation="remove", removed=removed))

    result = _commit_upon(index_uri, prepare, config.retries)
    return result.model_copy(update={"findings": [*findings, *result.findings]})


def compact(config: CompactConfig, index_uri: str) -> UpdateResult:
    """Merge small shards and rewrite those with many removed rows; every answer stays the same.

    Raises `ArtifactError` (no index), `ConfigError` (memory), `StorageError` (disk), and `CommitConflict` when
    another writer removed tiles from the shards meanwhile.
    """
    index_uri = storage.absolute(index_uri)
    snapshot_id = current_snapshot(index_uri)
    base = read_manifest(index_uri, snapshot_id)
    size = config.tiles_per_shard or default_tiles_per_shard(base)
    old = worth_compacting(base, size, config.dead_share)
    if config.everything:
        old = base.shards
    if not old:
        return _result(index_uri, snapshot_id, base, Change(operation="compact"), [], reused=True)
    ensure_ray()
    lists = base.lists if config.lists is None else config.lists
    any_heading = any_heading_of(
        storage.join(index_uri, base.model.directory), base.any_heading_bits, keep=True
    )
    build = _compaction(index_uri, base, old, size, lists, any_heading)
    made = build_shards(build)

    def prepare(parent: str, base: Manifest) -> Manifest | None:
        if base.fingerprint == build.fingerprint:
            return None
        shards = compacted(base, old, made, index_uri)
        return successor(base, parent, build.fingerprint, shards, Change(operation="compact"))

    result = _commit_upon(index_uri, prepare, config.retries)
    remove_runs(build)
    return result


def _compaction(
    index_uri: str,
    base: Manifest,
    old: Sequence[ShardEntry],
    size: int,
    lists: int,
    any_heading: AnyHeadingCoder | None,
) -> Build:
    """The build that makes new shards of old ones; prints its estimate and refuses what does not fit."""
    tiles = sum(entry.live for entry in old)
    per_tile = tile_bytes(base.bits, base.embedding_dim, any_heading.bits if any_heading else 0)
    needs = estimate(
        tiles=tiles,
        bits=base.bits,
        bytes_per_tile=per_tile,
        shards=max(1, -(-tiles // size)),
        largest_source_bytes=0,
        model_bytes=0,
        read_bytes_per_s=_COMPACT_BYTES_PER_S,
        machine=machine(index_uri),
    )
    say(f"index: compacting {len(old)} of {len(base.shards)} shards: {needs.text()}")
    needs.check_fits(index_uri)
    contents = [
        [[file.sha256 for file in entry.files], entry.marks.file.sha256 if entry.marks else None]
        for entry in old
    ]
    return Build(
        index_uri=index_uri,
        fingerprint=_fingerprint(
            "compact", contents, size, lists
        ),  # contents name the codes for any heading too
        sources=tuple(slices_of(index_uri, old, run_rows(tiles, per_tile, cpu_count()))),
        bits=base.bits,
        embedding_dim=base.embedding_dim,
        partition="space",
        shards=needs.shards,
        memory_per_task_bytes=needs.memory_per_task_bytes,
        lists=lists,
        any_heading=any_heading,
    )


def read_ids(uri: str) -> pa.LargeStringArray:
    """Tile ids [M] from a text file with one a line, a Parquet file with a column tile_id, or a finished table.

    Raises `InputError` when there are none, `ArtifactError` when nothing is there.
    """
    if storage.is_directory(uri):
        ids = part_table.read(uri, columns=["tile_id"])["tile_id"]
    elif uri.endswith(".parquet"):
        try:
            ids = pq.read_table(pa.BufferReader(storage.read_bytes(uri)), columns=["tile_id"])["tile_id"]
        except (pa.ArrowException, KeyError, OSError) as error:
            raise InputError(f"{uri!r} is no Parquet file with a column tile_id: {error}") from error
    else:
        lines = storage.read_text(uri).splitlines()
        ids = pa.chunked_array([pa.array([line.strip() for line in lines], pa.string())])
    named = ids.cast(pa.large_string()).combine_chunks()
    named = named.filter(pc.greater(pc.binary_length(named), 0))
    if not len(named):
        raise InputError(f"{uri!r} names no tile; give one id a line.", reason="no_tiles")
    return named


def _fingerprint(operation: Operation, *content: object) -> str:
    return fingerprint_of([operation, *content])


def _without(
    index_uri: str, base: Manifest, ids: pa.LargeStringArray, newer: Sequence[ShardEntry]
) -> tuple[list[ShardEntry], int]:
    """The shards of a snapshot without some tiles, and the number of tiles that were removed."""
    remote, shared = remote_task(_mark), ray.put(ids)  # once for all tasks
    tasks = [MarkTask(index_uri, entry, _NO_IDS, tuple(newer)) for entry in base.shards]
    marked = gather([remote.remote(task, shared) for task in tasks], "index: marking", "shards")
    kept = [shard.entry for shard in marked if shard.entry is not None]
    return kept, sum(shard.removed for shard in marked)


def _mark(task: MarkTask, ids: pa.LargeStringArray) -> MarkedShard:
    return mark_shard(replace(task, ids=ids))


def _commit_upon(
    index_uri: str, prepare: Callable[[str, Manifest], Manifest | None], retries: int
) -> UpdateResult:
    """Commit the manifest that `prepare` makes of the current snapshot; repeats it when another writer was faster."""
    attempt = 0
    while True:
        head = read_head(index_uri)
        parent = head.snapshot_id or current_snapshot(index_uri)
        base = read_manifest(index_uri, parent)
        manifest = prepare(parent, base)
        if manifest is None:
            return _result(index_uri, parent, base, base.change, [], reused=True)
        findings = _carry_calibration(index_uri, parent, base, manifest)
        try:
            snapshot_id = commit(index_uri, manifest, head)
        except CommitConflict as conflict:
            if attempt == retries:
                raise
            attempt += 1
            say(f"index: {conflict} Trying again.")
            continue
        say(f"index: committed snapshot {snapshot_id} with {manifest.count:,} tiles")
        return _result(index_uri, snapshot_id, manifest, manifest.change, findings, reused=False)


def _carry_calibration(index_uri: str, parent: str, base: Manifest, manifest: Manifest) -> list[str]:
    """Give the new snapshot its parent's calibration, before it becomes visible."""
    try:
        fitted = load_calibration(index_uri, parent)
    except OldCalibration as error:
        return [f"{error} It was not carried over."]
    if fitted is None:
        return []
    origin = fitted.origin or parent
    snapshot_id, _ = encode(manifest)
    save_calibration(index_uri, fitted.model_copy(update={"snapshot_id": snapshot_id, "origin": origin}))
    change = manifest.change
    share = (change.added + change.replaced + change.removed) / max(1, base.count)
    return [
        f"The calibration of {origin} was carried over; {share:.1%} of the tiles changed with this step. "
        "Run `geoloc calibrate` again when the area or the number of tiles has changed much."
    ]


def _result(
    index_uri: str,
    snapshot_id: str,
    manifest: Manifest,
    change: Change,
    findings: list[str],
    *,
    reused: bool,
) -> UpdateResult:
    return UpdateResult(
        index_uri=index_uri,
        snapshot_id=snapshot_id,
        parent=manifest.parent,
        tiles=manifest.count,
        shards=len(manifest.shards),
        added=0 if reused else change.added,
        replaced=0 if reused else change.replaced,
        removed=0 if reused else change.removed,
        reused=reused,
        findings=findings,
    )
