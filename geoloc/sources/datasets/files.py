"""Finding and reading the files of a data set, with one sentence for everything that is not as it should be."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, CorruptArtifact, InputError
from geoloc.core.images import MAX_IMAGE_BYTES
from geoloc.sources.datasets.rows import Picture
from geoloc.sources.quarantine import RefusedRow

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


class Line(NamedTuple):
    """A line of an annotation file that is not blank, with its number for messages."""

    number: int
    text: str


def missing(what: str, looked_in: Iterable[str], layout: str) -> ArtifactError:
    """The error for a file or folder that a data set should have."""
    places = ", ".join(map(repr, looked_in))
    return ArtifactError(f"{what} is missing; it was looked for at {places}. Expected layout: {layout}.")


def below(root: str, *parts: str) -> str:
    """A place below a data set's root; empty parts are the place itself."""
    return storage.join(root, *filter(None, parts)) if any(parts) else root


def first_there(what: str, candidates: Sequence[str], layout: str) -> str:
    """The first of some URIs that exists; `ArtifactError` naming all of them otherwise."""
    for uri in candidates:
        if storage.exists(uri):
            return uri
    raise missing(what, candidates, layout)


def read_lines(uri: str) -> list[Line]:
    """Lines of an annotation file that are not blank; Windows line ends and a byte-order mark are fine.

    Raises `InputError` when nothing is in the file.
    """
    numbered = enumerate(re.split(r"\r\n|\r|\n", storage.read_text(uri)), start=1)
    lines = [Line(number, text.strip()) for number, text in numbered if text.strip()]
    if not lines:
        raise InputError(f"{uri!r} is empty; copy the annotation file again.", reason="no_rows")
    return lines


def bad_line(uri: str, line: Line, what: str, wanted: str) -> InputError:
    """The error for a line that does not read as it should; what is wrong, then what is wanted."""
    shown = line.text if len(line.text) <= 80 else f"{line.text[:77]}..."
    return InputError(
        f"{uri!r}, line {line.number}: {what} ({shown!r}); a line is {wanted}. Copy the file again or repair the line.",
        reason="bad_annotation",
    )


def split_cells(uri: str, line: Line, count: int, wanted: str, separator: str = ",") -> list[str]:
    """The cells of a line, exactly `count` of them and none empty; `InputError` naming file and line otherwise."""
    cells = [cell.strip() for cell in line.text.split(separator)]
    if len(cells) != count:
        raise bad_line(uri, line, f"{len(cells)} columns instead of {count}", wanted)
    if not all(cells):
        raise bad_line(uri, line, f"column {cells.index('') + 1} is empty", wanted)
    return cells


def number(uri: str, line: Line, cell: str, what: str, wanted: str) -> float:
    """A cell as a finite number; `InputError` naming file and line otherwise."""
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise bad_line(uri, line, f"{what} is {cell!r}, not a number", wanted)
    return value


def degrees(
    uri: str, line: Line, lat_cell: str, lon_cell: str, what: str, wanted: str
) -> tuple[float, float]:
    """Two cells as WGS84 degrees; `InputError` naming file and line when they are not on Earth."""
    lat = number(uri, line, lat_cell, f"the latitude of {what}", wanted)
    lon = number(uri, line, lon_cell, f"the longitude of {what}", wanted)
    if not (-90.0 <= lat <= 90.0 and -180.0 <= lon <= 180.0):
        raise bad_line(uri, line, f"({lat:g}, {lon:g}) of {what} is not on Earth", wanted)
    return lat, lon


def stem(name: str) -> str:
    """A picture's name without its ending; other dots stay."""
    for ending in PICTURE_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def picture_bytes(picture: Picture) -> bytes:
    """The bytes of a picture.

    Raises `ArtifactError` when the file is gone, `CorruptArtifact` when it ends early, `InputError` when it is larger
    than `MAX_IMAGE_BYTES`.
    """
    if picture.offset is None:
        return storage.read_bytes(picture.uri, limit_bytes=MAX_IMAGE_BYTES)
    if picture.size_bytes > MAX_IMAGE_BYTES:
        raise InputError(
            f"a picture in {picture.uri!r} has {picture.size_bytes:,} bytes; at most {MAX_IMAGE_BYTES:,} are read",
            reason="too_large",
        )
    data = storage.read_range(picture.uri, picture.offset, picture.size_bytes)
    if len(data) != picture.size_bytes:
        raise CorruptArtifact(
            f"{picture.uri!r} ends before byte {picture.offset + picture.size_bytes:,}; copy the file again."
        )
    return data


class Pictures:
    """The pictures in some folders, found by name whatever their ending; a listing a folder, no file is opened."""

    def __init__(self, *folders: str) -> None:
        self.folders = folders
        self._by_name: dict[str, Picture] = {}
        self._by_stem: dict[str, Picture] = {}
        for folder in folders:
            for file in storage.list_files(folder, recursive=False):
                if file.name.lower().endswith(PICTURE_ENDINGS):
                    picture = Picture(file.uri, file.size_bytes)
                    self._by_name.setdefault(file.name, picture)
                    self._by_stem.setdefault(stem(file.name), picture)

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, name: str) -> Picture | None:
        """The picture of that name, or of that name with another ending."""
        return self._by_name.get(name) or self._by_stem.get(stem(name))

    def absent(self, key: str, name: str) -> RefusedRow:
        """The quarantine row of a picture that the annotation names and no folder holds."""
        return RefusedRow(
            key, "missing_file", f"the picture {name!r} is not in {self.folders[0]!r}", self.folders[0]
        )
