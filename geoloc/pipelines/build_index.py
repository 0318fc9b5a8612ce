"""Stage `index`: codes and the model that made them in, a committed snapshot out; one Ray task per shard."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray.exceptions import RayTaskError

from geoloc import parts, storage
from geoloc.errors import (
    ArtifactError,
    ConfigError,
    GeolocError,
    InputError,
    ModelMismatch,
    StorageError,
)
from geoloc.index.build import ShardTask, build_name, build_shard
from geoloc.index.commit import Head, commit, missing_file, read_head
from geoloc.index.manifest import (
    FORMAT_VERSION,
    MODELS,
    SNAPSHOTS,
    Bounds,
    FileEntry,
    Manifest,
    ModelEntry,
    ShardEntry,
    read_manifest,
)
from geoloc.index.plan import PLAN_BYTES_PER_TILE, Partition, ShardPlan, plan_shards, scan_part
from geoloc.models.store import ModelCard, read_card
from geoloc.pipelines.cluster import cpu_count, ensure_ray
from geoloc.progress import say, track

_TABLE_COPIES = 4  # a part of the table in memory: its bytes, the decoded columns, the rows taken
_PLAIN_TILE_BYTES = 48  # lat, lon, cell and an id of common length
_WORK_FACTOR = (
    5.0  # every part is read for its ids and again for its rows; shards are written, copied, read back
)


class IndexConfig(BaseModel):
    """How an index is built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(
        4, ge=1, le=65_536, description="Shards, built in parallel; fewer when there are fewer tiles."
    )
    bits: int | None = Field(
        None, ge=8, multiple_of=8, description="Bits of a code: the first of those stored (default: all)."
    )
    partition: Partition = Field(
        "space",
        description="'space': neighbours share a shard, so a region touches few; 'even': deal tiles out.",
    )
    keep_embeddings: bool = Field(True, description="Keep float16 embeddings for re-ranking.")


class IndexInputs(BaseModel):
    """What an index is built from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: str = Field(description="URI of the codes table.")
    model: str = Field(description="URI of the model directory that made the codes.")


class IndexResult(BaseModel):
    """A committed index; `bytes` counts every file of the snapshot, the model's too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_uri: str
    snapshot_id: str
    tiles: int
    shards: int
    bytes: int
    reused: bool


class _Source(BaseModel):
    """What the inputs turned out to be."""

    model_config = ConfigDict(frozen=True)

    codes_uri: str
    model_uri: str
    card: ModelCard
    model_files: list[FileEntry]
    parts: list[parts.Part]
    bits: int
    embedding_dim: int | None
    bytes_per_s: float

    @property
    def tiles(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def part_bytes(self) -> int:
        return max(part.bytes for part in self.parts)


def run(config: IndexConfig, inputs: IndexInputs, output: str, *, overwrite: bool = False) -> IndexResult:
    """Build an index from codes and commit it; killed halfway and run again it gives the same snapshot.

    An index of the same inputs and settings is returned as it is; with `overwrite` another one gets a new
    snapshot on top of its old one. Raises `ArtifactError` (an index of something else is there, a tile id
    twice), `ModelMismatch` (codes of another model), `ConfigError` (bits, memory), `StorageError` (disk) and
    `CommitConflict` (another builder was faster).
    """
    output = storage.absolute(output)
    source = _inspect(config, inputs)
    fingerprint = _fingerprint(config, source)
    head = read_head(output, repair=overwrite)
    parent = head.snapshot_id
    if head.snapshot_id is not None:
        manifest = _current(output, head.snapshot_id, fingerprint, overwrite=overwrite)
        if manifest is not None and manifest.fingerprint == fingerprint:
            if not overwrite and missing_file(output, manifest) is None:
                return _result(output, head.snapshot_id, manifest, reused=True)
            parent = manifest.parent  # mended in place: the same content under the same id
    elif not overwrite and storage.list_files(output, recursive=False):
        raise ArtifactError(
            f"{output!r} already holds files that are not an index; choose an empty output or pass --overwrite."
        )
    ensure_ray()
    shards = _build(config, source, output, fingerprint)
    manifest = _manifest(source, fingerprint, parent, shards, _copy_model(source, output))
    return _result(output, _commit(output, manifest, head), manifest, reused=False)


def _commit(output: str, manifest: Manifest, head: Head) -> str:
    snapshot_id = commit(output, manifest, head)
    say(
        f"index: committed snapshot {snapshot_id} with {manifest.count:,} tiles in {len(manifest.shards)} shards"
    )
    return snapshot_id


def _current(output: str, snapshot_id: str, fingerprint: str, *, overwrite: bool) -> Manifest | None:
    """The manifest that is current; None when it is corrupt and may be replaced."""
    try:
        manifest = read_manifest(output, snapshot_id)
    except ArtifactError:
        if overwrite:
            return None
        raise
    if manifest.fingerprint != fingerprint and not overwrite:
        raise ArtifactError(
            f"{output!r} holds an index made from other inputs or settings; pass --overwrite to add a snapshot "
            "of these on top, or choose another output."
        )
    return manifest


def _inspect(config: IndexConfig, inputs: IndexInputs) -> _Source:
    """Read what the manifests of the inputs say and refuse what cannot be built."""
    codes_uri, model_uri = storage.absolute(inputs.codes), storage.absolute(inputs.model)
    card = read_card(model_uri)
    table = parts.read_manifest(codes_uri, kind="codes")
    if not table.rows:
        raise InputError(
            f"The codes table {codes_uri!r} has no rows; encode some tiles first.", reason="no_tiles"
        )
    filled = [part for part in table.parts if part.rows]
    start = time.monotonic()
    schema = parts.read_part(codes_uri, filled[0]).schema
    bytes_per_s = filled[0].bytes / max(time.monotonic() - start, 1e-6)
    stored = schema.field("code").type.byte_width * 8
    if stored > card.bits:
        raise ModelMismatch(
            f"The codes in {codes_uri!r} have {stored} bits, the model {card.model_id!r} makes {card.bits}; give the "
            "model that encoded them."
        )
    if config.bits is not None and config.bits > stored:
        raise ConfigError(
            f"bits is {config.bits}, the codes in {codes_uri!r} have {stored}; ask for {stored} or fewer, or train "
            "a model with longer codes."
        )
    keep = config.keep_embeddings and "embedding" in schema.names
    return _Source(
        codes_uri=codes_uri,
        model_uri=model_uri,
        card=card,
        model_files=_model_files(model_uri),
        parts=filled,
        bits=config.bits or stored,
        embedding_dim=schema.field("embedding").type.list_size if keep else None,
        bytes_per_s=bytes_per_s,
    )


def _model_files(model_uri: str) -> list[FileEntry]:
    """The files of a model directory; what lies deeper (checkpoints of a training) is no part of the model."""
    return [
        FileEntry(name=file.name, bytes=file.size_bytes, sha256=storage.sha256_file(file.uri))
        for file in storage.list_files(model_uri, recursive=False)
    ]


def _fingerprint(config: IndexConfig, source: _Source) -> str:
    content = {
        "format": FORMAT_VERSION,
        "config": config.model_dump(),
        "codes": [part.sha256 for part in source.parts],
        "model": [[file.name, file.sha256] for file in source.model_files],
    }
    return storage.sha256_bytes(json.dumps(content, sort_keys=True).encode())


def _build(config: IndexConfig, source: _Source, output: str, fingerprint: str) -> list[ShardEntry]:
    _announce(config, source, output)
    build = build_name(fingerprint)
    # Renews the age of the build's directory, so that garbage collection leaves it alone while we work.
    note = json.dumps({"fingerprint": fingerprint}).encode()
    storage.write_bytes(storage.join(output, SNAPSHOTS, build, "build.json"), note)
    tasks = [
        ShardTask(
            codes_uri=source.codes_uri,
            parts=tuple(source.parts),
            plan=plan,
            index_uri=output,
            build=build,
            bits=source.bits,
            embedding_dim=source.embedding_dim,
        )
        for plan in _plan(config, source)
    ]
    remote = ray.remote(build_shard).options(memory=_task_bytes(source, _largest(config, source)))
    return _gather([remote.remote(task) for task in tasks], "index: building", "shards")


def _plan(config: IndexConfig, source: _Source) -> list[ShardPlan]:
    remote = ray.remote(scan_part)
    refs = [remote.remote(source.codes_uri, part, source.card.model_id) for part in source.parts]
    return plan_shards(_gather(refs, "index: reading ids", "parts"), config.shards, config.partition)


def _gather(refs: Sequence[Any], what: str, unit: str) -> list[Any]:
    """Results of Ray tasks in order; an error of ours comes out as itself, without Ray's wrapping."""
    waiting = list(refs)

    def finished() -> Any:
        while waiting:
            done, rest = ray.wait(waiting)
            waiting[:] = rest
            yield from done

    try:
        for ref in track(finished(), total=len(refs), what=what, unit=unit):
            ray.get(ref)
        return list(ray.get(list(refs)))
    except RayTaskError as error:
        if isinstance(error.cause, GeolocError):
            raise error.cause from None
        raise


def _largest(config: IndexConfig, source: _Source) -> int:
    """Tiles of the largest shard: all are of equal size but for one tile."""
    return -(-source.tiles // min(config.shards, source.tiles))


def _task_bytes(source: _Source, tiles: int) -> int:
    """Memory of a task that builds a shard: codes twice, ids, and one part of the table."""
    return tiles * (2 * source.bits // 8 + 3 * _PLAIN_TILE_BYTES) + _TABLE_COPIES * source.part_bytes


def _announce(config: IndexConfig, source: _Source, output: str) -> None:
    """Say what the build will take before it starts, and refuse what this cluster or disk cannot hold."""
    shards, largest = min(config.shards, source.tiles), _largest(config, source)
    at_once = min(shards, cpu_count())
    per_tile = source.bits // 8 + 2 * (source.embedding_dim or 0) + _PLAIN_TILE_BYTES
    model_bytes = sum(file.bytes for file in source.model_files)
    disk = source.tiles * per_tile + at_once * largest * per_tile + model_bytes
    memory, plan_memory = _task_bytes(source, largest), source.tiles * PLAN_BYTES_PER_TILE
    read_s = sum(part.bytes for part in source.parts) / source.bytes_per_s / at_once
    say(
        f"index: {source.tiles:,} tiles x {source.bits} bits in {shards} shards of up to {largest:,}; about "
        f"{_size(disk)} of disk, {_size(memory)} of memory a shard ({at_once} at once), {_size(plan_memory)} for "
        f"the plan and {max(1.0, read_s * _WORK_FACTOR):,.0f} s"
    )
    node = max(int(node["Resources"].get("memory", 0)) for node in _nodes() if node["Alive"])
    if max(memory, plan_memory) > node:
        raise ConfigError(
            f"A shard of {largest:,} tiles needs about {_size(memory)} of memory and the plan {_size(plan_memory)}; "
            f"the largest machine has {_size(node)}. Ask for more shards (now {shards}) or use a larger machine."
        )
    free = _free_bytes(output)
    if free is not None and disk > free:
        raise StorageError(
            f"The index needs about {_size(disk)} of disk, {output!r} has {_size(free)} free; make room or choose "
            "another output."
        )


def _nodes() -> list[dict[str, Any]]:
    return list(ray.nodes())  # type: ignore[no-untyped-call]


def _free_bytes(output: str) -> int | None:
    """Free space of a local output's disk; None where the store does not say."""
    if not storage.is_local(output):
        return None
    path = storage.local_path(output)
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(there).free


def _size(count: float) -> str:
    unit, divisor = ("GB", 1e9) if count >= 1e9 else ("MB", 1e6)
    return f"{count / divisor:,.1f} {unit}"


def _copy_model(source: _Source, output: str) -> ModelEntry:
    """Copy the model into the index, once for all snapshots that use it."""
    directory = f"{MODELS}/{source.card.model_id}"
    if _differs(source, storage.join(output, directory)):
        # The same weights with other notes beside them: older snapshots keep the files they name.
        names = [f"{file.name} {file.sha256}" for file in source.model_files]
        directory = f"{directory}-{storage.sha256_bytes(' '.join(names).encode())[:8]}"
    for file in source.model_files:
        target = storage.join(output, directory, file.name)
        if not storage.exists(target) or storage.sha256_file(target) != file.sha256:
            storage.copy_file(storage.join(source.model_uri, file.name), target)
    return ModelEntry(
        directory=directory,
        model_id=source.card.model_id,
        weights_sha256=source.card.weights_sha256,
        recipe_name=source.card.recipe_name,
        bits=source.card.bits,
        embedding_dim=source.card.embedding_dim,
        files=source.model_files,
    )


def _differs(source: _Source, directory_uri: str) -> bool:
    """Whether another model card lies in the directory."""
    card = next(file for file in source.model_files if file.name == "model.json")
    uri = storage.join(directory_uri, card.name)
    return storage.exists(uri) and storage.sha256_file(uri) != card.sha256


def _manifest(
    source: _Source, fingerprint: str, parent: str | None, shards: list[ShardEntry], model: ModelEntry
) -> Manifest:
    boxes = [shard.bounds for shard in shards if shard.bounds is not None]
    bounds: Bounds | None = boxes[0] if boxes else None
    for box in boxes[1:]:
        bounds = box.union(bounds) if bounds else box
    return Manifest(
        fingerprint=fingerprint,
        parent=parent,
        complete=True,
        bits=source.bits,
        embedding_dim=source.embedding_dim,
        count=sum(shard.count for shard in shards),
        located=bounds is not None,
        bounds=bounds,
        model=model,
        shards=shards,
    )


def _result(output: str, snapshot_id: str, manifest: Manifest, *, reused: bool) -> IndexResult:
    return IndexResult(
        index_uri=output,
        snapshot_id=snapshot_id,
        tiles=manifest.count,
        shards=len(manifest.shards),
        bytes=manifest.total_bytes,
        reused=reused,
    )
