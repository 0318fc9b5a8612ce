"""Stage `index export`: a snapshot as FAISS index files and a Parquet table of ids, for programs that know FAISS alone.

    tiles.parquet       row, tile_id, lat, lon, in the order of tile ids; row is the label in every index file
    tiles.faiss         exact (kind flat): all tiles in the order of their ids, so equal distances have that order too
    shard-00000.faiss   approximate kinds: one file for each shard, built in parallel

Removed tiles are left out. The driver holds the ids of all tiles (about 100 bytes a tile) and, for the exact kind,
their codes; a task holds what FAISS makes of one shard.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.arrays import IntArray
from geoloc.core.errors import ConfigError
from geoloc.core.fingerprint import begin_output, fingerprint_of
from geoloc.core.progress import say
from geoloc.index.build.faiss_build import OF_EMBEDDINGS, FaissKind, build_faiss, save_faiss
from geoloc.index.format.commit import current_snapshot
from geoloc.index.search.snapshot import Snapshot
from geoloc.runtime.ray_session import ensure_ray, remote_task
from geoloc.runtime.shard_job import gather

TILES_NAME = "tiles.parquet"
FLAT_NAME = "tiles.faiss"
RECORD_NAME = "export.json"
_VERSION = 1


class IndexExportConfig(BaseModel):
    """What is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["faiss"] = Field("faiss", description="Format of the index files.")
    kind: FaissKind = Field(
        "flat",
        description="Exact, one file: flat. Approximate, a file a shard: ivf, hnsw of codes, ivf-rabitq of floats.",
    )
    lists: int = Field(
        0, ge=0, le=1_048_576, description="Inverted lists of a file; 0: four times the root of its tiles."
    )


class IndexExportInputs(BaseModel):
    """What is exported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    snapshot_id: str | None = Field(None, description="Id of the snapshot; default: the current one.")


class IndexExportResult(BaseModel):
    """The files that were written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    snapshot_id: str
    tiles: int
    files: list[str]
    bytes: int


def run(
    config: IndexExportConfig, inputs: IndexExportInputs, output: str, *, overwrite: bool = False
) -> IndexExportResult:
    """Write the tiles of a snapshot as FAISS index files and `tiles.parquet`, the record `export.json` last.

    Raises `ConfigError` for a kind of embeddings where the index keeps none, and what opening the index raises.
    """
    output, index = storage.absolute(output), storage.absolute(inputs.index)
    snapshot_id = inputs.snapshot_id or current_snapshot(index)
    fingerprint = fingerprint_of(["faiss export", _VERSION, config.model_dump(), snapshot_id])
    with begin_output(
        output, fingerprint, record=RECORD_NAME, what="an export", overwrite=overwrite
    ) as record:
        if record:
            return IndexExportResult.model_validate_json(record).model_copy(update={"reused": True})
        snapshot = Snapshot.open(index, snapshot_id)
        if config.kind in OF_EMBEDDINGS and snapshot.embedding_dim is None:
            raise ConfigError(
                f"kind is {config.kind!r}, which is of embeddings, and this index keeps none; export a kind of codes."
            )
        rows, table = _tiles(snapshot)
        labels = np.full(snapshot.rows, -1, np.int64)  # of the snapshot's rows; -1 for removed ones
        labels[rows] = np.arange(len(rows))
        of_shard = [labels[shard.first_row : shard.first_row + len(shard)] for shard in snapshot.shards]
        sizes = {TILES_NAME: _write(output, TILES_NAME, lambda path: pq.write_table(table, path))}
        if config.kind == "flat":
            sizes[FLAT_NAME] = _write_flat(snapshot, of_shard, output)
        else:
            ensure_ray()
            task = remote_task(export_shard)
            source = (index, snapshot_id, output, config.kind, config.lists)
            refs = [task.remote(*source, number, each) for number, each in enumerate(of_shard)]
            sizes |= dict(gather(refs, "index: exporting", "shards"))
        result = IndexExportResult(
            output=output,
            reused=False,
            snapshot_id=snapshot_id,
            tiles=len(rows),
            files=sorted(sizes),
            bytes=sum(sizes.values()),
        )
        storage.write_bytes(storage.join(output, RECORD_NAME), result.model_dump_json(indent=1).encode())
    say(f"index: exported {len(rows):,} tiles in {len(sizes) - 1} FAISS files ({result.bytes:,} bytes)")
    return result


def export_shard(
    index: str, snapshot_id: str, output: str, kind: FaissKind, lists: int, number: int, labels: IntArray
) -> tuple[str, int]:
    """Write one shard as a FAISS index; (name of the file, its bytes). labels: int64[N], -1 for removed rows."""
    shard = Snapshot.open(index, snapshot_id).shards[number]
    kept = np.flatnonzero(labels >= 0)
    embeddings = shard.embeddings[kept] if kind in OF_EMBEDDINGS and shard.embeddings is not None else None
    built = build_faiss(kind, labels[kept], shard.codes[kept], embeddings, lists=lists)
    name = f"shard-{number:05d}.faiss"
    return name, _write(output, name, lambda path: save_faiss(built, path))


def _tiles(snapshot: Snapshot) -> tuple[IntArray, pa.Table]:
    """(rows of the snapshot int64[N] in the order of tile ids, the table of tiles with their labels)."""
    ids, lat, lon = [], [], []
    live = [np.empty(0, np.int64)]
    for shard in snapshot.shards:
        names, lats, lons = shard.tiles()
        kept = np.arange(len(shard)) if shard.live_rows is None else np.flatnonzero(shard.live_rows)
        ids.append(names.take(pa.array(kept)))
        lat.append(lats[kept])
        lon.append(lons[kept])
        live.append(kept + shard.first_row)
    every = pa.concat_arrays(ids) if ids else pa.array([], pa.large_string())
    order = pc.sort_indices(every)
    place = order.to_numpy()
    columns = [np.concatenate([np.empty(0), *part])[place] for part in (lat, lon)]
    table = pa.table(
        {
            "row": pa.array(np.arange(len(place), dtype=np.int64)),
            "tile_id": every.take(order),
            "lat": pa.array(columns[0], from_pandas=True),
            "lon": pa.array(columns[1], from_pandas=True),
        }
    )
    return np.concatenate(live)[place], table


def _write_flat(snapshot: Snapshot, of_shard: list[IntArray], output: str) -> int:
    """Write all tiles as one exact index, each at its label of `of_shard` (as `export_shard` takes them)."""
    count = sum(int((labels >= 0).sum()) for labels in of_shard)
    codes = np.empty((count, snapshot.bits // 8), np.uint8)
    for shard, labels in zip(snapshot.shards, of_shard, strict=True):
        kept = labels >= 0
        codes[labels[kept]] = shard.codes[kept]
    built = build_faiss("flat", np.arange(count), codes)
    return _write(output, FLAT_NAME, lambda path: save_faiss(built, path))


def _write(output: str, name: str, write: Callable[[str], object]) -> int:
    """Let `write` write a local file and put it into the output, whole; its size in bytes."""
    with tempfile.TemporaryDirectory(prefix="geoloc-export-") as work:
        path = Path(work) / name
        write(str(path))
        storage.copy_file(str(path), storage.join(output, name))
        return path.stat().st_size
