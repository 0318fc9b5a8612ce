"""The answers of an evaluation as tables: a row a query, with its errors and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from geoloc.core import part_table, schemas
from geoloc.evaluation.protocol.apply_protocol import Assessed
from geoloc.evaluation.report.measure import Measured
from geoloc.localization.locator import Locator


def write_answers(
    uri: str, locator: Locator, measured: Measured | None, assessed: Sequence[Assessed], fingerprint: str
) -> None:
    """Write a table for each direction, the first at `uri`, others at `uri-2`, ...; earlier ones are replaced.

    Where photos ask for tiles it is GeoParquet with their fixes, else the id of the best answer.
    """
    for number, one in enumerate(assessed):
        own = uri if number == 0 else f"{uri}-{number + 1}"
        part_table.begin(own, fingerprint, overwrite=True)
        if measured is not None and one is measured.assessed:
            table = schemas.with_geometry(_with_ranks(_fixes(locator, measured), one))
        else:
            table = _with_ranks(_best(one), one)
        part = part_table.write_part(own, 0, table)
        part_table.publish(own, kind="results", fingerprint=fingerprint, parts=[part])


def _best(assessed: Assessed) -> pa.Table:
    rows = pa.array(assessed.retrieved.rows[:, 0], pa.int64())
    return pa.table({"query_id": assessed.asking.ids, "best_id": assessed.gallery.ids.take(rows)})


def _fixes(locator: Locator, measured: Measured) -> pa.Table:
    fixes: dict[int, dict[str, Any]] = {}
    ids = measured.encoded.query_ids.to_pylist()
    for (rows, group), (_, queries) in zip(measured.located, measured.encoded.groups(), strict=True):
        answers = locator.fixes(group.found, queries, k=10)
        fixes |= {int(row): fix.row(ids[row]) for row, fix in zip(rows, answers, strict=True)}
    table = pa.Table.from_pylist([fixes[row] for row in range(len(ids))], schema=schemas.FIXES)
    for name, values in {
        "true_lat": measured.true_lat,
        "true_lon": measured.true_lon,
        "error_m": measured.error_m,
        "top1_error_m": measured.top1_error_m,
    }.items():
        table = table.append_column(name, pa.array(values, pa.float64(), from_pandas=True))
    return table


def _with_ranks(table: pa.Table, assessed: Assessed) -> pa.Table:
    """The table with the first rank that the truth has by each method: 1 is first, ties at their expected rank."""
    for method, counts in assessed.retrieval.counts.items():
        rank = counts.expected_rank()
        values = pa.array(np.where(np.isfinite(rank), rank, np.nan), from_pandas=True)
        table = table.append_column(f"rank {method}", values)
    return table
