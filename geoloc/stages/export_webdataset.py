"""Tables to tar shards that the webdataset package reads: `{key}.ground.jpg`, `{key}.aerial.jpg`, `{key}.json`.

A sample is a photo with its positive tile, so a tile that several photos share is written with each of them.
Tiles that no photo has as its positive follow in shards of their own, so that the whole gallery is there. The
pictures' bytes are those of the tables. Map pictures and points are not written.

Memory of a task: one part of photos, the tiles they need, and the shard of both. A task reads every part of the
tiles that its photos need, so photos in the order of their tiles export fastest.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.images import image_format
from geoloc.core.part_table import TableManifest
from geoloc.core.progress import say
from geoloc.core.schemas import NOTE_NAME
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult
from geoloc.sources.datasets.webdataset import QUERY_COLUMNS, TILE_COLUMNS

_VERSION = 1
_LIST = "shards"
_POSITIVE = "positive"
_SHARDS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("samples", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
Row = dict[str, Any]
Sample = tuple[Row | None, Row | None, list[Row]]
_COLUMNS = {"tiles": [*TILE_COLUMNS, "image"], "queries": [*QUERY_COLUMNS, "image"]}
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class ShardExportConfig(BaseModel):
    """Settings of cutting tables into shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_shard: int = Field(
        default=1000, ge=1, le=100_000, description="Samples in a tar file at most."
    )


class ShardExportInputs(BaseModel):
    """The tables to export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: str = Field(description="URI of an ingest output with tiles, queries and pairs.")


class ShardExportResult(BaseModel):
    """The shards that were written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    shards: int
    samples: int
    bytes: int


def run(
    config: ShardExportConfig, inputs: ShardExportInputs, output: str, *, overwrite: bool = False
) -> ShardExportResult:
    """Write `<output>/*.tar` and `<output>/shards/`, a table of their names, samples and checksums.

    Raises `ArtifactError` when one of the three tables is missing or unfinished.
    """
    output, root = storage.absolute(output), storage.absolute(inputs.tables)
    manifests = {
        kind: part_table.read_manifest(storage.join(root, kind), kind=kind) for kind in ("tiles", "queries")
    }
    manifests["pairs"] = part_table.read_manifest(storage.join(root, "pairs"), kind="pairs")
    uri = storage.join(output, _LIST)
    stored = [checksum for manifest in manifests.values() for checksum in manifest.checksums]
    fingerprint = fingerprint_of(["webdataset", _VERSION, config.samples_per_shard, stored])
    with part_table.begin(uri, fingerprint, overwrite=overwrite) as table:
        if table.finished is not None:
            return _result(output, table.finished, reused=True)
        units = _units(config, root, output, manifests)
        written, _ = table_job.make_parts(table, units, write_shards, what="writing shards")
        wanted = {name for part in written for name in part_table.read_part(uri, part)["name"].to_pylist()}
        for file in storage.list_files(output, suffix=".tar", recursive=False):
            if file.name not in wanted:
                storage.delete(file.uri)  # of an earlier export with other settings
        _copy_note(root, output)
        done = table.publish(kind=_LIST, parts=written)
        say(table_job.summary(_LIST, done))
        return _result(output, done, reused=False)


def _result(output: str, manifest: TableManifest, *, reused: bool) -> ShardExportResult:
    listed = [part_table.read_part(storage.join(output, _LIST), part) for part in manifest.parts]
    table = pa.concat_tables(listed)
    total = {name: int(pc.sum(table[name]).as_py() or 0) for name in ("samples", "bytes")}
    return ShardExportResult(output=output, reused=reused, shards=table.num_rows, **total)


def _copy_note(root: str, output: str) -> None:
    source = storage.join(root, NOTE_NAME)
    if storage.exists(source):
        storage.copy_file(source, storage.join(output, NOTE_NAME))


def _units(
    config: ShardExportConfig, root: str, output: str, manifests: Mapping[str, TableManifest]
) -> list[dict[str, Any]]:
    """A unit a part of photos, with its pairs and the tile parts it needs; then a unit a part of tiles."""
    part_of_tile: dict[str, int] = {}
    for index, part in enumerate(manifests["tiles"].parts):
        names = part_table.read_columns(storage.join(root, "tiles"), part, ["tile_id"])["tile_id"].to_pylist()
        part_of_tile |= dict.fromkeys(names, index)
    pairs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in part_table.read(storage.join(root, "pairs")).to_pylist():
        pairs[row["query_id"]].append(row)
    shown = {row["tile_id"] for rows in pairs.values() for row in rows if row["relation"] == _POSITIVE}
    common = {"tables": root, "output": output, "samples": config.samples_per_shard}
    units: list[dict[str, Any]] = []
    for index, part in enumerate(manifests["queries"].parts):
        keys = part_table.read_columns(storage.join(root, "queries"), part, ["query_id"])[
            "query_id"
        ].to_pylist()
        of_part = {key: pairs[key] for key in keys if key in pairs}
        needed = {
            part_of_tile[row["tile_id"]]
            for rows in of_part.values()
            for row in rows
            if row["relation"] == _POSITIVE
        }
        units.append({**common, "queries": index, "pairs": of_part, "tiles": sorted(needed)})
    unshown: dict[int, list[str]] = defaultdict(list)
    for tile_id, index in part_of_tile.items():
        if tile_id not in shown:
            unshown[index].append(tile_id)
    units += [{**common, "tiles": [index], "alone": unshown[index]} for index in sorted(unshown)]
    return units


def write_shards(unit: dict[str, Any]) -> PartResult:
    """Write the shards of one unit; their names and checksums (runs in a Ray Data task)."""
    root = unit["tables"]
    wanted = unit.get("alone") or [
        row["tile_id"] for rows in unit["pairs"].values() for row in rows if row["relation"] == _POSITIVE
    ]
    tiles = _rows(root, "tiles", unit["tiles"], "tile_id", set(wanted))
    samples: list[Sample]
    if "alone" in unit:
        name = f"tiles-{unit['tiles'][0]:05d}"
        samples = [(None, tiles[key], []) for key in unit["alone"]]
    else:
        name = f"pairs-{unit['queries']:05d}"
        queries = _rows(root, "queries", [unit["queries"]], "query_id", None)
        samples = [_sample(query, unit["pairs"].get(key, []), tiles) for key, query in queries.items()]
    shards = []
    for number, start in enumerate(range(0, len(samples), unit["samples"])):
        chosen = samples[start : start + unit["samples"]]
        shard = f"{name}-{number:03d}.tar"
        data = encode_shard(f"{name}-{number:03d}", chosen)
        storage.write_bytes(storage.join(unit["output"], shard), data)
        shards.append((shard, len(chosen), len(data), storage.sha256_bytes(data)))
    columns = list(zip(*shards, strict=True)) or [()] * len(_SHARDS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, _SHARDS, strict=True)]
    return PartResult(pa.table(arrays, schema=_SHARDS))


def _rows(root: str, kind: str, indices: Sequence[int], key: str, wanted: set[str] | None) -> dict[str, Row]:
    uri = storage.join(root, kind)
    manifest = part_table.read_manifest(uri, kind=kind)
    found: dict[str, Row] = {}
    for index in indices:
        table = part_table.read_part(uri, manifest.parts[index], _COLUMNS[kind])
        if wanted is not None:
            table = table.filter(pc.is_in(table[key], pa.array(sorted(wanted), pa.string())))
        found |= {row[key]: row for row in table.to_pylist()}
    return found


def _sample(query: Row, pairs: list[Row], tiles: Mapping[str, Row]) -> Sample:
    positive = next((row["tile_id"] for row in pairs if row["relation"] == _POSITIVE), None)
    return query, None if positive is None else tiles[positive], pairs


def encode_shard(name: str, samples: Sequence[Sample]) -> bytes:
    """The bytes of a tar of samples (query row, tile row, pair rows); equal rows give equal bytes."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (query, tile, pairs) in enumerate(samples):
            for ending, data in _members(query, tile, pairs):
                header = tarfile.TarInfo(f"{name}-{number:06d}.{ending}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return sink.getvalue()


def _members(query: Row | None, tile: Row | None, pairs: list[Row]) -> Iterator[tuple[str, bytes]]:
    content: dict[str, Any] = {"pairs": pairs}
    for kind, picture, row, columns in (
        ("query", "ground", query, QUERY_COLUMNS),
        ("tile", "aerial", tile, TILE_COLUMNS),
    ):
        if row is not None:
            content[kind] = {column: row[column] for column in columns if row[column] is not None}
            ending = _ENDINGS.get(image_format(row["image"]) or "", "jpg")
            yield f"{picture}.{ending}", row["image"]
    yield "json", json.dumps(content, sort_keys=True).encode()
