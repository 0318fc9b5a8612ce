"""Ingest: imagery and photos, as they come, to checked tables of tiles, queries and pairs.

The driver reads headers and positions and plans; Ray Data tasks read, check, cut and write, one part each.
Bad rows go to `quarantine/` beside the parts with their reason; too many of them stop the stage. Killed
halfway and run again it makes the missing parts, byte for byte as one run through would have.

Memory of a task: a picture of about 2,000 x 2,000 pixels and the imagery below it (60 MB) and one part
(`rows_per_part` tiles of at most 64 Mi pixels, or photos of at most 64 MiB, together).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from geoloc.core import part_table, storage
from geoloc.core.fingerprint import Streamed, fingerprint_of
from geoloc.core.progress import say
from geoloc.runtime import table_job
from geoloc.runtime.table_job import PartResult
from geoloc.sources import folder, geotiff
from geoloc.sources.folder import Photo
from geoloc.sources.quarantine import RefusedRow
from geoloc.sources.sheet_checks import SheetReport
from geoloc.stages.imagery_plan import open_unit, plan_imagery
from geoloc.stages.ingest_dataset import ingest_dataset
from geoloc.stages.ingest_pairs import PairMaker, pair_units, part_boxes
from geoloc.stages.ingest_settings import (
    IngestConfig,
    IngestInputs,
    IngestResult,
    OutputTables,
    TableCounts,
    publish_table,
    report_counts,
)

__all__ = ["IngestConfig", "IngestInputs", "IngestResult", "TableCounts", "make_queries", "make_tiles", "run"]

_VERSION = 4  # of what the stage makes of the same inputs
_UNUSED_HEADINGS = "unused_file_headings"
_PHOTO_PART_BYTES = 64 * 2**20


def run(config: IngestConfig, inputs: IngestInputs, output: str, *, overwrite: bool = False) -> IngestResult:
    """Make `<output>/tiles`, `<output>/queries` and `<output>/pairs`, whichever the inputs allow.

    Of a data set also `<output>/dataset.json`: its name, split, protocol, counts and what was noticed.

    Raises `InputError` or `ArtifactError` for inputs that cannot be used, `TooManyBadRows` when more than
    `max_bad_share` of a table's rows were refused (the table is not published).
    """
    start = time.monotonic()
    output = storage.absolute(output)
    with OutputTables(output, overwrite=overwrite) as opened:
        result = _ingest(config, inputs, output, opened)
    return result.model_copy(update={"seconds": round(time.monotonic() - start, 3)})


def _ingest(config: IngestConfig, inputs: IngestInputs, output: str, opened: OutputTables) -> IngestResult:
    fresh: list[bool] = []
    tiles = queries = pairs = None
    report = SheetReport(0, ())
    tile_m = config.tile_m
    if inputs.dataset:
        result = ingest_dataset(config, inputs, output, opened)
        if not inputs.photos or not result.tiles:
            return result
        fresh.append(not result.reused)
        tiles = result.tiles
        tile_m = float(part_table.read_manifest(tiles.uri).details["tile_m"])
    if inputs.imagery:
        tiles, report = _tiles(config, inputs, storage.join(output, "tiles"), opened, fresh)
    if inputs.photos:
        queries = _queries(config, inputs.photos, storage.join(output, "queries"), opened, fresh)
    if tiles and queries:
        pairs = _pairs(config, tile_m, tiles.uri, queries.uri, storage.join(output, "pairs"), opened, fresh)
    return IngestResult(
        output=output,
        reused=not any(fresh),
        seconds=0.0,
        tiles=tiles,
        queries=queries,
        pairs=pairs,
        overlapping_sheets=report.overlapping,
        notes=report.notes,
    )


def _tiles(
    config: IngestConfig, inputs: IngestInputs, uri: str, opened: OutputTables, fresh: list[bool]
) -> tuple[TableCounts, SheetReport]:
    plan = plan_imagery(config, inputs.imagery or [], inputs.centres)
    quality = {"jpeg_quality": config.jpeg_quality}
    fingerprint = fingerprint_of(["tiles", _VERSION, *plan.identity(**quality)])
    with opened.begin(uri, fingerprint) as table:
        if table.finished is not None:
            return report_counts("tiles", uri, table.finished, fresh, reused=True), plan.report
        planned = plan.units()
        units = table_job.Units(range(len(planned)), lambda index: {**planned[index], **quality})
        written, totals = table_job.make_parts(table, units, make_tiles, what="cutting tiles")
        details = {**plan.details(), **quality, "mostly_nodata": totals["mostly_nodata"]}
        manifest = publish_table("tiles", table, written, totals, details, config.max_bad_share)
    return report_counts("tiles", uri, manifest, fresh, reused=False), plan.report


def make_tiles(unit: dict[str, Any]) -> PartResult:
    """Cut the tiles of one part (runs in a Ray Data task)."""
    part = open_unit(unit)
    cut = geotiff.cut_blocks(
        part.blocks,
        part.sheets,
        part.spec,
        max_nodata_share=part.max_nodata_share,
        jpeg_quality=unit["jpeg_quality"],
        named=part.named,
    )
    return PartResult(cut.rows, [*part.refused, *cut.refused], (("mostly_nodata", cut.mostly_nodata),))


def _queries(
    config: IngestConfig, photos_uri: str, uri: str, opened: OutputTables, fresh: list[bool]
) -> TableCounts:
    positions = folder.positions_uri(storage.absolute(photos_uri))
    photos, refused = folder.read_photos(positions, config.views(), anywhere=config.photos_anywhere)
    fingerprint = fingerprint_of(
        [
            "queries",
            _VERSION,
            asdict(config.views()),
            config.rows_per_part,
            storage.sha256_file(positions),
            Streamed(folder.photo_fingerprints(photo.uri for photo in photos)),
        ]
    )
    with opened.begin(uri, fingerprint) as table:
        if table.finished is not None:
            return report_counts("queries", uri, table.finished, fresh, reused=True)
        units = _query_units(config, photos, refused)
        written, totals = table_job.make_parts(table, units, make_queries, what="checking photos")
        if words := folder.unused_headings("photos", totals[_UNUSED_HEADINGS]):
            say(words)
        manifest = publish_table("queries", table, written, totals, {}, config.max_bad_share)
    return report_counts("queries", uri, manifest, fresh, reused=False)


def _query_units(
    config: IngestConfig, photos: Sequence[Photo], refused: Sequence[RefusedRow]
) -> table_job.Units:
    """The photos of each part, and rows that were refused already, an equal share with each."""
    bytes_per_row = _PHOTO_PART_BYTES / config.rows_per_part
    ranges = table_job.split_ranges(
        (max(1, round((photo.size_bytes or 0) / bytes_per_row)) for photo in photos), config.rows_per_part
    ) or [range(0)]

    def describe(number: int) -> dict[str, Any]:
        part, (first, last) = ranges[number], (len(refused) * (number + k) // len(ranges) for k in (0, 1))
        return {
            "photos": [asdict(photo) for photo in photos[part.start : part.stop]],
            "refused": [asdict(row) for row in refused[first:last]],
        }

    return table_job.Units(range(len(ranges)), describe)


def make_queries(unit: dict[str, Any]) -> PartResult:
    """Read and check the photos of one part (runs in a Ray Data task)."""
    rows, bad, unused = folder.load_photos([Photo(**photo) for photo in unit["photos"]])
    refused = [*(RefusedRow(**row) for row in unit["refused"]), *bad]
    return PartResult(rows, refused, ((_UNUSED_HEADINGS, unused),))


def _pairs(
    config: IngestConfig,
    tile_m: float,
    tiles_uri: str,
    queries_uri: str,
    uri: str,
    opened: OutputTables,
    fresh: list[bool],
) -> TableCounts:
    tiles, queries = part_table.read_manifest(tiles_uri), part_table.read_manifest(queries_uri)
    fingerprint = fingerprint_of(
        ["pairs", _VERSION, config.positive_radius_m, tile_m, [*tiles.checksums, *queries.checksums]]
    )
    with opened.begin(uri, fingerprint) as table:
        if table.finished is not None:
            return report_counts("pairs", uri, table.finished, fresh, reused=True)
        boxes = part_boxes(tiles_uri, tiles)
        maker = PairMaker(tiles_uri, queries_uri, tile_m, config.positive_radius_m, boxes)
        written, _ = table_job.make_parts(table, pair_units(tiles, queries), maker, what="pairing")
        details = {"positive_radius_m": config.positive_radius_m}
        manifest = publish_table("pairs", table, written, Counter(), details, 1.0)
    return report_counts("pairs", uri, manifest, fresh, reused=False)
