"""Positions that users write by hand or export: CSV (comma, semicolon or tab) and GeoJSON, row by row.

A byte-order mark, UTF-16 with one, Windows line ends, blank lines, Excel's line `sep=;` and blanks around cells are
fine. Cells are text here; what they mean is decided by who reads them, so that a bad cell costs its row and not the
file.

A CSV is read from the disk row by row, each time that its rows are asked for; a GeoJSON is held in memory.
"""

from __future__ import annotations

import csv
import json
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from geoloc.core import storage
from geoloc.core.errors import InputError
from geoloc.core.scratch import LocalFile

_DELIMITERS = (",", ";", "\t")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_WGS84_NAMES = ("CRS84", "4326")
_MEANT = {
    "heading_deg": (
        "heading",
        "bearing",
        "azimuth",
        "yaw",
        "direction",
        "compass",
        "compass_angle",
        "img_direction",
    ),
    "fov_deg": ("fov", "hfov", "field_of_view", "fov_h"),
    "extent_m": ("extent", "ground_m", "footprint_m"),
    "view": ("kind", "type", "camera_type"),
    "id": ("uuid", "image_id", "photo_id", "key"),
    "route_id": ("route", "sequence", "sequence_id", "track"),
    "step": ("index", "order"),
}
LAT_NAMES, LON_NAMES = ("lat", "latitude"), ("lon", "longitude", "lng", "long")
PHOTO_NAMES = ("photo", "file", "path", "filename", "image")
Row = Mapping[str, str]


class Rows(Protocol):
    """The rows of a table of text, in order."""

    def __len__(self) -> int:
        """Their number."""
        ...

    def __iter__(self) -> Iterator[Row]:
        """Each row, made when it is reached."""
        ...


@dataclass(frozen=True)
class Columns:
    """A table of text: its header, its rows, and what is wrong with single rows (by number, the first is 1)."""

    uri: str
    names: tuple[str, ...]
    rows: Rows
    problems: Mapping[int, str] = field(default_factory=dict)

    def check(self, number: int) -> None:
        """Raise `InputError` for a row whose cells do not fit the header."""
        if number in self.problems:
            raise InputError(self.problems[number], reason="too_many_cells")

    def unused(self, used: Sequence[str]) -> str:
        """A sentence about the columns that are not used, and which name was perhaps meant; empty without any."""
        words = []
        for name in self.names:
            if name in used:
                continue
            plain = name.replace(" ", "_").replace("-", "_")
            meant = next((known for known, others in _MEANT.items() if plain in others), "")
            hint = meant if meant in used and meant not in self.names else ""
            words.append(f"{name} (rename it to {hint}?)" if hint else name)
        return f"{self.uri}: columns that are not used: {', '.join(words)}" if words else ""

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
    columns = _from_geojson(uri) if uri.lower().endswith((".geojson", ".json")) else _from_csv(uri)
    if not len(columns.rows):
        raise InputError(f"{uri!r} holds no rows below its header; add some.", reason="no_rows")
    return columns


def _text_of(uri: str) -> str:
    data = storage.read_bytes(uri)
    if not data.startswith(_UTF16_MARKS):
        return storage.read_text(uri)
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise InputError(f"{uri!r} is broken UTF-16 text; save it as UTF-8.") from error


@dataclass(frozen=True)
class _TextFile:
    """The lines of a text file, as often as they are asked for; a remote file is copied to the local disk once."""

    uri: str
    file: LocalFile

    def lines(self) -> Iterator[str]:
        """Each line with its end, which is of any kind."""
        path = self.file.path
        with storage.attempt("read", self.uri, lambda: path.open("rb")) as stream:
            encoding = "utf-16" if stream.read(2) in _UTF16_MARKS else "utf-8-sig"
        try:
            with path.open(encoding=encoding, newline="") as text:
                yield from text
        except UnicodeDecodeError:
            _text_of(self.uri)  # says which byte it is
            raise


@dataclass(frozen=True)
class _CsvRows:
    """Rows of a CSV, which are read from its file each time; `skip` lines of it go before the header."""

    text: _TextFile
    skip: int
    delimiter: str
    names: tuple[str, ...]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Row]:
        lines = _filled_lines(self.text, self.skip, self.delimiter)
        next(lines, None)
        return (_csv_row(self.names, cells) for cells in lines)


class _LongRows(Mapping[int, str]):
    """What is wrong with the rows of more cells than columns: 16 bytes a row."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows, self._cells = array("q"), array("q")

    def note(self, row: int, cells: int) -> None:
        """Add a row with its number of cells, in the order of the rows."""
        self._rows.append(row)
        self._cells.append(cells)

    def __getitem__(self, row: int) -> str:
        place = bisect_left(self._rows, row)
        if place == len(self._rows) or self._rows[place] != row:
            raise KeyError(row)
        return (
            f"row {row} has {self._cells[place]} cells, but the header {self._columns} columns; decimals take a point, "
            "and text with the separator in it takes quotes"
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _from_csv(uri: str) -> Columns:
    text = _TextFile(uri, LocalFile(uri))
    numbered = ((number, line) for number, line in enumerate(text.lines(), start=1) if line.strip())
    skip, header = next(numbered, (0, ""))
    delimiter = max(_DELIMITERS, key=header.count)
    if header.strip("\r\n ").lower() in [f"sep={mark}" for mark in _DELIMITERS]:  # Excel's own way to name it
        delimiter = header.strip("\r\n ")[-1]
    else:
        skip = 0
    lines = _filled_lines(text, skip, delimiter)
    if (first := next(lines, None)) is None:
        raise InputError(f"{uri!r} is empty; the first line names the columns.", reason="no_rows")
    names = tuple(name.strip().lower() for name in _without_empty_end(first))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{uri!r} has the column {twice!r} twice; rename one.", reason="missing_column")
    problems, count = _LongRows(len(names)), 0
    for count, cells in enumerate(lines, start=1):
        if len(cells) > len(names) and (filled := len(_without_empty_end(cells))) > len(names):
            problems.note(count, filled)
    return Columns(uri, names, _CsvRows(text, skip, delimiter, names, count), problems)


def _filled_lines(text: _TextFile, skip: int, delimiter: str) -> Iterator[list[str]]:
    """The cells of each line of a CSV that has any text."""
    reader = csv.reader(islice(text.lines(), skip, None), delimiter=delimiter, skipinitialspace=True)
    try:
        yield from (cells for cells in reader if any(cell.strip() for cell in cells))
    except csv.Error as error:
        raise InputError(
            f"{text.uri!r} is not a CSV file: line {skip + reader.line_num}: {error}."
        ) from error


def _without_empty_end(cells: list[str]) -> list[str]:
    """Cells without empty ones at the end, which spreadsheets leave behind."""
    filled = [index for index, cell in enumerate(cells) if cell.strip()]
    return cells[: filled[-1] + 1] if filled else []


def _csv_row(names: tuple[str, ...], cells: list[str]) -> Row:
    padded = [*cells, *[""] * (len(names) - len(cells))]
    return {name: cell.strip() for name, cell in zip(names, padded, strict=False)}


def _from_geojson(uri: str) -> Columns:
    text = _text_of(uri)
    try:
        document = json.loads(text)
        _check_crs(uri, document)
        features = document["features"]
        rows = [_geojson_row(feature) for feature in features]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{uri!r} is not a GeoJSON FeatureCollection of points ({type(error).__name__}: {error}); export it as one."
        ) from error
    names = dict.fromkeys(name for row in rows for name in row)
    return Columns(uri, tuple(names), rows)


def _check_crs(uri: str, document: Mapping[str, Any]) -> None:
    """Refuse GeoJSON of the older format (2008) whose coordinates are of another system than WGS84."""
    name = str(((document.get("crs") or {}).get("properties") or {}).get("name", "CRS84"))
    if not name.endswith(_WGS84_NAMES):
        raise InputError(
            f"{uri!r} has coordinates in {name[:80]!r}; export it in WGS84 degrees, as GeoJSON has them.",
            reason="bad_crs",
        )


def _geojson_row(feature: Mapping[str, Any]) -> Row:
    row = {str(name).strip().lower(): _text(value) for name, value in (feature["properties"] or {}).items()}
    if "id" in feature and "id" not in row:
        row["id"] = _text(feature["id"])
    row["lon"], row["lat"] = _point(feature["geometry"])
    return row


def _point(geometry: Mapping[str, Any] | None) -> tuple[str, str]:
    """Cells of longitude and latitude; those of a geometry that is no point hold its type, which is no number."""
    if geometry is None:
        return "", ""
    kind, coordinates = str(geometry["type"]), geometry["coordinates"]
    if kind == "MultiPoint" and len(coordinates) == 1:
        kind, coordinates = "Point", coordinates[0]
    if kind != "Point":
        return kind, kind
    return _text(coordinates[0]), _text(coordinates[1])


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def number(row: Row, name: str) -> float | None:
    """A cell as a finite number; None when it is empty or absent, `InputError` when it is something else."""
    cell = row.get(name, "")
    if not cell:
        return None
    try:
        value = float(cell) if "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "; decimals take a point" if "," in cell else ""
        if "°" in cell or cell[-1].upper() in "NESW":
            hint = "; write decimal degrees, negative in the south and west"
        raise InputError(f"{name} is {cell!r}, not a number{hint}", reason="bad_value")
    return value
