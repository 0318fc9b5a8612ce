"""Removing what no snapshot needs any more, without touching what a reader or a running build may hold.

What stays: the current snapshot and its nearest ancestors, every snapshot that was current within the minimum age
(its manifest, or that of a child of it, is younger), all shards, marks and models that these name, and every build
directory or model in which something was written within that age (a running build renews its directory first). A
reader that opened a local snapshot keeps it even when it is removed: its files are mapped. A reader of an object
store holds a snapshot only while it copies it: the minimum age, counted from when the snapshot ceased to be
current, is its lease.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.index.format.commit import current_snapshot
from geoloc.index.format.manifest import MODELS, SNAPSHOTS, Manifest, is_snapshot_id, read_manifest
from geoloc.index.maintenance.inspect import snapshot_ids

DAY_S = 86_400.0


class GarbageReport(BaseModel):
    """What was removed, or would be: snapshots, then directories and files relative to the index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_uri: str
    dry_run: bool
    kept_snapshots: list[str]
    removed_snapshots: list[str]
    removed_paths: list[str]
    files: int
    bytes: int


@dataclass(frozen=True)
class _File:
    """A file of the listing: path relative to the index, size and when it was written (seconds since 1970)."""

    path: str
    size: int
    written_s: float

    @property
    def parts(self) -> list[str]:
        return self.path.split("/")


def collect_garbage(
    index_uri: str, *, keep: int = 2, min_age_s: float = DAY_S, dry_run: bool = False
) -> GarbageReport:
    """Remove what the `keep` newest snapshots (the current one and its ancestors) do not need.

    Nothing that was written or was current within `min_age_s` goes: it must exceed the longest build and the
    longest that a reader of an object store takes to copy a snapshot. Raises `ConfigError` for keep < 1 or a
    negative age.
    """
    if keep < 1 or not min_age_s >= 0:
        raise ConfigError(
            f"keep is {keep} and min_age_s is {min_age_s}; keep at least 1 snapshot, age 0 or more."
        )
    index_uri = storage.absolute(index_uri)
    current = current_snapshot(index_uri)
    files = _listing(index_uri)
    limit_s = time.time() - min_age_s
    kept, manifests = _kept(index_uri, current, keep, limit_s, files)
    doomed = _doomed(files, kept, manifests, limit_s)
    gone = sorted(
        {file.parts[1] for file in doomed if file.parts[0] == SNAPSHOTS and len(file.parts) == 3} - kept
    )
    if not dry_run:
        # Manifests first: a snapshot vanishes whole.
        for file in sorted(doomed, key=lambda file: not file.path.endswith("/manifest.json")):
            storage.delete(storage.join(index_uri, file.path))
        _remove_empty(index_uri, doomed)
    return GarbageReport(
        index_uri=index_uri,
        dry_run=dry_run,
        kept_snapshots=sorted(kept),
        removed_snapshots=[name for name in gone if is_snapshot_id(name)],
        removed_paths=sorted({file.path.rpartition("/")[0] or file.path for file in doomed}),
        files=len(doomed),
        bytes=sum(file.size for file in doomed),
    )


def _listing(index_uri: str) -> list[_File]:
    fs, root = storage.filesystem(index_uri)
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    infos = storage.attempt("list", index_uri, lambda: fs.get_file_info(selector))
    return [
        _File(info.path[len(root) :].strip("/"), int(info.size), _seconds(info.mtime))
        for info in infos
        if info.type == pafs.FileType.File
    ]


def _seconds(moment: datetime | None) -> float:
    # A store that gives no time gives no age: such a file counts as new.
    return moment.astimezone(UTC).timestamp() if moment else time.time()


def _kept(
    index_uri: str, current: str, keep: int, limit_s: float, files: list[_File]
) -> tuple[set[str], list[Manifest]]:
    """Ids of the snapshots that stay, and their manifests."""
    kept: dict[str, Manifest] = {}
    name: str | None = current
    there = set(snapshot_ids(index_uri))
    while name in there and len(kept) < keep:
        kept[name] = read_manifest(index_uri, name)
        name = kept[name].parent
    young = {
        file.parts[1] for file in files if file.written_s >= limit_s and file.path.endswith("/manifest.json")
    }
    for name in (young & there) - set(kept):
        kept[name] = _needed_manifest(index_uri, name)
    # What a young snapshot replaced was current until then.
    replaced = {str(manifest.parent) for name, manifest in kept.items() if name in young}
    for parent in (replaced & there) - set(kept):
        kept[parent] = _needed_manifest(index_uri, parent)
    return set(kept), list(kept.values())


def _needed_manifest(index_uri: str, name: str) -> Manifest:
    try:
        return read_manifest(index_uri, name)
    except ArtifactError as error:
        raise ArtifactError(
            f"Nothing was removed, for what a young snapshot needs is unknown: {error}"
        ) from error


def _doomed(files: list[_File], kept: set[str], manifests: list[Manifest], limit_s: float) -> list[_File]:
    needed = {
        f"{relative}/{file.name}"
        for manifest in manifests
        for relative, files in manifest.owners()
        for file in files
    }
    owners = {path.rpartition("/")[0] for path in needed}
    owners |= {"/".join(path.split("/")[:2]) for path in owners}
    youngest: dict[str, float] = defaultdict(float)
    for file in files:
        group = "/".join(file.parts[:2])
        youngest[group] = max(youngest[group], file.written_s)
    return [
        file
        for file in files
        if youngest["/".join(file.parts[:2])] < limit_s and not _is_needed(file, kept, needed, owners)
    ]


def _is_needed(file: _File, kept: set[str], needed: set[str], owners: set[str]) -> bool:
    """Whether a file belongs to the index's head, to a kept snapshot or to something that one names.

    `needed` are the files that kept manifests name, `owners` the directories that hold some of them.
    """
    if any(part.startswith(storage.TEMPORARY_PREFIX) for part in file.parts):
        return False  # left by a writer that was killed
    top = file.parts[0]
    if file.path in needed:
        return True
    if top not in (SNAPSHOTS, MODELS):
        # What others store beside the snapshots under a snapshot's name (calibration) goes with it.
        name = file.parts[-1].partition(".")[0]
        return name in kept or not is_snapshot_id(name)
    if top == MODELS or len(file.parts) != 3:
        return False  # a model's or shard's file that nobody names, or scratch space of a build
    if file.parts[1] in kept:
        return True
    # A shard's receipt goes with the shard, the notes of a build with its last shard.
    notes = file.parts[2] in ("build.json", "plan.json")
    return ("/".join(file.parts[:2]) if notes else file.path.removesuffix(".json")) in owners


def _remove_empty(index_uri: str, doomed: list[_File]) -> None:
    """Remove local directories that the removal left empty; object stores have none."""
    if not storage.is_local(index_uri):
        return
    root = storage.local_path(index_uri)
    parents = {root.joinpath(*file.parts[:depth]) for file in doomed for depth in range(1, len(file.parts))}
    for directory in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
