"""The snapshots of an index in time: listing them, and going back to one of them."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CommitConflict, CorruptArtifact
from geoloc.index.format.commit import current_snapshot, missing_file, read_head
from geoloc.index.format.manifest import CURRENT_NAME, manifest_uri, read_manifest
from geoloc.index.maintenance.inspect import SnapshotSummary, summaries


class History(BaseModel):
    """All snapshots of an index: the current snapshot and its ancestors, then the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_uri: str
    snapshots: list[SnapshotSummary]

    def text(self) -> str:
        """One line per snapshot; an asterisk marks the current one."""
        return "\n".join(_line(snapshot) for snapshot in self.snapshots)


def _line(snapshot: SnapshotSummary) -> str:
    mark = "*" if snapshot.current else " "
    if snapshot.problem is not None:
        return f"{mark} {snapshot.snapshot_id}  {snapshot.problem}"
    change = snapshot.change
    counts = [("+", change.added), ("~", change.replaced), ("-", change.removed)] if change else []
    changes = " ".join(f"{sign}{count:,}" for sign, count in counts if count)
    written = snapshot.written_at.strftime("%Y-%m-%d %H:%M:%S") if snapshot.written_at else "-"
    operation = change.operation if change else "-"
    return (
        f"{mark} {snapshot.snapshot_id}  {written}  {operation:<7}  {snapshot.tiles:>12,} tiles  "
        f"{snapshot.shards:>5} shards  {changes}"
    ).rstrip()


def history(index_uri: str) -> History:
    """List the snapshots of an index, newest first.

    Raises `ArtifactError` where there is no index.
    """
    index_uri = storage.absolute(index_uri)
    return History(index_uri=index_uri, snapshots=summaries(index_uri, current_snapshot(index_uri)))


class RollbackConfig(BaseModel):
    """Where to go back to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: str = Field(description="Id of a snapshot of the index; `geoloc index list` shows them.")


class RollbackResult(BaseModel):
    """Which snapshot was current and which is now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index_uri: str
    was: str | None
    snapshot_id: str
    tiles: int
    at: datetime


def rollback(index_uri: str, config: RollbackConfig) -> RollbackResult:
    """Make an older snapshot of an index current again. The newer ones stay until garbage collection.

    Raises `ArtifactError` (no such snapshot), `CorruptArtifact` when files of it are gone, `CommitConflict` when
    another writer committed meanwhile.
    """
    index_uri = storage.absolute(index_uri)
    head = read_head(index_uri, repair=True)
    if head.content is None:
        raise ArtifactError(
            f"There is no finished index at {index_uri!r} (no {CURRENT_NAME}); check the path."
        )
    manifest = read_manifest(index_uri, config.to)
    # Both are young again: garbage collection neither takes what we go to nor what readers still hold.
    for name in {config.to, head.snapshot_id} - {None}:
        _renew(index_uri, str(name))
    if problem := missing_file(index_uri, manifest):
        raise CorruptArtifact(f"{problem}; garbage collection took the snapshot {config.to}.")
    content = f"{config.to}\n".encode()
    uri = storage.join(index_uri, CURRENT_NAME)
    if content != head.content and not storage.compare_and_swap(uri, content, head.content):
        raise CommitConflict(
            f"Another writer changed the current snapshot of {index_uri!r} meanwhile; it was not rolled back. Look at "
            "`geoloc index list` and run it again."
        )
    return RollbackResult(
        index_uri=index_uri,
        was=head.snapshot_id,
        snapshot_id=config.to,
        tiles=manifest.count,
        at=datetime.now(UTC),
    )


def _renew(index_uri: str, snapshot_id: str) -> None:
    try:
        read_manifest(index_uri, snapshot_id)
    except ArtifactError:
        return  # the snapshot that is left may be damaged, which is a reason to roll back
    uri = manifest_uri(index_uri, snapshot_id)
    storage.write_bytes(uri, storage.read_bytes(uri))
