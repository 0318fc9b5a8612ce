"""Photos that are to be located: files, or rows of a CSV or GeoJSON that say how they were taken."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from geoloc.core import storage
from geoloc.core.errors import InputError
from geoloc.core.file_selection import select
from geoloc.sources.folder import PHOTO_FOLDER, POSITION_FILES, photo_uri
from geoloc.sources.positions import Row, number, read_columns

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
_LISTS = (".csv", ".geojson", ".json")


class PhotoEntry(BaseModel):
    """One photo to locate: where it is and what is known about it; `problem` is why its row cannot be used."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    uri: str
    view: str | None = None
    heading_deg: float | None = None
    fov_deg: float | None = None
    extent_m: float | None = None
    problem: tuple[str, str] | None = None


def list_photos(uri: str, *, anywhere: bool = False) -> list[PhotoEntry]:
    """The photos that a user names: a file, a folder or glob of files, or a list of them (CSV, GeoJSON).

    A folder with `photos.csv` or `photos.geojson` is that list. Positions in it are not needed and never used.
    Ids are the list's `id`, else the file's path as given; for files, their path below the folder. Raises
    `ArtifactError` when nothing is there and `InputError` when a list has no column `photo`.
    """
    uri = storage.absolute(uri)
    if not any(mark in uri for mark in "*?[") and storage.is_directory(uri):
        for name in POSITION_FILES:
            if storage.exists(storage.join(uri, name)):
                return _from_list(storage.join(uri, name), anywhere)
    if uri.lower().endswith(_LISTS):
        return _from_list(uri, anywhere)
    files = [file.uri for file in select(uri, PHOTO_SUFFIXES).files]
    folder = storage.join(_common_folder(files), "")
    return [PhotoEntry(query_id=file.removeprefix(folder).lstrip("/"), uri=file) for file in files]


def _common_folder(files: list[str]) -> str:
    common = files[0].rsplit("/", 1)[0]
    while not all(file.startswith(f"{common}/") for file in files):
        common = common.rsplit("/", 1)[0]
    return common


def _from_list(uri: str, anywhere: bool) -> list[PhotoEntry]:
    columns = read_columns(uri)
    (photo_name,) = columns.require(("photo", "file", "path"))
    folder = uri.rsplit("/", 1)[0]
    inner = {file.uri for file in storage.list_files(storage.join(folder, PHOTO_FOLDER), recursive=False)}
    entries, seen = [], set()
    for line, row in enumerate(columns.rows, start=1):
        name = row.get(photo_name, "")
        key = row.get("id") or row.get("query_id") or name or f"row {line}"
        try:
            entry = _entry(row, key, _resolved(name, folder, inner, anywhere))
        except InputError as error:
            entry = _refused(PhotoEntry(query_id=key, uri=name), error.reason, str(error))
        if not name:
            entry = _refused(entry, "missing_file", f"the {photo_name} cell of row {line} is empty")
        elif key in seen:
            entry = _refused(
                entry, "duplicate_id", f"row {line} repeats the id {key!r}; the first one is kept"
            )
        seen.add(key)
        entries.append(entry)
    return entries


def _resolved(name: str, folder: str, inner: set[str], anywhere: bool) -> str:
    uri = photo_uri(name, folder, anywhere=anywhere)
    below = storage.join(folder, PHOTO_FOLDER, uri.removeprefix(storage.join(folder, "")))
    return below if below in inner else uri


def _entry(row: Row, key: str, uri: str) -> PhotoEntry:
    try:
        return PhotoEntry(
            query_id=key,
            uri=uri,
            view=row.get("view") or None,
            heading_deg=number(row, "heading_deg"),
            fov_deg=number(row, "fov_deg"),
            extent_m=number(row, "extent_m"),
        )
    except InputError as error:
        return _refused(PhotoEntry(query_id=key, uri=uri), error.reason, str(error))


def _refused(entry: PhotoEntry, reason: str, detail: str) -> PhotoEntry:
    return entry.model_copy(update={"problem": (reason, detail)})
