"""How a build is divided: sources into runs of bounded size, tiles into shards of equal size."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from geoloc.core import storage
from geoloc.index.build.partition_keys import Histogram
from geoloc.index.build.shard_build import Piece
from geoloc.index.build.sorted_runs import OldShard, TablePart
from geoloc.index.format.manifest import ShardEntry

PLAN_NAME = "plan.json"
RUN_BYTES = 64 * 2**20
_LEAST_RUN_ROWS = 16_384
TILE_BYTES = 64  # id of common length with its offset, lat, lon, cell and row in the spatial order

Source = TablePart | OldShard


class Plan(BaseModel):
    """Where the tiles of a build are cut: `borders` of partition keys and the tiles between each two of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    borders: list[int]
    counts: list[int]

    @classmethod
    def of(cls, histogram: Histogram, shards: int, digest: str) -> Plan:
        """Cut into at most `shards` shards of nearly the same size."""
        total = int(histogram.counts.sum())
        borders, counts = histogram.cuts(max(1, min(shards, total)))
        return cls(digest=digest, borders=borders, counts=counts)


def read_plan(work_uri: str, digest: str) -> Plan | None:
    """The plan of an earlier run of the same build, None without such a run."""
    uri = storage.join(work_uri, PLAN_NAME)
    if not storage.exists(uri):
        return None
    try:
        plan = Plan.model_validate_json(storage.read_bytes(uri))
    except ValidationError:
        return None  # of another format: the build is planned again
    return plan if plan.digest == digest else None


def save_plan(work_uri: str, plan: Plan) -> None:
    """Keep a plan for the next run of the same build."""
    storage.write_bytes(storage.join(work_uri, PLAN_NAME), plan.model_dump_json().encode())


def tile_bytes(bits: int, embedding_dim: int | None, any_heading_bits: int = 0) -> int:
    """Bytes of a tile in a shard or a run, its id being of common length."""
    return (bits + any_heading_bits) // 8 + 2 * (embedding_dim or 0) + TILE_BYTES


def run_rows(tiles: int, bytes_per_tile: int, workers: int) -> int:
    """Tiles of a run: as many as fit `RUN_BYTES`, fewer where workers would idle."""
    return max(1, min(RUN_BYTES // bytes_per_tile, max(_LEAST_RUN_ROWS, -(-tiles // (2 * workers)))))


def group(sources: Sequence[Source], rows: int) -> list[tuple[Source, ...]]:
    """Consecutive sources together until they hold about `rows` tiles."""
    groups: list[list[Source]] = []
    filled = rows
    for source in sources:
        if filled + source.rows > rows:
            groups.append([])
            filled = 0
        groups[-1].append(source)
        filled += source.rows
    return [tuple(some) for some in groups]


def slices_of(index_uri: str, entries: Sequence[ShardEntry], rows: int) -> list[OldShard]:
    """Shards of a snapshot as sources of at most `rows` rows."""
    return [
        OldShard(index_uri, entry, start, min(start + rows, entry.count))
        for entry in entries
        for start in range(0, entry.count, rows)
    ]


def pieces_of(cuts: Sequence[Sequence[int]], shard: int) -> tuple[Piece, ...]:
    """The slices of all runs that make a shard; `cuts[run][i]` is where shard i begins in it."""
    return tuple(
        Piece(run, positions[shard], positions[shard + 1])
        for run, positions in enumerate(cuts)
        if positions[shard] < positions[shard + 1]
    )
