"""What ingest gives: counts of its tables, and their publication with a limit on bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from geoloc.core import part_table
from geoloc.core.errors import InputError
from geoloc.core.part_table import TableManifest
from geoloc.core.progress import say
from geoloc.runtime import table_job


class TableCounts(BaseModel):
    """Rows of one table, what was refused by reason, and what was left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    rows: int
    quarantined: dict[str, int]
    mostly_nodata: int = 0


class IngestResult(BaseModel):
    """What ingest made: a table for each kind of input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: str
    reused: bool
    seconds: float
    tiles: TableCounts | None
    queries: TableCounts | None
    pairs: TableCounts | None


def publish(
    kind: str,
    uri: str,
    mark: str,
    written: Sequence[part_table.Part],
    totals: Counter[str],
    details: dict[str, Any],
    max_bad_share: float,
) -> TableManifest:
    """Publish a table unless too many of its rows were refused; `TooManyBadRows` then, `InputError` for no tile."""
    refused = table_job.quarantined(totals)
    rows = sum(part.rows for part in written)
    table_job.check_bad_share(kind, uri, rows, refused, max_bad_share)
    if not rows and kind == "tiles" and "max_nodata_share" in details:
        raise InputError(
            f"The imagery gives no tile: {totals['mostly_nodata']:,} places have more than "
            f"{details['max_nodata_share']:.0%} holes; use a smaller tile_m or a larger max_nodata_share.",
            reason="no_tiles",
        )
    return part_table.publish(
        uri, kind=kind, fingerprint=mark, parts=written, quarantined=refused, details=details
    )


def counted(kind: str, uri: str, manifest: TableManifest, made: list[bool], *, reused: bool) -> TableCounts:
    """The counts of a published table, told to the user; `made` notes whether anything was done."""
    made.append(not reused)
    say(table_job.summary(kind, manifest) + (" (reused)" if reused else ""))
    return TableCounts(
        uri=uri,
        rows=manifest.rows,
        quarantined=manifest.quarantined,
        mostly_nodata=int(manifest.details.get("mostly_nodata", 0)),
    )
