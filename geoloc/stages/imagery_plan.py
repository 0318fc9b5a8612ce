"""What to cut from imagery, part by part: shared by the stages that store tiles and that encode them at once.

The driver reads the headers of the sheets. A unit describes one part: a range of the grid's blocks, or tiles around
given centres, with the sheets that may show them. A task expands it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from geoloc.core import storage
from geoloc.core.progress import say
from geoloc.core.scratch import ScratchRecords
from geoloc.runtime import table_job
from geoloc.sources import geotiff
from geoloc.sources.centres import read_centres
from geoloc.sources.grid import Block, TilePlace, TileSpec, grid_block
from geoloc.sources.quarantine import RefusedRow
from geoloc.sources.sheet_checks import SheetReport, check_sheets
from geoloc.sources.sheets import Sheet, find_sheets, sheet_from, sheet_identities
from geoloc.stages.ingest_settings import IngestConfig

_PART_PIXELS = 64 * 2**20  # about 25 MB as JPEG


@dataclass(frozen=True)
class ImageryPlan:
    """The sheets, the tiles wanted of them, and what was noticed about them."""

    sheets: Sequence[Sheet]
    spec: TileSpec
    report: SheetReport
    max_nodata_share: float
    rows_per_part: int
    centres: str | None

    def identity(self, **settings: Any) -> list[Any]:
        """What decides about the tiles, for a fingerprint; `settings` are those of the stage."""
        return [
            asdict(self.spec),
            {"max_nodata_share": self.max_nodata_share, **settings},
            self.rows_per_part,
            storage.sha256_bytes(storage.read_bytes(self.centres)) if self.centres else "",
            sheet_identities(self.sheets),
        ]

    def details(self) -> dict[str, Any]:
        """What the manifest of a table says about its tiles."""
        return {
            **asdict(self.spec),
            "max_nodata_share": self.max_nodata_share,
            "metres_per_pixel": self.spec.metres_per_pixel,
            "sheets": len(self.sheets),
            "overlapping_sheets": self.report.overlapping,
        }

    def units(self) -> table_job.Units:
        """What tasks need to know, part by part; `opened` and `refused_before` read a unit."""
        limit = max(1, min(self.rows_per_part, _PART_PIXELS // self.spec.tile_px**2))
        return self._around_centres(self.centres, limit) if self.centres else self._of_grid(limit)

    def _around_centres(self, uri: str, limit: int) -> table_job.Units:
        centres = read_centres(uri)
        pieces = ScratchRecords(Block, Block.revived, read_at_once=1)

        def sizes() -> Iterator[int]:
            for block in geotiff.plan_centres(self.sheets, self.spec, centres):
                for piece in geotiff.pieces(block, limit):
                    pieces.append(piece)
                    yield len(piece.tiles)

        groups = table_job.split_ranges(sizes(), limit) or [range(0)]

        def describe(index: int) -> dict[str, Any]:
            blocks = pieces[groups[index].start : groups[index].stop]
            return {
                **self._with_sheets(number for block in blocks for number in block.sheets),
                "blocks": [asdict(block) for block in blocks],
                "refused": [asdict(row) for row in (centres.refused if index == 0 else [])],
            }

        return table_job.Units(range(len(groups)), describe)

    def _of_grid(self, limit: int) -> table_job.Units:
        plan = geotiff.plan_grid(self.sheets, self.spec)
        parts = plan.part_ranges(limit)

        def describe(index: int) -> dict[str, Any]:
            blocks, tiles = parts.part(index)
            described: list[dict[str, Any]] = [
                {
                    "band": int(plan.band[block]),
                    "column": int(plan.column[block]),
                    "sheets": plan.sheets_of(block),
                }
                for block in blocks
            ]
            return {
                **self._with_sheets(number for block in described for number in block["sheets"]),
                "grid": described,
                "tiles": [tiles.start, tiles.stop],
                "refused": [],
            }

        return table_job.Units(range(max(1, len(parts))), describe)

    def _with_sheets(self, numbers: Iterable[int]) -> dict[str, Any]:
        return {
            "spec": asdict(self.spec),
            "max_nodata_share": self.max_nodata_share,
            "named": bool(self.centres),
            "sheets": {number: asdict(self.sheets[number]) for number in sorted(set(numbers))},
        }


def plan_imagery(config: IngestConfig, imagery: Sequence[str], centres: str | None = None) -> ImageryPlan:
    """Read the headers of all sheets, check them and say what was noticed.

    Raises `InputError` for sheets that cannot be used.
    """
    sheets = find_sheets(imagery, config.scale, bands=config.bands, nodata=config.nodata, order=config.order)
    spec = config.spec()
    report = check_sheets(sheets, spec, scaled=config.scale is not None, order=config.order)
    for note in report.notes:
        say(f"imagery: {note}")
    return ImageryPlan(sheets, spec, report, config.max_nodata_share, config.rows_per_part, centres)


@dataclass(frozen=True)
class OpenedUnit:
    """One part as its task sees it: blocks of tiles, expanded one at a time, and their sheets by number."""

    blocks: Iterator[Block]
    sheets: dict[int, Sheet]
    spec: TileSpec
    max_nodata_share: float
    named: bool
    refused: list[RefusedRow]  # rows that the driver refused already


def open_unit(unit: dict[str, Any]) -> OpenedUnit:
    """Expand the description of one part."""
    spec = TileSpec(**unit["spec"])
    return OpenedUnit(
        _grid_blocks(unit, spec) if "grid" in unit else _named_blocks(unit),
        {int(number): sheet_from(fields) for number, fields in unit["sheets"].items()},
        spec,
        unit["max_nodata_share"],
        unit["named"],
        [RefusedRow(**row) for row in unit["refused"]],
    )


def _grid_blocks(unit: dict[str, Any], spec: TileSpec) -> Iterator[Block]:
    for described in unit["grid"]:
        block = grid_block(described["band"], described["column"], spec)
        tiles = block.tiles[slice(*unit["tiles"])]
        yield replace(block, tiles=tiles, sheets=tuple(described["sheets"]))


def _named_blocks(unit: dict[str, Any]) -> Iterator[Block]:
    for block in unit["blocks"]:
        tiles = tuple(TilePlace(**tile) for tile in block["tiles"])
        yield Block(block["lat"], block["lon"], tiles, tuple(block["sheets"]))
