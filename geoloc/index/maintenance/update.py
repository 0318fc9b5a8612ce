"""How a snapshot follows from another: deletion marks, the choice of shards to compact, the next manifest.

Shards never change. To remove tiles, the next manifest names deletion marks beside their shards. To replace tiles, an
update removes and adds them. Compaction writes the tiles of some shards again and keeps the other shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CommitConflict, ConfigError, InputError, ModelMismatch
from geoloc.index.format.local_cache import cache_directory, ensure_local
from geoloc.index.format.manifest import (
    FORMAT_VERSION,
    LIVE_NAME,
    TILES_NAME,
    Change,
    Manifest,
    ShardEntry,
    bounds_around,
)
from geoloc.index.format.shard import open_live, open_tiles, write_marks


@dataclass(frozen=True)
class MarkTask:
    """Removal of tiles from one shard: those named by `ids` and those that the shards `newer` hold."""

    index_uri: str
    entry: ShardEntry
    ids: pa.LargeStringArray
    newer: tuple[ShardEntry, ...] = ()


@dataclass(frozen=True)
class MarkedShard:
    """A shard after a removal: its entry (None when no tile is left) and the number of removed tiles."""

    entry: ShardEntry | None
    removed: int


def shard_ids(index_uri: str, entry: ShardEntry) -> pa.LargeStringArray:
    """All tile ids (strings [N]) of a shard, removed tiles too; of a remote index only that file is copied."""
    file = entry.file(TILES_NAME)
    if file is None:
        raise ArtifactError(f"The shard {entry.directory!r} has no {TILES_NAME}; build the index again.")
    directory = ensure_local(storage.join(index_uri, entry.directory), [file], cache_directory())
    return open_tiles(directory / TILES_NAME, entry.count)[0]


def mark_shard(task: MarkTask) -> MarkedShard:
    """Mark the rows of a shard whose tiles are removed; a shard without such rows keeps its entry."""
    entry, marks = task.entry, task.entry.marks
    ids = shard_ids(task.index_uri, entry)
    live = np.ones(entry.count, np.bool_)
    if marks is not None:
        directory = ensure_local(
            storage.join(task.index_uri, marks.directory), [marks.file], cache_directory()
        )
        live = open_live(directory / LIVE_NAME, entry).copy()
    before = int(live.sum())
    for wanted in (task.ids, *(shard_ids(task.index_uri, newer) for newer in task.newer)):
        live[pc.is_in(ids, value_set=wanted).to_numpy(zero_copy_only=False)] = False
    left = int(live.sum())
    if left == before:
        return MarkedShard(entry, 0)
    if not left:
        return MarkedShard(None, before)
    return MarkedShard(entry.model_copy(update={"marks": write_marks(task.index_uri, live)}), before - left)


def sorted_ids(names: Sequence[str] | pa.LargeStringArray) -> pa.LargeStringArray:
    """Distinct ids (strings [M]) in the order of a shard's rows."""
    ids = (names if isinstance(names, pa.Array) else pa.array(names, pa.large_string())).unique()
    return ids.take(pc.sort_indices(ids))


def check_addition(index_uri: str, base: Manifest, added: Sequence[ShardEntry]) -> None:
    """`InputError` when new tiles have coordinates and old ones not, or the other way round."""
    located = bounds_around(added) is not None
    if base.count and added and located != base.located:
        have, lack = ("the new tiles", "those in it") if located else ("the tiles in it", "the new ones")
        raise InputError(
            f"The index {index_uri!r} cannot take these tiles: {have} have coordinates, {lack} have none; make an "
            "index of each kind."
        )


def check_embeddings(index_uri: str, base: Manifest, embedding_dim: int | None) -> None:
    """`ModelMismatch` when codes come without the embeddings that the index keeps."""
    if base.embedding_dim is not None and embedding_dim != base.embedding_dim:
        raise ModelMismatch(
            f"The codes have embeddings of dimension {embedding_dim}, the index {index_uri!r} keeps "
            f"{base.embedding_dim}; encode the tiles with its model and keep the embeddings."
        )


def successor(
    base: Manifest, parent: str, fingerprint: str, shards: Sequence[ShardEntry], change: Change
) -> Manifest:
    """The manifest that follows on a snapshot: the same model, other shards, in the format of today."""
    bounds = bounds_around(shards)
    return base.model_copy(
        update={
            "format_version": FORMAT_VERSION,
            "fingerprint": fingerprint,
            "parent": parent,
            "change": change,
            "count": sum(shard.live for shard in shards),
            "located": bounds is not None if shards else base.located,
            "bounds": bounds,
            "shards": list(shards),
        }
    )


def default_tiles_per_shard(manifest: Manifest) -> int:
    """The size that shards of an index have: that of its largest."""
    return max((shard.live for shard in manifest.shards), default=1)


def worth_compacting(manifest: Manifest, tiles_per_shard: int, dead_share: float) -> list[ShardEntry]:
    """Shards that are less than half full, or have lost at least `dead_share` of their rows.

    A single small shard is left as it is. Raises `ConfigError` for a size below 1 or a share
    outside (0, 1].
    """
    if tiles_per_shard < 1 or not 0 < dead_share <= 1:
        raise ConfigError(
            f"tiles_per_shard is {tiles_per_shard} and dead_share is {dead_share}; give at least 1 tile and a share "
            "above 0 up to 1."
        )
    chosen = [
        shard
        for shard in manifest.shards
        if shard.live < tiles_per_shard / 2 or shard.count - shard.live >= dead_share * max(1, shard.count)
    ]
    return [] if len(chosen) == 1 and chosen[0].marks is None else chosen


def compacted(
    base: Manifest, old: Sequence[ShardEntry], new: Sequence[ShardEntry], index_uri: str
) -> list[ShardEntry]:
    """The shards of a snapshot with some of them replaced.

    Raises `CommitConflict` when the snapshot no longer holds these shards as they were: another writer removed
    tiles from them.
    """
    if any(shard not in base.shards for shard in old):
        raise CommitConflict(
            f"Another writer changed the shards of {index_uri!r} that were being compacted; nothing of ours is "
            "visible. Run it again."
        )
    return [*(shard for shard in base.shards if shard not in old), *new]
