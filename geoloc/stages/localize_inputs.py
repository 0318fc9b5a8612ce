"""Photos that are to be located: files, or rows of a CSV or GeoJSON that say how they were taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from geoloc.core import storage
from geoloc.core.errors import InputError, StorageError, StoreUnavailable
from geoloc.core.file_selection import select
from geoloc.core.progress import say
from geoloc.core.repeated_ids import RepeatedIds
from geoloc.core.scratch import ScratchRecords
from geoloc.sources.folder import POSITION_FILES, PhotoFinder, looked_for, photo_uri, row_key
from geoloc.sources.positions import LAT_NAMES, LON_NAMES, PHOTO_NAMES, Columns, Row, number, read_columns

# Endings of pictures, the first line of those that are read. All are listed, so that what cannot be read is
# refused by name; what a file is, its first bytes decide.
_READ = (
    *(
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".jif",
        ".pjpeg",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
    ),
    *(".hif", ".heics", ".heifs", ".avifs", ".insp"),
)
_NOT_READ = (
    *(
        ".jxl",
        ".jp2",
        ".j2k",
        ".jpf",
        ".jpx",
        ".bmp",
        ".dib",
        ".gif",
        ".svg",
        ".psd",
        ".tga",
        ".ppm",
        ".pgm",
        ".exr",
    ),
    *(
        ".dng",
        ".gpr",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".nrw",
        ".arw",
        ".orf",
        ".rw2",
        ".raf",
        ".pef",
        ".srw",
        ".x3f",
    ),
)
PHOTO_SUFFIXES = _READ + _NOT_READ
_USED = ("id", "query_id", "view", "heading_deg", "yaw_deg", "heading_error_deg", "fov_deg", "extent_m", "altitude_m",
         "pitch_deg", "roll_deg")  # fmt: skip
# Positions and truth of a list that also serves ingest are not needed, and no surprise.
_OF_ROUTES = ("route_id", "step", "moved_m", "turn_deg", "course_deg")
_OF_INGEST = (*LAT_NAMES, *LON_NAMES, "place_id", "route_id", "step")
_LISTS = (".csv", ".geojson", ".json")


@dataclass(frozen=True, slots=True)
class RoutePlace:
    """Where a photo stands in its route, and what is known of the way to it; see `routes.motion.Step`."""

    route_id: str
    step: float
    moved_m: float | None = None
    turn_deg: float | None = None
    course_deg: float | None = None


@dataclass(frozen=True, slots=True)
class PhotoEntry:
    """One photo to locate: where it is and what is known about it; `problem` is why its row cannot be used."""

    query_id: str
    uri: str
    view: str | None = None
    heading_deg: float | None = None
    fov_deg: float | None = None
    extent_m: float | None = None
    altitude_m: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    heading_error_deg: float | None = None
    problem: tuple[str, str] | None = None
    way: RoutePlace | None = None

    @classmethod
    def revive(cls, *values: Any) -> PhotoEntry:
        """An entry from the values of its fields as JSON keeps them."""
        *plain, problem, way = values
        known = dict(zip((field.name for field in fields(cls)), plain, strict=False))
        return cls(**known, problem=problem and tuple(problem), way=way and RoutePlace(*way))


def list_photos(uri: str, *, anywhere: bool = False, routes: bool = False) -> Sequence[PhotoEntry]:
    """The photos that a user names: a file, a folder or glob of files, or a list of them (CSV, GeoJSON).

    A folder with `photos.csv` or `photos.geojson` is that list. Positions in it are not needed and never used. Of a
    folder all pictures are listed, also those of formats that cannot be read; other files are counted in one line.
    Ids are the list's `id`, else the file's path as given; for files, their path below the folder. Raises
    `ArtifactError` when nothing is there and `InputError` when a list has no column `photo`. With `routes` a list needs
    the column `step`, and its photos have a `way`; files have none.
    """
    uri = storage.absolute(uri)
    if storage.is_directory(uri):
        for name in POSITION_FILES:
            if storage.exists(storage.join(uri, name)):
                return _from_list(storage.join(uri, name), anywhere, routes)
    if uri.lower().endswith(_LISTS):
        return _from_list(uri, anywhere, routes)
    chosen = select(uri, PHOTO_SUFFIXES)
    if words := chosen.left_out_words():
        say(f"photos: {words}")
    files = [file.uri for file in chosen.files]
    folder = storage.join(_common_folder(files), "")
    return [PhotoEntry(query_id=file.removeprefix(folder).lstrip("/"), uri=file) for file in files]


def _common_folder(files: list[str]) -> str:
    common = files[0].rsplit("/", 1)[0]
    while not all(file.startswith(f"{common}/") for file in files):
        common = common.rsplit("/", 1)[0]
    return common


def _from_list(uri: str, anywhere: bool, routes: bool) -> Sequence[PhotoEntry]:
    columns = read_columns(uri)
    (photo_name,) = columns.require(PHOTO_NAMES)
    if routes:
        columns.require(("step",))
    if unused := columns.unused((photo_name, *_USED, *_OF_INGEST, *(_OF_ROUTES if routes else ()))):
        say(unused)
    folder = uri.rsplit("/", 1)[0]
    finder = PhotoFinder(folder)

    def find(entry: PhotoEntry) -> PhotoEntry:
        try:
            return entry if entry.problem else replace(entry, uri=finder.find(entry.uri)[0])
        except StoreUnavailable:
            raise
        except StorageError:
            return entry  # who reads it says why

    def entry_of(row: Row, key: str) -> PhotoEntry:
        name = row.get(photo_name, "")
        try:
            entry = _entry(row, key, photo_uri(name, folder, anywhere=anywhere))
            return replace(entry, way=_way(row)) if routes else entry
        except InputError as error:
            return _refused(PhotoEntry(query_id=key, uri=name), error.reason, str(error))

    entries = ScratchRecords(PhotoEntry, PhotoEntry.revive)
    for entry in looked_for(_checked(columns, photo_name, entry_of), find, lambda entry: entry.uri):
        entries.append(entry)
    return entries


def _checked(
    columns: Columns, photo_name: str, entry_of: Callable[[Row, str], PhotoEntry]
) -> Iterator[PhotoEntry]:
    """The entry of each row; one that does not fit the header, names no photo or repeats an id is refused."""
    repeated = RepeatedIds(row_key(row, photo_name, line) for line, row in enumerate(columns.rows, start=1))
    seen: set[str] = set()
    for line, row in enumerate(columns.rows, start=1):
        key = row_key(row, photo_name, line)
        entry = entry_of(row, key)
        if line in columns.problems:
            entry = _refused(entry, "too_many_cells", columns.problems[line])
        elif not row.get(photo_name):
            entry = _refused(entry, "missing_file", f"the {photo_name} cell of row {line} is empty")
        elif key in seen:
            entry = _refused(
                entry, "duplicate_id", f"row {line} repeats the id {key!r}; the first one is kept"
            )
        if line - 1 in repeated:
            seen.add(key)
        yield entry


def _entry(row: Row, key: str, uri: str) -> PhotoEntry:
    try:
        return PhotoEntry(
            query_id=key,
            uri=uri,
            view=row.get("view") or None,
            heading_deg=number(row, "heading_deg" if row.get("heading_deg") else "yaw_deg"),
            fov_deg=number(row, "fov_deg"),
            extent_m=number(row, "extent_m"),
            altitude_m=number(row, "altitude_m"),
            pitch_deg=number(row, "pitch_deg"),
            roll_deg=number(row, "roll_deg"),
            heading_error_deg=number(row, "heading_error_deg"),
        )
    except InputError as error:
        return _refused(PhotoEntry(query_id=key, uri=uri), error.reason, str(error))


def _way(row: Row) -> RoutePlace:
    step = number(row, "step")
    if step is None:
        raise InputError(
            "the cell step is empty; number the photos of a route in their order", reason="bad_value"
        )
    moved_m, turn_deg, course_deg = (number(row, name) for name in ("moved_m", "turn_deg", "course_deg"))
    return RoutePlace(row.get("route_id") or "", step, moved_m, turn_deg, course_deg)


def _refused(entry: PhotoEntry, reason: str, detail: str) -> PhotoEntry:
    return replace(entry, problem=(reason, detail))
