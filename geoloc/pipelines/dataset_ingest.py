"""A published data set, as downloaded, to checked tables of tiles, queries and pairs, and a note of what it is.

The driver reads the annotation and lists folders; Ray Data tasks read and check the pictures, one part each.
Bytes of pictures are stored unchanged unless a size is asked for. Rows without a picture or with a broken one
are in quarantine, pairs that lost a side are left out and counted.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from geoloc import parts, storage, tables
from geoloc.pipelines import blocks
from geoloc.pipelines.blocks import Made
from geoloc.pipelines.ingest_settings import IngestConfig, IngestInputs
from geoloc.pipelines.ingest_tables import IngestResult, TableCounts, counted, publish
from geoloc.progress import say
from geoloc.sources.datasets import loading, registry
from geoloc.sources.datasets.rows import Plan, Query, Tile
from geoloc.sources.refused import Refused

NOTE_NAME = "dataset.json"
_VERSION = 1  # of what the stage makes of the same files
_PART_BYTES = 64 * 2**20
_CLOUD_BYTES = 2**20  # points of one tile, about
_PAIRS_PER_PART = 262_144


def ingest_dataset(
    config: IngestConfig, inputs: IngestInputs, output: str, *, overwrite: bool = False
) -> IngestResult:
    """Make the three tables of a data set's split and `<output>/dataset.json`, which is written last.

    Raises `ConfigError` for an unknown data set or split, `ArtifactError` or `InputError` for files that are
    missing or do not read as they should, `TooManyBadRows` when more than `max_bad_share` of a table is bad.
    """
    start = time.monotonic()
    dataset = registry.find(inputs.dataset or "")
    assert inputs.root is not None
    request = dataset.request(inputs.root, inputs.split, inputs.labels, inputs.cities)
    plan = dataset.plan(request)
    for finding in plan.findings:
        say(finding)
    files = [storage.sha256_file(uri) for uri in plan.annotations]
    source = [_VERSION, plan.name, plan.split, files, config.rows_per_part, config.jpeg_quality]
    made: list[bool] = []
    tiles = _pictures(
        "tiles", plan, plan.tiles, plan.refused_tiles, config, source, request.root, output, overwrite, made
    )
    queries = _pictures(
        "queries",
        plan,
        plan.queries,
        plan.refused_queries,
        config,
        source,
        request.root,
        output,
        overwrite,
        made,
    )
    pairs = _pairs(plan, tiles.uri, queries.uri, storage.join(output, "pairs"), overwrite, made)
    _write_note(plan, tiles, queries, pairs, storage.join(output, NOTE_NAME))
    return IngestResult(
        output=output,
        reused=not any(made),
        seconds=round(time.monotonic() - start, 3),
        tiles=tiles,
        queries=queries,
        pairs=pairs,
    )


def _pictures(
    kind: str,
    plan: Plan,
    rows: Sequence[Tile] | Sequence[Query],
    refused: Sequence[Refused],
    config: IngestConfig,
    source: Sequence[object],
    root: str,
    output: str,
    overwrite: bool,
    made: list[bool],
) -> TableCounts:
    uri = storage.join(output, kind)
    size_px = config.tile_px if kind == "tiles" else config.max_image_px
    kept, twice = _without_duplicates(rows, plan.name)
    described = [asdict(row) for row in kept]
    bad = [asdict(row) for row in [*refused, *twice]]
    # Without the root: data that moved is the same data.
    text = json.dumps([described, bad]).replace(json.dumps(root)[1:-1], "")
    mark = blocks.fingerprint(kind, *source, size_px, storage.sha256_bytes(text.encode()))
    if done := parts.begin(uri, mark, overwrite=overwrite):
        return counted(kind, uri, done, made, reused=True)
    limit = config.rows_per_part
    groups = blocks.split(described, lambda row: _weight(row, _PART_BYTES / limit), limit) or [[]]
    units = [
        {"rows": group, "refused": bad if index == 0 else [], "px": size_px, "quality": config.jpeg_quality}
        for index, group in enumerate(groups)
    ]
    maker: Callable[[Any], Made] = make_tiles if kind == "tiles" else make_queries
    written, totals = blocks.make_parts(uri, units, maker, what=f"reading {kind} of {plan.name}")
    details = {"dataset": plan.name, "split": plan.split}
    manifest = publish(kind, uri, mark, written, totals, details, config.max_bad_share)
    return counted(kind, uri, manifest, made, reused=False)


def _without_duplicates(
    rows: Sequence[Tile] | Sequence[Query], name: str
) -> tuple[list[Tile | Query], list[Refused]]:
    kept: dict[str, Tile | Query] = {}
    twice = []
    for row in rows:
        key = row.tile_id if isinstance(row, Tile) else row.query_id
        if key in kept:
            twice.append(Refused(key, "duplicate_id", f"{name} lists {key!r} twice; the first is kept", name))
        kept.setdefault(key, row)
    return list(kept.values()), twice


def _weight(row: dict[str, Any], bytes_per_row: float) -> int:
    size: int = row["picture"]["size_bytes"] + (_CLOUD_BYTES if row.get("cloud") else 0)
    return max(1, round(size / bytes_per_row))


def make_tiles(unit: dict[str, Any]) -> Made:
    """Read and check the tiles of one part (runs in a Ray Data task)."""
    rows = [Tile.of(row) for row in unit["rows"]]
    table, bad = loading.load_tiles(rows, tile_px=unit["px"], jpeg_quality=unit["quality"])
    return Made(table, [*(Refused(**row) for row in unit["refused"]), *bad])


def make_queries(unit: dict[str, Any]) -> Made:
    """Read and check the photos of one part (runs in a Ray Data task)."""
    rows = [Query.of(row) for row in unit["rows"]]
    table, bad = loading.load_queries(rows, max_px=unit["px"], jpeg_quality=unit["quality"])
    return Made(table, [*(Refused(**row) for row in unit["refused"]), *bad])


def _pairs(
    plan: Plan, tiles_uri: str, queries_uri: str, uri: str, overwrite: bool, made: list[bool]
) -> TableCounts:
    manifests = [parts.read_manifest(one) for one in (tiles_uri, queries_uri)]
    text = storage.sha256_bytes(json.dumps(plan.pairs).encode())
    stored = [part.sha256 for manifest in manifests for part in manifest.parts]
    mark = blocks.fingerprint("pairs", _VERSION, text, stored)
    if done := parts.begin(uri, mark, overwrite=overwrite):
        return counted("pairs", uri, done, made, reused=True)
    tile_ids = set(parts.read(tiles_uri, columns=["tile_id"])["tile_id"].to_pylist())
    query_ids = set(parts.read(queries_uri, columns=["query_id"])["query_id"].to_pylist())
    kept = [pair for pair in plan.pairs if pair.tile_id in tile_ids and pair.query_id in query_ids]
    written = []
    for index, start in enumerate(range(0, len(kept), _PAIRS_PER_PART) or [0]):
        columns = list(zip(*kept[start : start + _PAIRS_PER_PART], strict=True)) or [()] * len(tables.PAIRS)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, tables.PAIRS, strict=True)]
        written.append(parts.write_part(uri, index, pa.table(arrays, schema=tables.PAIRS)))
    details = {"dataset": plan.name, "split": plan.split, "left_out": len(plan.pairs) - len(kept)}
    manifest = publish("pairs", uri, mark, written, Counter(), details, 1.0)
    return counted("pairs", uri, manifest, made, reused=False)


def _write_note(plan: Plan, tiles: TableCounts, queries: TableCounts, pairs: TableCounts, uri: str) -> None:
    findings = list(plan.findings)
    for table in (tiles, queries):
        kind = table.uri.rpartition("/")[2]
        findings += [
            f"{count:,} {kind} are in quarantine: {reason}." for reason, count in table.quarantined.items()
        ]
    manifests = [parts.read_manifest(table.uri) for table in (tiles, queries, pairs)]
    if left_out := int(manifests[2].details["left_out"]):
        findings.append(f"{left_out:,} pairs are left out: their tile or their photo is not in the tables.")
    rows = {"tiles": tiles.rows, "queries": queries.rows, "pairs": pairs.rows}
    note = {
        "name": plan.name,
        "split": plan.split,
        "protocol": plan.protocol,
        "counts": rows | {f"listed_{what}": count for what, count in plan.counts.items()},
        "published_counts": plan.published,
        "findings": findings,
        "fingerprint": blocks.fingerprint([part.sha256 for one in manifests for part in one.parts]),
    }
    storage.write_bytes(uri, (json.dumps(note, indent=1, ensure_ascii=False) + "\n").encode())
