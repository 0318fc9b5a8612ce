"""Stage `index`: codes and the model that made them in, a committed snapshot out; Ray tasks build its shards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.errors import ArtifactError, ConfigError, InputError, ModelMismatch
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.part_table import Part
from geoloc.core.progress import say
from geoloc.index.build.estimate import Estimate, Machine, estimate
from geoloc.index.build.partition_keys import Partition
from geoloc.index.build.shard_plan import tile_bytes
from geoloc.index.build.sorted_runs import TablePart
from geoloc.index.format.commit import Head, commit, missing_file, read_head
from geoloc.index.format.manifest import (
    MODELS,
    SHARD_FILES_VERSION,
    Change,
    FileEntry,
    HashEncoderEntry,
    Manifest,
    ModelEntry,
    ShardEntry,
    bounds_around,
    read_manifest,
)
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder
from geoloc.models.built_in import model_location
from geoloc.models.card import RECIPE_NAME, ModelCard, read_card
from geoloc.recipe.recipe import Recipe
from geoloc.runtime.ray_session import cpu_count, ensure_ray
from geoloc.runtime.shard_job import Build, build_shards, remove_runs

_TIMED_PARTS = 3  # for the estimate


class IndexConfig(BaseModel):
    """Settings of building an index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: int = Field(
        4, ge=1, le=65_536, description="Shards, built in parallel; fewer when there are fewer tiles."
    )
    bits: int | None = Field(
        None, ge=8, multiple_of=8, description="Bits of a code: the first of those stored; default: all."
    )
    partition: Partition = Field(
        "space",
        description="How tiles are divided: 'space' puts neighbours into one shard, so a region touches few; "
        "'even' gives all shards tiles from everywhere.",
    )
    keep_embeddings: bool = Field(True, description="Store float16 embeddings for re-ranking.")
    lists: int = Field(
        0,
        ge=0,
        le=65_536,
        description="Inverted lists of a shard, for approximate searches; 0: none.",
    )
    any_heading_bits: int = Field(
        0,
        ge=0,
        le=4096,
        multiple_of=8,
        description="Bits of a second code that rotation does not change. Photos of unknown heading then need"
        " one scan instead of one for each heading. 1024 suit; 0: none.",
    )


class IndexInputs(BaseModel):
    """The codes and the model of an index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    codes: str = Field(description="URI of the codes table.")
    model: str = Field(
        description="URI of the model directory that made the codes; builtin: the one that ships with geoloc."
    )


class IndexResult(BaseModel):
    """A committed index; `bytes` counts every file of the snapshot, the model's too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_uri: str
    snapshot_id: str
    tiles: int
    shards: int
    bytes: int
    reused: bool


class Source(BaseModel):
    """Facts of a build's inputs, read from their manifests."""

    model_config = ConfigDict(frozen=True)

    codes_uri: str
    model_uri: str
    card: ModelCard
    model_files: list[FileEntry]
    parts: list[part_table.Part]
    bits: int
    embedding_dim: int | None
    any_heading: AnyHeadingCoder | None = None
    bytes_per_s: float

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return sum(part.rows for part in self.parts)

    @property
    def part_bytes(self) -> int:
        """Size of the largest part."""
        return max(part.bytes for part in self.parts)


def run(config: IndexConfig, inputs: IndexInputs, output: str, *, overwrite: bool = False) -> IndexResult:
    """Build an index from codes, or with `--imagery` from sheets (`--imagery x --help`); run again, it goes on.

    Killed halfway and run again, it gives the same snapshot.

    An index of the same inputs and settings is returned as it is; with `overwrite` another one gets a new
    snapshot on top of its old one. Raises `ArtifactError` (an index of something else is there, a tile id
    twice), `ModelMismatch` (codes of another model), `ConfigError` (bits, memory), `StorageError` (disk) and
    `CommitConflict` (another builder was faster).
    """
    output = storage.absolute(output)
    source = inspect_inputs(config, inputs)
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
    build, needs = plan_build(config, source, output, fingerprint)
    say(f"index: {needs.text()}")
    needs.check_fits(output)
    shards = build_shards(build)
    manifest = _manifest(source, fingerprint, parent, shards, _copy_model(source, output))
    snapshot_id = _commit(output, manifest, head)
    remove_runs(build)
    return _result(output, snapshot_id, manifest, reused=False)


def estimate_build(config: IndexConfig, inputs: IndexInputs, output: str) -> Estimate:
    """Estimate what a build would take and whether it fits; nothing is written.

    Raises what `run` raises for inputs that cannot be used, `ConfigError` (memory) and `StorageError` (disk).
    """
    output = storage.absolute(output)
    source = inspect_inputs(config, inputs)
    ensure_ray()
    _, needs = plan_build(config, source, output, _fingerprint(config, source))
    needs.check_fits(output)
    return needs


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


def inspect_inputs(config: IndexConfig, inputs: IndexInputs) -> Source:
    """Read what the manifests of the inputs say and refuse what cannot be built."""
    codes_uri, model_uri = storage.absolute(inputs.codes), model_location(inputs.model)
    card = read_card(model_uri)
    table = part_table.read_manifest(codes_uri, kind="codes")
    if not table.rows:
        raise InputError(
            f"The codes table {codes_uri!r} has no rows; encode some tiles first.", reason="no_tiles"
        )
    filled = [part for part in table.parts if part.rows]
    schema = part_table.read_part(codes_uri, filled[0]).schema
    bytes_per_s = _read_speed(codes_uri, filled)
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
    return Source(
        codes_uri=codes_uri,
        model_uri=model_uri,
        card=card,
        model_files=_model_files(model_uri),
        parts=filled,
        bits=config.bits or stored,
        embedding_dim=schema.field("embedding").type.list_size if keep else None,
        any_heading=any_heading_of(model_uri, config.any_heading_bits, keep=keep),
        bytes_per_s=bytes_per_s,
    )


def _read_speed(codes_uri: str, parts: Sequence[Part]) -> float:
    """Bytes a second at which parts are read and checked, once the first was: that one also loads libraries."""
    timed = parts[1 : 1 + _TIMED_PARTS] or parts[:1]
    start = time.monotonic()
    for part in timed:
        part_table.read_part(codes_uri, part)
    return sum(part.bytes for part in timed) / max(time.monotonic() - start, 1e-6)


def any_heading_of(model_uri: str, bits: int, *, keep: bool) -> AnyHeadingCoder | None:
    """The coder of rotation invariant codes for a model and a number of bits; None for 0 bits.

    Raises `ConfigError` where embeddings are not kept, or do not turn with the photo.
    """
    if not bits:
        return None
    if not keep:
        raise ConfigError(
            f"any_heading_bits is {bits}, and the index would keep no embeddings to order what those codes find; keep "
            "them, or leave the option out."
        )
    recipe = Recipe.load(storage.join(model_uri, RECIPE_NAME)).model
    return AnyHeadingCoder(bits, recipe.columns if recipe.turns_by_rolling else 1)


def _model_files(model_uri: str) -> list[FileEntry]:
    """The files of a model directory; what lies deeper (checkpoints of a training) is no part of the model."""
    return [
        FileEntry(name=file.name, bytes=file.size_bytes, sha256=storage.sha256_file(file.uri))
        for file in storage.list_files(model_uri, recursive=False)
    ]


def _fingerprint(config: IndexConfig, source: Source) -> str:
    content = {
        "format": SHARD_FILES_VERSION,
        # The option is left out at its default, so that older indexes keep their fingerprint.
        "config": config.model_dump(exclude=None if config.any_heading_bits else {"any_heading_bits"}),
        "codes": [part.sha256 for part in source.parts],
        "model": [[file.name, file.sha256] for file in source.model_files],
    }
    return fingerprint_of(content)


def plan_build(config: IndexConfig, source: Source, output: str, fingerprint: str) -> tuple[Build, Estimate]:
    """The build, and an estimate of its time, memory and disk."""
    needs = estimate(
        tiles=source.tiles,
        bits=source.bits,
        bytes_per_tile=tile_bytes(source.bits, source.embedding_dim, config.any_heading_bits),
        shards=config.shards,
        largest_source_bytes=source.part_bytes,
        model_bytes=sum(file.bytes for file in source.model_files),
        read_bytes_per_s=source.bytes_per_s,
        machine=machine(output),
    )
    build = Build(
        index_uri=output,
        fingerprint=fingerprint,
        sources=tuple(TablePart(source.codes_uri, part, source.card.model_id) for part in source.parts),
        bits=source.bits,
        embedding_dim=source.embedding_dim,
        partition=config.partition,
        shards=config.shards,
        memory_per_task_bytes=needs.memory_per_task_bytes,
        lists=config.lists,
        any_heading=source.any_heading,
    )
    return build, needs


def machine(output: str) -> Machine:
    """Memory, CPUs and free disk of this cluster and the output."""
    memory = max(int(node["Resources"].get("memory", 0)) for node in _nodes() if node["Alive"])
    return Machine(tasks_at_once=cpu_count(), memory_bytes=memory, free_disk_bytes=_free_bytes(output))


def _nodes() -> list[dict[str, Any]]:
    return list(ray.nodes())  # type: ignore[no-untyped-call]


def _free_bytes(output: str) -> int | None:
    """Free space of a local output's disk; None where the store does not say."""
    if not storage.is_local(output):
        return None
    path = storage.local_path(output)
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(there).free


def _copy_model(source: Source, output: str) -> ModelEntry:
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
    codes = source.card.hash_encoder
    return ModelEntry(
        directory=directory,
        model_id=source.card.model_id,
        weights_sha256=source.card.weights_sha256,
        recipe_name=source.card.recipe_name,
        bits=source.card.bits,
        embedding_dim=source.card.embedding_dim,
        files=source.model_files,
        hash_encoder=codes and HashEncoderEntry(**codes.model_dump()),
    )


def _differs(source: Source, directory_uri: str) -> bool:
    """Whether another model card lies in the directory."""
    card = next(file for file in source.model_files if file.name == "model.json")
    uri = storage.join(directory_uri, card.name)
    return storage.exists(uri) and storage.sha256_file(uri) != card.sha256


def _manifest(
    source: Source, fingerprint: str, parent: str | None, shards: list[ShardEntry], model: ModelEntry
) -> Manifest:
    bounds, count = bounds_around(shards), sum(shard.live for shard in shards)
    return Manifest(
        fingerprint=fingerprint,
        parent=parent,
        change=Change(operation="build", added=count),
        complete=True,
        bits=source.bits,
        embedding_dim=source.embedding_dim,
        count=count,
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
