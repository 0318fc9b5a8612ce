"""Positions that users write by hand or export: CSV (comma, semicolon or tab) and GeoJSON, row by row.

A byte-order mark, Windows line ends and blank lines are fine. Cells are text here; what they mean is decided
by who reads them, so that a bad cell costs its row and not the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoloc.core import storage
from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError
from geoloc.core.schemas import coordinate_problem
from geoloc.sources.quarantine import RefusedRow

_DELIMITERS = (",", ";", "\t")
Row = Mapping[str, str]


@dataclass(frozen=True)
class Columns:
    """A table of text: its header and its rows, each with its line in the file for messages."""

    uri: str
    names: tuple[str, ...]
    rows: list[Row]

    def require(self, *choices: Sequence[str]) -> list[str]:
        """The first name of each choice that the table has; `InputError` listing what was found otherwise."""
        found = [next((name for name in choice if name in self.names), None) for choice in choices]
        missing = [
            " or ".join(map(repr, choice)) for choice, name in zip(choices, found, strict=True) if not name
        ]
        if missing:
            raise InputError(
                f"{self.uri!r} lacks the column {', '.join(missing)}; it has "
                f"{', '.join(map(repr, self.names)) or 'no columns'}. Rename or add it.",
                reason="missing_column",
            )
        return [name for name in found if name]


def read_columns(uri: str) -> Columns:
    """Read a CSV or GeoJSON file; `InputError` when it is neither or holds no row."""
    text = storage.read_text(uri)
    read = _from_geojson if uri.lower().endswith((".geojson", ".json")) else _from_csv
    columns = read(uri, text)
    if not columns.rows:
        raise InputError(f"{uri!r} holds no rows below its header; add some.", reason="no_rows")
    return columns


def _from_csv(uri: str, text: str) -> Columns:
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [cells for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputError(f"{uri!r} is not a CSV file: line {reader.line_num}: {error}.") from error
    if not lines:
        raise InputError(f"{uri!r} is empty; the first line names the columns.", reason="no_rows")
    names = tuple(name.strip().lower() for name in lines[0])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{uri!r} has the column {twice!r} twice; rename one.", reason="missing_column")
    return Columns(uri, names, [_csv_row(names, cells) for cells in lines[1:]])


def _csv_row(names: tuple[str, ...], cells: list[str]) -> Row:
    padded = [*cells, *[""] * (len(names) - len(cells))]
    return {name: cell.strip() for name, cell in zip(names, padded, strict=False)}


def _from_geojson(uri: str, text: str) -> Columns:
    try:
        document = json.loads(text)
        features = document["features"]
        rows = [_geojson_row(feature) for feature in features]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{uri!r} is not a GeoJSON FeatureCollection of points ({type(error).__name__}: {error}); export it as one."
        ) from error
    names = dict.fromkeys(name for row in rows for name in row)
    return Columns(uri, tuple(names), rows)


def _geojson_row(feature: Mapping[str, Any]) -> Row:
    row = {str(name).strip().lower(): _text(value) for name, value in (feature["properties"] or {}).items()}
    if "id" in feature and "id" not in row:
        row["id"] = _text(feature["id"])
    geometry = feature["geometry"]
    row["lat"] = row["lon"] = ""
    if geometry is not None:
        if geometry["type"] != "Point":
            raise TypeError(f"a {geometry['type']} where a Point is wanted")
        row["lon"], row["lat"] = (_text(value) for value in geometry["coordinates"][:2])
    return row


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def number(row: Row, name: str) -> float | None:
    """A cell as a finite number; None when it is empty or absent, `InputError` when it is something else."""
    cell = row.get(name, "")
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "; decimals take a point" if "," in cell else ""
        raise InputError(f"{name} is {cell!r}, not a number{hint}", reason="bad_value")
    return value


@dataclass(frozen=True)
class Centres:
    """Accepted tile centres (ids, WGS84 degrees [N]) and the refused rows."""

    tile_ids: list[str]
    lat: FloatArray
    lon: FloatArray
    refused: list[RefusedRow]


def read_centres(uri: str) -> Centres:
    """Tile centres from a file with the columns tile_id (or id), lat, lon; bad rows are refused one by one."""
    columns = read_columns(uri)
    id_name, lat_name, lon_name = columns.require(
        ("tile_id", "id"), ("lat", "latitude"), ("lon", "longitude")
    )
    good: dict[str, tuple[float, float]] = {}
    refused: list[RefusedRow] = []
    for line, row in enumerate(columns.rows, start=1):
        tile_id = row.get(id_name, "")
        try:
            lat, lon = number(row, lat_name), number(row, lon_name)
            problem = coordinate_problem(lat, lon)
            if not tile_id:
                problem = ("missing_id", f"row {line} has no {id_name}")
            elif tile_id in good:
                problem = ("duplicate_id", f"row {line} repeats the id {tile_id!r}; the first one is kept")
        except InputError as error:
            problem = (error.reason, str(error))
        if problem:
            refused.append(RefusedRow(tile_id or f"row {line}", *problem, source=uri))
        else:
            assert lat is not None
            assert lon is not None
            good[tile_id] = (lat, lon)
    places = np.array(list(good.values()), dtype=np.float64).reshape(-1, 2)
    return Centres(list(good), places[:, 0], places[:, 1], refused)
