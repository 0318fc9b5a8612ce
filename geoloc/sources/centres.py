"""Given tile centres: a list of ids and places. However long it is, it lies on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.core.progress import say
from geoloc.core.repeated_ids import RepeatedIds
from geoloc.core.schemas import coordinate_problem
from geoloc.core.scratch import ScratchRecords, scratch_array, scratch_table
from geoloc.sources.positions import LAT_NAMES, LON_NAMES, Columns, number, read_columns
from geoloc.sources.quarantine import RefusedRow

_SCHEMA = pa.schema([("tile_id", pa.string()), ("lat", pa.float64()), ("lon", pa.float64())])
_ROWS_AT_ONCE = 65_536
HELD_BYTES = 16 * 2**20
"""Arrays of centres that are larger are mapped from temporary files."""


@dataclass(frozen=True)
class Centres:
    """Accepted tile centres (ids, WGS84 degrees [N]) and the refused rows.

    All of it is mapped from temporary files, but for short lists.
    """

    tile_ids: pa.ChunkedArray
    lat: FloatArray
    lon: FloatArray
    refused: Sequence[RefusedRow]

    def ids_of(self, rows: IntArray) -> list[str]:
        """The ids of rows int64[n]. Arrow would join all chunks of a column for each such question."""
        chunk = np.searchsorted(self._ends, rows, side="right").tolist()
        first = [0, *self._ends.tolist()]
        return [
            self.tile_ids.chunk(number)[row - first[number]].as_py()
            for number, row in zip(chunk, rows.tolist(), strict=True)
        ]

    @cached_property
    def _ends(self) -> IntArray:
        return np.cumsum([len(chunk) for chunk in self.tile_ids.chunks])


def read_centres(uri: str) -> Centres:
    """Tile centres from a file with the columns tile_id (or id), lat, lon; bad rows are refused one by one."""
    columns = read_columns(uri)
    names = columns.require(("tile_id", "id"), LAT_NAMES, LON_NAMES)
    if unused := columns.unused(names):
        say(unused)
    refused = ScratchRecords(RefusedRow)
    rows = _accepted(uri, columns, (names[0], names[1], names[2]), refused)
    table = scratch_table(_batches(rows), _SCHEMA)
    return Centres(table["tile_id"], _numbers(table["lat"]), _numbers(table["lon"]), refused)


def _numbers(column: pa.ChunkedArray) -> FloatArray:
    """A column as one array float64[N]."""
    numbers: FloatArray = scratch_array((len(column),), np.float64, HELD_BYTES)
    first = 0
    for chunk in column.chunks:
        numbers[first : first + len(chunk)] = chunk.to_numpy()
        first += len(chunk)
    return numbers


def _accepted(
    uri: str, columns: Columns, names: tuple[str, str, str], refused: ScratchRecords[RefusedRow]
) -> Iterator[tuple[str, float, float]]:
    """Id, lat, lon of the good rows, in order; the others go to `refused`."""
    id_name, lat_name, lon_name = names
    repeated = RepeatedIds(row.get(id_name, "") for row in columns.rows)
    seen: set[str] = set()  # of the ids that may be there again
    for line, row in enumerate(columns.rows, start=1):
        tile_id = row.get(id_name, "")
        try:
            columns.check(line)
            lat, lon = number(row, lat_name), number(row, lon_name)
            problem = coordinate_problem(lat, lon)
            if not tile_id:
                problem = ("missing_id", f"row {line} has no {id_name}")
            elif tile_id in seen:
                problem = ("duplicate_id", f"row {line} repeats the id {tile_id!r}; the first one is kept")
        except InputError as error:
            problem = (error.reason, str(error))
        if problem:
            refused.append(RefusedRow(tile_id or f"row {line}", *problem, source=uri))
            continue
        assert lat is not None  # a missing one is a problem
        assert lon is not None
        if line - 1 in repeated:
            seen.add(tile_id)
        yield tile_id, lat, lon


def _batches(rows: Iterator[tuple[str, float, float]]) -> Iterator[pa.RecordBatch]:
    while some := list(islice(rows, _ROWS_AT_ONCE)):
        ids = pa.array([row[0] for row in some], pa.string())
        places = np.array([row[1:] for row in some], dtype=np.float64)
        yield pa.record_batch([ids, pa.array(places[:, 0]), pa.array(places[:, 1])], schema=_SCHEMA)
