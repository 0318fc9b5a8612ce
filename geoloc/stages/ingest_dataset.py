"""A published data set, as downloaded, to checked tables of tiles, queries and pairs, and a note of what it is.

The driver reads the annotation and lists folders; Ray Data tasks read and check the pictures, one part each.
Bytes of pictures are stored unchanged unless a size is asked for. Rows without a picture or with a broken one
are in quarantine, pairs that lost a side are left out and counted.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from geoloc.core import part_table, schemas, storage
from geoloc.core.fingerprint import fingerprint_of
from geoloc.core.part_table import TableDraft
from geoloc.core.progress import say
from geoloc.core.schemas import NOTE_NAME
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult
from geoloc.sources.datasets import loading, registry
from geoloc.sources.datasets.rows import Pair, Plan, Query, Tile
from geoloc.sources.quarantine import RefusedRow
from geoloc.stages.ingest_settings import (
    IngestConfig,
    IngestInputs,
    IngestResult,
    OutputTables,
    TableCounts,
    publish_table,
    report_counts,
)

_VERSION = 1  # of what the stage makes of the same files
_PART_BYTES = 64 * 2**20
_CLOUD_BYTES = 2**20  # points of one tile, about
_PAIRS_PER_PART = 262_144


def ingest_dataset(
    config: IngestConfig, inputs: IngestInputs, output: str, opened: OutputTables
) -> IngestResult:
    """Make the tables of a data set's split and `<output>/dataset.json`, which is written last.

    A data set without photos gives tiles alone.
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
    work = _Work(config, plan, output, opened, [_VERSION, plan.name, plan.split, files], request.root)
    tiles = work.pictures("tiles", plan.tiles, plan.refused_tiles)
    queries = pairs = None
    if plan.queries or plan.refused_queries:
        queries = work.pictures("queries", plan.queries, plan.refused_queries)
        pairs = work.pairs(tiles.uri, queries.uri)
    note_uri, note = (
        storage.join(output, NOTE_NAME),
        _note(plan, [each for each in (tiles, queries, pairs) if each]),
    )
    if not storage.exists(note_uri) or storage.read_bytes(note_uri) != note:
        opened.hold()
        storage.write_bytes(note_uri, note)
    return IngestResult(
        output=output,
        reused=not any(work.fresh),
        seconds=round(time.monotonic() - start, 3),
        tiles=tiles,
        queries=queries,
        pairs=pairs,
    )


@dataclass
class _Work:
    """One run over a plan: what every table of it depends on, and whether this run made each table."""

    config: IngestConfig
    plan: Plan
    output: str
    opened: OutputTables
    source: list[object]
    root: str
    fresh: list[bool] = field(default_factory=list)

    def pictures(
        self, kind: str, rows: Sequence[Tile] | Sequence[Query], refused: Sequence[RefusedRow]
    ) -> TableCounts:
        """Make the table of tiles or of queries."""
        config, uri = self.config, storage.join(self.output, kind)
        size_px = config.tile_px if kind == "tiles" else config.max_image_px
        kept, twice = _without_duplicates(rows, self.plan.name)
        described = [asdict(row) for row in kept]
        bad = [asdict(row) for row in [*refused, *twice]]
        # Without the root: data that moved is the same data.
        text = json.dumps([described, bad]).replace(json.dumps(self.root)[1:-1], "")
        settings = [kind, config.rows_per_part, size_px, config.jpeg_quality]
        fingerprint = fingerprint_of([*self.source, settings, storage.sha256_bytes(text.encode())])
        with self.opened.begin(uri, fingerprint) as table:
            if table.finished is not None:
                return report_counts(kind, uri, table.finished, self.fresh, reused=True)
            limit = config.rows_per_part
            groups = table_job.split(described, lambda row: _weight(row, _PART_BYTES / limit), limit) or [[]]
            common = {"px": size_px, "quality": config.jpeg_quality}
            units = [
                {"rows": group, "refused": bad if index == 0 else [], **common}
                for index, group in enumerate(groups)
            ]
            maker: Callable[[Any], PartResult] = make_tiles if kind == "tiles" else make_queries
            what = f"reading {kind} of {self.plan.name}"
            written, totals = table_job.make_parts(table, units, maker, what=what)
            storage.delete(storage.join(self.output, NOTE_NAME))  # what it says of the old tables is over
            details = self._details(kept)
            manifest = publish_table(kind, table, written, totals, details, config.max_bad_share)
        return report_counts(kind, uri, manifest, self.fresh, reused=False)

    def _details(self, kept: Sequence[Tile | Query]) -> dict[str, Any]:
        """Details of the data set in the manifest of a table of pictures."""
        details: dict[str, Any] = {"dataset": self.plan.name, "split": self.plan.split}
        sides = [
            row.metres_per_pixel * row.at_width_px
            for row in kept
            if isinstance(row, Tile) and row.at_width_px
        ]
        if sides:
            details["tile_m"] = statistics.median(sides)
        return details

    def pairs(self, tiles_uri: str, queries_uri: str) -> TableCounts:
        """Make the table of pairs: the plan's, without those that lost their tile or their query."""
        uri, plan = storage.join(self.output, "pairs"), self.plan
        manifests = [part_table.read_manifest(one) for one in (tiles_uri, queries_uri)]
        text = storage.sha256_bytes(json.dumps(plan.pairs).encode())
        stored = [checksum for manifest in manifests for checksum in manifest.checksums]
        fingerprint = fingerprint_of(["pairs", _VERSION, text, stored])
        with self.opened.begin(uri, fingerprint) as table:
            if table.finished is not None:
                return report_counts("pairs", uri, table.finished, self.fresh, reused=True)
            written, left_out = self._write_pairs(table, tiles_uri, queries_uri)
            details = {"dataset": plan.name, "split": plan.split, "left_out": left_out}
            manifest = publish_table("pairs", table, written, Counter(), details, 1.0)
        return report_counts("pairs", uri, manifest, self.fresh, reused=False)

    def _write_pairs(
        self, table: TableDraft, tiles_uri: str, queries_uri: str
    ) -> tuple[list[part_table.Part], int]:
        """The parts of the pairs of which both sides are in the tables, and the number of the others."""
        tile_ids = set(part_table.read(tiles_uri, columns=["tile_id"])["tile_id"].to_pylist())
        query_ids = set(part_table.read(queries_uri, columns=["query_id"])["query_id"].to_pylist())
        kept = [pair for pair in self.plan.pairs if pair.tile_id in tile_ids and pair.query_id in query_ids]
        starts = range(0, len(kept), _PAIRS_PER_PART) or [0]
        written = [
            table.write_part(index, _pairs_table(kept[start : start + _PAIRS_PER_PART]))
            for index, start in enumerate(starts)
        ]
        return written, len(self.plan.pairs) - len(kept)


def _without_duplicates(
    rows: Sequence[Tile] | Sequence[Query], name: str
) -> tuple[list[Tile | Query], list[RefusedRow]]:
    kept: dict[str, Tile | Query] = {}
    twice = []
    for row in rows:
        key = row.tile_id if isinstance(row, Tile) else row.query_id
        if key in kept:
            twice.append(
                RefusedRow(key, "duplicate_id", f"{name} lists {key!r} twice; the first is kept", name)
            )
        kept.setdefault(key, row)
    return list(kept.values()), twice


def _weight(row: dict[str, Any], bytes_per_row: float) -> int:
    size: int = row["picture"]["size_bytes"] + (_CLOUD_BYTES if row.get("cloud") else 0)
    return max(1, round(size / bytes_per_row))


def make_tiles(unit: dict[str, Any]) -> PartResult:
    """Read and check the tiles of one part (runs in a Ray Data task)."""
    rows = [Tile.of(row) for row in unit["rows"]]
    table, bad = loading.load_tiles(rows, tile_px=unit["px"], jpeg_quality=unit["quality"])
    return PartResult(table, [*(RefusedRow(**row) for row in unit["refused"]), *bad])


def make_queries(unit: dict[str, Any]) -> PartResult:
    """Read and check the photos of one part (runs in a Ray Data task)."""
    rows = [Query.of(row) for row in unit["rows"]]
    table, bad = loading.load_queries(rows, max_px=unit["px"], jpeg_quality=unit["quality"])
    return PartResult(table, [*(RefusedRow(**row) for row in unit["refused"]), *bad])


def _pairs_table(pairs: Sequence[Pair]) -> pa.Table:
    columns = list(zip(*pairs, strict=True)) or [()] * len(schemas.PAIRS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schemas.PAIRS, strict=True)]
    return pa.table(arrays, schema=schemas.PAIRS)


def _note(plan: Plan, tables: Sequence[TableCounts]) -> bytes:
    """The content of `dataset.json`."""
    kinds = [table.uri.rpartition("/")[2] for table in tables]
    manifests = [part_table.read_manifest(table.uri) for table in tables]
    findings = list(plan.findings)
    for kind, manifest in zip(kinds, manifests, strict=True):
        for reason, count in manifest.quarantined.items():
            findings.append(f"{count:,} {kind} are in quarantine: {reason}.")
        if left_out := int(manifest.details.get("left_out", 0)):
            findings.append(
                f"{left_out:,} pairs are left out: their tile or their photo is not in the tables."
            )
    rows = {kind: manifest.rows for kind, manifest in zip(kinds, manifests, strict=True)}
    note = {
        "name": plan.name,
        "split": plan.split,
        "protocol": plan.protocol,
        "counts": rows | {f"listed_{what}": count for what, count in plan.counts.items()},
        "published_counts": plan.published,
        "findings": findings,
        "fingerprint": fingerprint_of(
            [[checksum for manifest in manifests for checksum in manifest.checksums]]
        ),
    }
    return (json.dumps(note, indent=1, ensure_ascii=False) + "\n").encode()
