"""Which tile goes into which shard, decided from ids and cells alone before a shard is built."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc import geodesy, parts
from geoloc.errors import InputError, ModelMismatch
from geoloc.index.shard_files import check_ids

IntArray = npt.NDArray[np.int64]
Partition = Literal["space", "even"]

# What scanning and planning keep in memory for a tile: its id twice, its cell, ranks and assignments.
PLAN_BYTES_PER_TILE = 160


@dataclass(frozen=True)
class Piece:
    """Rows of one part of the codes table and the rows of the shard they become (int64[M] each)."""

    part: int
    rows: IntArray
    positions: IntArray


@dataclass(frozen=True)
class ShardPlan:
    """What one shard is made of; its rows are in the order of tile ids."""

    number: int
    count: int
    pieces: tuple[Piece, ...]

    def digest(self) -> str:
        """Names the content together with the parts' checksums: equal plans over equal parts make equal shards."""
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(f"{piece.part} {len(piece.rows)}\n".encode())
            digest.update(piece.rows.tobytes() + piece.positions.tobytes())
        return digest.hexdigest()


def scan_part(codes_uri: str, part: parts.Part, model_id: str) -> pa.Table:
    """(tile_id, cell) of one part of a codes table; cell is null for tiles without coordinates.

    Raises `ModelMismatch` when a row was made by another model than `model_id`, `InputError` when only some
    tiles have coordinates.
    """
    table = parts.read_part(codes_uri, part, ["tile_id", "lat", "lon", "cell", "model_id"])
    for other in pc.unique(table["model_id"]).to_pylist():
        if other != model_id:
            raise ModelMismatch(
                f"The codes in {codes_uri!r} were made by the model {other!r}, not by {model_id!r}; give the model "
                "that encoded them, or encode the tiles with this one."
            )
    missing = pc.or_(pc.is_null(table["lat"]), pc.is_null(table["lon"]))
    if pc.any(missing).as_py() and not pc.all(missing).as_py():
        raise InputError(_mixed(table["tile_id"][pc.index(missing, True).as_py()].as_py()))
    cell = table["cell"].combine_chunks()
    if cell.null_count and table.num_rows and not missing[0].as_py():
        cell = pa.array(geodesy.cells(table["lat"].to_numpy(), table["lon"].to_numpy()))
    return pa.table({"tile_id": table["tile_id"].cast(pa.large_string()), "cell": cell})


def _mixed(tile_id: str) -> str:
    return (
        f"The tile {tile_id!r} has no coordinates while others have; give all tiles coordinates, or make an index "
        "of each kind."
    )


def plan_shards(scans: Sequence[pa.Table], shards: int, partition: Partition) -> list[ShardPlan]:
    """Distribute the tiles of all parts over at most `shards` shards of nearly equal size.

    "space" cuts the space-filling curve of the cells into equal pieces; "even" deals the tiles out in the order
    of their ids, as do tiles without coordinates. The plan does not depend on the order of the tiles' rows.
    Raises `ArtifactError` naming an id that occurs twice, `InputError` when only some tiles have coordinates.
    """
    table = pa.concat_tables(scans).combine_chunks()
    order = pc.sort_indices(table["tile_id"]).to_numpy().astype(np.int64)
    check_ids(table["tile_id"].take(pa.array(order)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    shard_of = _assign(table, rank, min(shards, len(order)), partition)
    edges = np.cumsum([0, *(scan.num_rows for scan in scans)])
    return [_plan(number, shard_of, order, edges) for number in range(min(shards, len(order)))]


def _assign(table: pa.Table, rank: IntArray, shards: int, partition: Partition) -> IntArray:
    """The shard of each tile: int64[N]."""
    cells = table["cell"]
    if cells.null_count not in (0, len(cells)):
        raise InputError(_mixed(table["tile_id"][pc.index(pc.is_null(cells), True).as_py()].as_py()))
    if partition == "even" or cells.null_count:
        return rank % shards
    curve = np.lexsort((rank, cells.to_numpy()))
    shard_of = np.empty(len(rank), np.int64)
    shard_of[curve] = np.arange(len(rank)) * shards // len(rank)
    return shard_of


def _plan(number: int, shard_of: IntArray, order: IntArray, edges: IntArray) -> ShardPlan:
    mine = order[shard_of[order] == number]
    part_of = np.searchsorted(edges, mine, side="right") - 1
    pieces = []
    for part in np.unique(part_of):
        positions = np.flatnonzero(part_of == part)
        rows = mine[positions] - edges[part]
        ascending = np.argsort(rows)  # reading a part in its own order is kinder to memory
        pieces.append(Piece(int(part), rows[ascending], positions[ascending]))
    return ShardPlan(number, len(mine), tuple(pieces))
