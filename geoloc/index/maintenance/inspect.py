"""Looking at an index: what is in it, whether its bytes are right, how two snapshots differ."""

from __future__ import annotations

import os
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from geoloc.core import storage
from geoloc.core.errors import ArtifactError
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.local_cache import cache_directory, difference
from geoloc.index.format.manifest import (
    MANIFEST_NAME,
    SNAPSHOTS,
    Bounds,
    Change,
    Manifest,
    ShardEntry,
    is_snapshot_id,
    manifest_uri,
    read_manifest,
)
from geoloc.index.search.snapshot import open_shard

_EXAMPLES = 5


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class SnapshotSummary(_Report):
    """One snapshot of an index; `problem` is the reason why its manifest cannot be read; nothing else is known then.

    `change` is its difference from the parent, `written_at` the time of its manifest.
    """

    snapshot_id: str
    current: bool
    parent: str | None = None
    change: Change | None = None
    written_at: datetime | None = None
    tiles: int = 0
    removed_rows: int = 0
    shards: int = 0
    bytes: int = 0
    problem: str | None = None


class IndexDescription(_Report):
    """The current snapshot of an index in short, and all snapshots that are there, parents after children."""

    index_uri: str
    snapshot_id: str
    format_version: int
    tiles: int
    removed_rows: int
    shards: int
    bits: int
    embedding_dim: int | None
    model_id: str
    recipe_name: str
    located: bool
    bounds: Bounds | None
    bytes: int
    snapshots: list[SnapshotSummary]


class VerifyReport(_Report):
    """What reading every byte of a snapshot showed; `problems` names each bad file and what is wrong with it."""

    index_uri: str
    snapshot_id: str
    files: int
    bytes: int
    problems: list[str]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class IndexDiff(_Report):
    """How snapshot b differs from a: counts of tiles, with a few ids each.

    A tile is changed when its code or its position differs.
    """

    a: str
    b: str
    same_model: bool
    bits: tuple[int, int]
    tiles: tuple[int, int]
    shared_shards: int
    added: int
    removed: int
    changed: int
    examples: dict[str, list[str]]


def describe(index_uri: str) -> IndexDescription:
    """Describe an index: its model, shards, tiles and bytes.

    Raises `ArtifactError` where there is no index, `CorruptArtifact` for a bad current manifest.
    """
    index_uri = storage.absolute(index_uri)
    snapshot_id = current_snapshot(index_uri)
    manifest = read_manifest(index_uri, snapshot_id)
    return IndexDescription(
        index_uri=index_uri,
        snapshot_id=snapshot_id,
        format_version=manifest.format_version,
        tiles=manifest.count,
        removed_rows=removed_rows(manifest),
        shards=len(manifest.shards),
        bits=manifest.bits,
        embedding_dim=manifest.embedding_dim,
        model_id=manifest.model.model_id,
        recipe_name=manifest.model.recipe_name,
        located=manifest.located,
        bounds=manifest.bounds,
        bytes=manifest.total_bytes,
        snapshots=summaries(index_uri, snapshot_id),
    )


def snapshot_ids(index_uri: str) -> list[str]:
    """Ids of all snapshots that have a manifest, sorted."""
    files = storage.list_files(storage.join(index_uri, SNAPSHOTS), suffix=f"/{MANIFEST_NAME}")
    names = (file.uri.split("/")[-2] for file in files)
    return sorted(name for name in names if is_snapshot_id(name))


def removed_rows(manifest: Manifest) -> int:
    """Rows that are stored but marked as removed: what compaction would free."""
    return sum(shard.count - shard.live for shard in manifest.shards)


def summaries(index_uri: str, current: str) -> list[SnapshotSummary]:
    """The line of the current snapshot from child to parent, then the others."""
    found = {name: _summary(index_uri, name, current) for name in snapshot_ids(index_uri)}
    line: list[SnapshotSummary] = []
    at: str | None = current
    while at in found:
        line.append(found.pop(at))
        at = line[-1].parent
    return [*line, *found.values()]


def _summary(index_uri: str, snapshot_id: str, current: str) -> SnapshotSummary:
    try:
        manifest = read_manifest(index_uri, snapshot_id)
    except ArtifactError as error:
        return SnapshotSummary(snapshot_id=snapshot_id, current=snapshot_id == current, problem=str(error))
    return SnapshotSummary(
        snapshot_id=snapshot_id,
        current=snapshot_id == current,
        parent=manifest.parent,
        change=manifest.change,
        written_at=storage.file_info(manifest_uri(index_uri, snapshot_id)).mtime,
        tiles=manifest.count,
        removed_rows=removed_rows(manifest),
        shards=len(manifest.shards),
        bytes=manifest.total_bytes,
    )


def verify(index_uri: str, snapshot: str | None = None) -> VerifyReport:
    """Read every file of a snapshot and compare its size and checksum with the manifest.

    Kept verdicts do not count. Raises `CorruptArtifact` when CURRENT or the manifest itself is bad.
    """
    index_uri = storage.absolute(index_uri)
    snapshot_id = snapshot or current_snapshot(index_uri)
    manifest = read_manifest(index_uri, snapshot_id)
    problems, files = [], 0
    for relative, entries in manifest.owners():
        for entry in entries:
            files += 1
            uri = storage.join(index_uri, relative, entry.name)
            if problem := difference(uri, entry):
                problems.append(f"{uri!r} {problem}")
    return VerifyReport(
        index_uri=index_uri,
        snapshot_id=snapshot_id,
        files=files,
        bytes=manifest.total_bytes,
        problems=problems,
    )


def diff(a: str, b: str, *, cache_dir: str | os.PathLike[str] | None = None) -> IndexDiff:
    """Compare two snapshots, each named by the URI of an index (its current one) or `<uri>@<snapshot id>`.

    Shards with the same bytes are shared and not looked into; ids and codes of the others are held in memory.
    """
    (uri_a, name_a, one), (uri_b, name_b, two) = _named(a), _named(b)
    shared = {_content(shard) for shard in one.shards} & {_content(shard) for shard in two.shards}
    cache = cache_directory(cache_dir)
    left, right = (
        _tiles(uri_a, one, shared, cache_dir=str(cache)),
        _tiles(uri_b, two, shared, cache_dir=str(cache)),
    )
    joined = left.join(right, "tile_id", join_type="full outer", right_suffix="_b")
    masks = {
        "added": pc.is_null(joined["content"]),
        "removed": pc.is_null(joined["content_b"]),
        "changed": pc.fill_null(pc.not_equal(joined["content"], joined["content_b"]), False),
    }
    ids = {name: sorted(joined["tile_id"].filter(mask).to_pylist()) for name, mask in masks.items()}
    return IndexDiff(
        a=f"{uri_a}@{name_a}",
        b=f"{uri_b}@{name_b}",
        same_model=one.model.model_id == two.model.model_id,
        bits=(one.bits, two.bits),
        tiles=(one.count, two.count),
        shared_shards=len(shared),
        added=len(ids["added"]),
        removed=len(ids["removed"]),
        changed=len(ids["changed"]),
        examples={name: some[:_EXAMPLES] for name, some in ids.items()},
    )


def _named(name: str) -> tuple[str, str, Manifest]:
    uri, _, snapshot_id = name.rpartition("@")
    if not uri or not is_snapshot_id(snapshot_id):
        uri, snapshot_id = name, ""
    uri = storage.absolute(uri)
    snapshot_id = snapshot_id or current_snapshot(uri)
    return uri, snapshot_id, read_manifest(uri, snapshot_id)


def _content(shard: ShardEntry) -> tuple[str, ...]:
    marks = [] if shard.marks is None else [shard.marks.file]
    return tuple(sorted(f"{file.name} {file.sha256}" for file in [*shard.files, *marks]))


def _tiles(index_uri: str, manifest: Manifest, shared: set[tuple[str, ...]], *, cache_dir: str) -> pa.Table:
    """(tile_id, content) of the shards that are not shared; content is the code with the position."""
    tables = [pa.table({"tile_id": pa.array([], pa.large_string()), "content": pa.array([], pa.binary())})]
    for entry in manifest.shards:
        if _content(entry) in shared:
            continue
        shard = open_shard(index_uri, entry, manifest.bits, cache_directory(cache_dir))
        ids, lat, lon = shard.tiles()
        place = np.stack([lat, lon], axis=1).view(np.uint8)
        rows = np.concatenate([np.asarray(shard.codes), place], axis=1)
        if shard.live_rows is not None:
            ids, rows = ids.filter(pa.array(shard.live_rows)), rows[shard.live_rows]
        raw = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows.tobytes())]
        )
        tables.append(pa.table({"tile_id": ids, "content": raw.cast(pa.binary())}))
    return pa.concat_tables(tables)
