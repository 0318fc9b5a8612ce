"""Small indexes for tests: tiles from a seed, distributed over shards as wanted, committed without Ray."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geoloc.core import geodesy, storage
from geoloc.index.format.commit import Head, commit, read_head
from geoloc.index.format.manifest import (
    CURRENT_NAME,
    Bounds,
    FileEntry,
    Manifest,
    ModelEntry,
    ShardEntry,
    manifest_uri,
)
from geoloc.index.format.shard import entry_of, write_shard
from geoloc.index.search.matches import Matches
from geoloc.index.search.region import Region
from geoloc.index.search.snapshot import Snapshot


@dataclass(frozen=True)
class Tiles:
    """Columns of a gallery, in any order of rows."""

    ids: list[str]
    codes: npt.NDArray[np.uint8]
    embeddings: npt.NDArray[np.float16] | None
    lat: npt.NDArray[np.float64] | None
    lon: npt.NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: npt.NDArray[np.int64]) -> Tiles:
        def pick(values: npt.NDArray | None) -> npt.NDArray | None:
            return None if values is None else values[rows]

        return Tiles(
            [self.ids[row] for row in rows],
            self.codes[rows],
            pick(self.embeddings),
            pick(self.lat),
            pick(self.lon),
        )


def random_tiles(
    count: int,
    *,
    bits: int = 256,
    dim: int | None = 16,
    seed: int = 0,
    distinct: int | None = None,
    located: bool = True,
) -> Tiles:
    """Tiles with random codes; `distinct` limits how many different codes and embeddings occur (ties)."""
    rng = np.random.default_rng(seed)
    kinds = distinct or max(count, 1)
    kind = rng.integers(0, kinds, count) if distinct else np.arange(count)
    codes = rng.integers(0, 256, (kinds, bits // 8), dtype=np.uint8)[kind]
    embeddings = None if dim is None else rng.normal(size=(kinds, dim)).astype(np.float16)[kind]
    # Ids whose order is neither that of rows nor that of numbers, with characters beyond ASCII.
    names = rng.permutation(count)
    ids = [f"{'äZa'[number % 3]}tile-{number}" for number in names]
    lat = rng.uniform(-35.5, -35.0, count) if located else None
    lon = rng.uniform(149.0, 149.5, count) if located else None
    return Tiles(ids, codes, embeddings, lat, lon)


def shard_of(index_uri: str, relative: str, tiles: Tiles) -> ShardEntry:
    """Write one shard and return its entry."""
    tiles = tiles.rows(np.array(sorted(range(len(tiles)), key=lambda row: tiles.ids[row]), dtype=np.int64))
    cells = None if tiles.lat is None else geodesy.cells(tiles.lat, tiles.lon)
    table = pa.table(
        {
            "tile_id": pa.array(tiles.ids, pa.string()),
            "lat": pa.array(tiles.lat, pa.float64())
            if tiles.lat is not None
            else pa.nulls(len(tiles), pa.float64()),
            "lon": pa.array(tiles.lon, pa.float64())
            if tiles.lon is not None
            else pa.nulls(len(tiles), pa.float64()),
            "cell": pa.array(cells, pa.int64()) if cells is not None else pa.nulls(len(tiles), pa.int64()),
        }
    )
    with tempfile.TemporaryDirectory() as work:
        write_shard(Path(work), table, tiles.codes, tiles.embeddings)
        entry = entry_of(Path(work), relative, table)
        for file in entry.files:
            storage.copy_file(str(Path(work) / file.name), storage.join(index_uri, relative, file.name))
    return entry


def model_of(index_uri: str) -> ModelEntry:
    """A directory that stands for a model."""
    data = b"weights of a small model"
    storage.write_bytes(storage.join(index_uri, "model/geoloc-test/model.safetensors"), data)
    file = FileEntry(name="model.safetensors", bytes=len(data), sha256=storage.sha256_bytes(data))
    return ModelEntry(
        directory="model/geoloc-test",
        model_id="geoloc-test",
        weights_sha256=file.sha256,
        recipe_name="geoloc",
        bits=512,
        embedding_dim=16,
        files=[file],
    )


def manifest_of(index_uri: str, tiles: Tiles, parts: Sequence[npt.NDArray[np.int64]], name: str) -> Manifest:
    """Write the shards of a snapshot, one for each array of rows, and return its manifest."""
    entries = [
        shard_of(index_uri, f"snapshots/build-{name}/shard-{number:05d}", tiles.rows(rows))
        for number, rows in enumerate(parts)
    ]
    boxes = [entry.bounds for entry in entries if entry.bounds]
    bounds: Bounds | None = None
    for box in boxes:
        bounds = box if bounds is None else bounds.union(box)
    return Manifest(
        fingerprint=name,
        parent=None,
        complete=True,
        bits=tiles.codes.shape[1] * 8,
        embedding_dim=None if tiles.embeddings is None else tiles.embeddings.shape[1],
        count=len(tiles),
        located=bounds is not None,
        bounds=bounds,
        model=model_of(index_uri),
        shards=entries,
    )


def build(
    index_uri: str, tiles: Tiles, shards: int = 1, *, name: str = "test", base: Head | None = None
) -> str:
    """Deal the tiles out over shards at random and commit; returns the snapshot id."""
    base = base or read_head(index_uri)
    dealt = np.random.default_rng(len(tiles) + shards).integers(0, max(shards, 1), len(tiles))
    parts = [np.flatnonzero(dealt == shard) for shard in range(shards)]
    manifest = manifest_of(index_uri, tiles, parts, name)
    return commit(index_uri, manifest.model_copy(update={"parent": base.snapshot_id}), base)


def nearest_by_hand(
    tiles: Tiles, codes: npt.NDArray[np.uint8], k: int, allowed: npt.NDArray[np.bool_] | None = None
) -> list[list[tuple[int, str]]]:
    """The referee: per query the first k (distance, tile_id) of all tiles, in plain Python order."""
    answers = []
    for query in codes:
        distances = np.bitwise_count(tiles.codes ^ query).sum(axis=1, dtype=np.int64)
        pairs = [
            (int(distances[row]), tiles.ids[row])
            for row in range(len(tiles))
            if allowed is None or allowed[row]
        ]
        answers.append(sorted(pairs)[:k])
    return answers


def as_format_2(index_uri: str) -> str:
    """Make a copy of the current manifest in format 2 the current one; returns its snapshot id.

    Format 2 states no widths of inverted lists and rotation invariant codes.
    """
    head = read_head(index_uri)
    content = json.loads(storage.read_bytes(manifest_uri(index_uri, str(head.snapshot_id))))
    content["format_version"] = 2
    for shard in content["shards"]:
        del shard["lists"], shard["any_heading_bits"]
    data = (json.dumps(content, indent=1) + "\n").encode()
    snapshot_id = storage.sha256_bytes(data)[:32]
    storage.write_bytes(manifest_uri(index_uri, snapshot_id), data)
    storage.write_bytes(storage.join(index_uri, CURRENT_NAME), f"{snapshot_id}\n".encode())
    return snapshot_id


def nearest_by_floats(
    snapshot: Snapshot, floats: npt.NDArray[np.float32], k: int, region: Region | None = None
) -> Matches:
    """The k tiles with the greatest dot product: every tile is re-ranked."""
    codes = np.zeros((len(floats), snapshot.bits // 8), np.uint8)
    return snapshot.search(codes, k=k, region=region, embeddings=floats, rerank=max(1, snapshot.rows))
