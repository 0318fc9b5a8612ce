"""How a snapshot becomes visible: files first, then its manifest, then CURRENT, which is one atomic swap.

Promise: a reader sees the old snapshot or the new one, whole. Once `commit` returns, the new snapshot survives
a crash of process and machine as far as the store does. Of builders that started from the same CURRENT one
wins; the others get `CommitConflict` and nothing of theirs is visible.
"""

from __future__ import annotations

from dataclasses import dataclass

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CommitConflict, CorruptArtifact
from geoloc.index.format.manifest import CURRENT_NAME, Manifest, encode, is_snapshot_id, manifest_uri


@dataclass(frozen=True)
class Head:
    """What CURRENT held when it was read: its bytes and the snapshot they name; None for an index without one."""

    content: bytes | None
    snapshot_id: str | None


def read_head(index_uri: str, *, repair: bool = False) -> Head:
    """The snapshot that readers open now.

    Raises `CorruptArtifact` when CURRENT names none; with `repair` such a CURRENT counts as one to be replaced.
    """
    uri = storage.join(index_uri, CURRENT_NAME)
    if not storage.exists(uri):
        return Head(None, None)
    content = storage.read_bytes(uri)
    snapshot_id = content.decode("ascii", errors="replace").removesuffix("\n")
    if not is_snapshot_id(snapshot_id) or not storage.exists(manifest_uri(index_uri, snapshot_id)):
        if repair:
            return Head(content, None)
        raise CorruptArtifact(
            f"{uri!r} names {snapshot_id[:40]!r}, which is no snapshot of this index; "
            "restore the file or build the index again."
        )
    return Head(content, snapshot_id)


def current_snapshot(index_uri: str) -> str:
    """The id of the current snapshot; `ArtifactError` when there is no finished index."""
    snapshot_id = read_head(index_uri).snapshot_id
    if snapshot_id is None:
        raise ArtifactError(
            f"There is no finished index at {index_uri!r} (no {CURRENT_NAME}); check the path or build one."
        )
    return snapshot_id


def commit(index_uri: str, manifest: Manifest, base: Head) -> str:
    """Make a snapshot current and return its id; all its files must be there.

    `base` is what `read_head` gave when the work began. Raises `CommitConflict` when CURRENT has moved since,
    `CorruptArtifact` when a file is missing or has another size. Committing the same snapshot twice is fine.
    """
    if problem := missing_file(index_uri, manifest):
        raise CorruptArtifact(f"{problem}; run the build again.")
    snapshot_id, data = encode(manifest)
    place = manifest_uri(index_uri, snapshot_id)
    # The id is the content's hash: a manifest that is already there is this one, or damaged.
    if not storage.put_if_absent(place, data) and storage.read_bytes(place) != data:
        storage.write_bytes(place, data)
    uri = storage.join(index_uri, CURRENT_NAME)
    content = f"{snapshot_id}\n".encode()
    if base.content == content or storage.compare_and_swap(uri, content, base.content):
        return snapshot_id
    now = read_head(index_uri).snapshot_id
    if now == snapshot_id:
        return snapshot_id
    raise CommitConflict(
        f"Another builder made {now} the current snapshot of {index_uri!r} while this one worked on "
        f"{base.snapshot_id or 'the first one'}; nothing of ours is visible. Run it again to build on top of it."
    )


def missing_file(index_uri: str, manifest: Manifest) -> str | None:
    """The first file of a snapshot that is not there with its size, as a clause; None when all are."""
    for relative, files in manifest.owners():
        directory = storage.join(index_uri, relative)
        sizes = {file.uri: file.size_bytes for file in storage.list_files(directory)}
        for file in files:
            uri = storage.join(directory, file.name)
            if sizes.get(uri) != file.bytes:
                return f"{uri!r} has {sizes.get(uri, 'no')} bytes, its manifest says {file.bytes}"
    return None
