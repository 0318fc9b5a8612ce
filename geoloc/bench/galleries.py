"""Galleries to measure on: generated codes, or those of a user's own table; and shards made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import part_table, storage
from geoloc.core.arrays import Codes
from geoloc.core.errors import ConfigError
from geoloc.index.build.sorted_runs import code_matrix
from geoloc.index.format.manifest import ShardEntry
from geoloc.index.format.shard import Shard, entry_of, write_shard


def random_codes(count: int, bits: int, seed: int) -> Codes:
    """uint8[count, bits // 8] without any structure: nothing is near, so nothing can be skipped."""
    return np.random.default_rng(seed).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def own_codes(codes_uri: str) -> Codes:
    """The codes uint8[N, B] of a codes table, in the order of its rows."""
    table = part_table.read(storage.absolute(codes_uri), kind="codes", columns=["code"])
    if not table.num_rows:
        raise ConfigError(f"The codes table {codes_uri!r} has no rows; encode some tiles first.")
    return np.ascontiguousarray(code_matrix(table["code"]))


def tiles_of(count: int, seed: int) -> pa.Table:
    """Ids that ascend and positions over a country's extent, for generated codes."""
    rng = np.random.default_rng(seed)
    ids = pc.utf8_lpad(pa.array(np.arange(count)).cast(pa.string()), 9, "0")
    lat, lon = rng.uniform(57.5, 59.7, count), rng.uniform(21.8, 28.2, count)
    return pa.table({"tile_id": ids, "lat": lat, "lon": lon})


def write_gallery(directory: Path, codes: Codes, seed: int = 0) -> ShardEntry:
    """Write codes uint8[N, bits / 8] as one shard."""
    directory.mkdir(parents=True, exist_ok=True)
    tiles = tiles_of(len(codes), seed)
    write_shard(directory, tiles, codes, None)
    return entry_of(directory, "bench/shard", tiles)


def open_gallery(directory: Path, entry: ShardEntry, bits: int) -> Shard:
    """Open a shard, its codes mapped."""
    return Shard(entry, directory, bits, 0)
