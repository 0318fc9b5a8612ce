"""The answers of an evaluation as tables: a row for each query, with its errors and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from geoloc.core import part_table, schemas
from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES
from geoloc.evaluation.report.located_errors import LocatedPhotos
from geoloc.evaluation.report.recall_table import KEPT_ANSWERS, DirectionTables
from geoloc.localization.locator import Locator


def write_answers(
    uri: str,
    locator: Locator,
    photos: LocatedPhotos | None,
    directions: Sequence[DirectionTables],
    fingerprint: str,
    *,
    rerank: int,
) -> None:
    """Write a table for each direction, the first at `uri`, others at `uri-2`, ...; earlier ones are replaced.

    For queries that are photos it is GeoParquet with their fixes (`rerank` is that of their search), else it has
    the id of the best answer.
    """
    for number, tables in enumerate(directions):
        table_uri = uri if number == 0 else f"{uri}-{number + 1}"
        if photos is not None and tables.questions.direction == PHOTOS_TO_TILES:
            table = schemas.with_geometry(_with_ranks(_fixes(locator, photos, rerank), tables))
        else:
            table = _with_ranks(_best(tables), tables)
        part_table.write_table(table_uri, [table], kind="results", fingerprint=fingerprint, overwrite=True)


def _best(tables: DirectionTables) -> pa.Table:
    rows = pa.array(tables.best_rows[:, 0], pa.int64())
    questions = tables.questions
    return pa.table({"query_id": questions.queries.ids, "best_id": questions.gallery.ids.take(rows)})


def _fixes(locator: Locator, photos: LocatedPhotos, rerank: int) -> pa.Table:
    fixes: dict[int, dict[str, Any]] = {}
    ids = photos.encoded.query_ids.to_pylist()
    for (rows, group), (_, queries) in zip(photos.groups, photos.encoded.groups(), strict=True):
        answers = locator.fixes(group.found, queries, k=KEPT_ANSWERS, rerank=rerank, uncalibrated=True)
        fixes |= {int(row): fix.row(ids[row]) for row, fix in zip(rows, answers, strict=True)}
    table = pa.Table.from_pylist([fixes[row] for row in range(len(ids))], schema=schemas.FIXES)
    for name in ("true_lat", "true_lon", "error_m", "top1_error_m"):
        table = table.append_column(name, pa.array(getattr(photos, name), pa.float64(), from_pandas=True))
    return table


def _with_ranks(table: pa.Table, tables: DirectionTables) -> pa.Table:
    """The table with the rank of the right item by each method: 1 is first, ties at their expected rank."""
    for method, counts in tables.table.counts.items():
        rank = counts.expected_rank()
        values = pa.array(np.where(np.isfinite(rank), rank, np.nan), from_pandas=True)
        table = table.append_column(f"rank {method}", values)
    return table
