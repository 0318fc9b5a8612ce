"""Queries from a folder of photos and a CSV or GeoJSON of their positions.

Columns: `photo` (or `file`, `path`, `filename`, `image`: relative to the positions' own folder or to `photos/` in it),
`lat`, `lon`; optional `id`, `view`, `heading_deg`, `fov_deg`, `place_id`, `route_id`, `step`. A row without
coordinates needs a place_id. Photos are stored as they came, after they were decoded once to be sure that they
can be. The view and field of view of a row that gives none are those of the file (XMP GPano), else the defaults. A
table may come from a stranger: photos outside its folder (absolute paths, `..`, URIs) are refused, unless its reader
asks for `photos_anywhere`.

Positions inside the photos (EXIF) are never used: a phone's GPS would leak into training what the model is to find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TypeVar
from unicodedata import normalize
from urllib.parse import urlparse

import pyarrow as pa

from geoloc.core import schemas, storage
from geoloc.core.errors import ArtifactError, InputError, StorageError, StoreUnavailable
from geoloc.core.fingerprint import file_fingerprints
from geoloc.core.images import decode_picture, read_image_bytes
from geoloc.core.photo_facts import PhotoFacts, check_shape
from geoloc.core.progress import say
from geoloc.core.repeated_ids import RepeatedIds
from geoloc.core.schemas import VIEWS, coordinate_problem, usual_fov_deg
from geoloc.core.scratch import ScratchRecords
from geoloc.sources.positions import LAT_NAMES, LON_NAMES, PHOTO_NAMES, Row, number, read_columns
from geoloc.sources.quarantine import RefusedRow

POSITION_FILES = ("photos.csv", "photos.geojson")
PHOTO_FOLDER = "photos"
FILE_HEADING_HELP = (
    "Take the heading of panoramas from their files (GPano PoseHeadingDegrees) where none is given."
)
ANYWHERE_HELP = "Read photos from wherever the list says: absolute paths, folders above the list, URIs."
_LOOKERS = 8
_LOOKED_FOR_AT_ONCE = 1024
_FOLDERS_KEPT = 64
Item = TypeVar("Item")
Found = TypeVar("Found")
_OPTIONAL = ("id", "query_id", "view", "heading_deg", "fov_deg", "place_id", "route_id", "step")


@dataclass(frozen=True, slots=True)
class Photo:
    """One accepted row of positions; the picture itself is not read yet."""

    query_id: str
    uri: str
    view: str
    heading_deg: float | None
    fov_deg: float
    lat: float | None
    lon: float | None
    place_id: str | None
    route_id: str | None
    step: int | None
    size_bytes: int | None = None  # None: no such file in the listing
    view_given: bool = True  # by the row; the file's own facts go before defaults
    fov_given: bool = True
    file_heading: bool = False  # take the heading of the file (GPano) where the row gives none


@dataclass(frozen=True)
class ViewDefaults:
    """What a photo is taken for where its row and its file do not say; `fov_deg` None: what is usual for its view.

    `file_heading` takes the heading of a panorama from its file (GPano) where the row gives none.
    """

    view: str
    fov_deg: float | None
    file_heading: bool = False


def positions_uri(uri: str) -> str:
    """The file of positions that a user names: itself, or `photos.csv` / `photos.geojson` in a folder."""
    if not storage.is_directory(uri):
        if not storage.exists(uri):
            raise ArtifactError(
                f"{uri!r} does not exist; give a CSV or GeoJSON of positions or a folder with photos.csv."
            )
        return uri
    for name in POSITION_FILES:
        if storage.exists(storage.join(uri, name)):
            return storage.join(uri, name)
    raise ArtifactError(f"{uri!r} holds neither {' nor '.join(POSITION_FILES)}; add one or give its path.")


def photo_uri(name: str, folder: str, *, anywhere: bool) -> str:
    """The URI of a photo that a table in `folder` names.

    Raises `InputError` (`outside_folder`) for a place that is not below the folder, unless `anywhere` is given.
    """
    plain = name.replace("\\", "/")
    elsewhere = "://" in name or name.startswith(("/", "~"))
    if not anywhere and (elsewhere or ".." in plain.split("/")):
        raise InputError(
            f"{name!r} is not below the folder of its table; write it relative to that, or trust the table with "
            "photos_anywhere",
            reason="outside_folder",
        )
    return name if elsewhere else storage.join(folder, plain.removeprefix("./"))


class PhotoFinder:
    """Looks for the photos of a table: in its `folder`, and in `photos/` in it.

    A Mac writes an accent as a character of its own (Unicode's NFD), other systems in one with its letter (NFC). A name
    of the table also finds the file whose name is written the other way. Below the folder it also finds one that is
    written partly in one way and partly in the other, such as a folder from a Mac with files from a camera. For that a
    folder is listed once, where a name with accents was not found; only names that mix both ways are kept of it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = storage.join(folder, "")
        self._photos = storage.join(folder, PHOTO_FOLDER)
        self._mixed_names = lru_cache(maxsize=_FOLDERS_KEPT)(_mixed_names)

    def find(self, uri: str) -> tuple[str, int | None]:
        """URI and bytes of the file that the table names as `uri`; `uri` and None where there is none.

        Raises `StoreUnavailable` for a store that fails, and `StorageError` for a place that refuses to be looked at.
        """
        tried: set[str] = set()
        for each in self._candidates(uri):  # one by one: the later ones cost a listing
            if each in tried:
                continue
            tried.add(each)
            if (size := storage.file_size(each)) is not None:
                return each, size
        return uri, None

    def _candidates(self, uri: str) -> Iterator[str]:
        names = (uri, storage.join(self._photos, uri.removeprefix(self._folder)))
        yield from names
        if not uri.isascii():
            for form in ("NFC", "NFD"):
                for name in names:
                    head = self._folder if name.startswith(self._folder) else ""  # is written as it is
                    if (other := head + normalize(form, name.removeprefix(head))) != name:
                        yield other
            if uri.startswith(self._folder):
                parts = uri.removeprefix(self._folder).split("/")
                for folder in (self._folder, self._photos):
                    yield from self._in_all_spellings(folder, parts)

    def _in_all_spellings(self, folder: str, parts: list[str]) -> Iterator[str]:
        """URIs of `parts` below a folder, every part spelled in each way that may be there."""
        first, *rest = parts
        composed = normalize("NFC", first)
        mixed = () if first.isascii() else self._mixed_names(folder).get(composed, ())
        for spelled in dict.fromkeys((first, composed, normalize("NFD", first), *mixed)):
            place = storage.join(folder, spelled)
            if not rest:
                yield place
            elif storage.is_directory(place):
                yield from self._in_all_spellings(place, rest)


def _mixed_names(folder: str) -> dict[str, tuple[str, ...]]:
    """By their NFC, the names in a folder that are neither NFC nor NFD."""
    found: dict[str, tuple[str, ...]] = {}
    for name in storage.entry_names(folder):
        composed = normalize("NFC", name)
        if name not in (composed, normalize("NFD", name)):
            found[composed] = (*found.get(composed, ()), name)
    return found


def read_photos(
    uri: str, defaults: ViewDefaults, *, anywhere: bool = False
) -> tuple[Sequence[Photo], Sequence[RefusedRow]]:
    """Accepted and refused rows of a file of positions, in its order; no picture is opened, files are looked for.

    `anywhere` takes photos from wherever the table says: absolute paths, folders above it, URIs. Memory: 9 bytes a row
    of a CSV, while ids are compared; the rows lie in temporary files.

    Raises `InputError` when the file itself cannot be used (a missing column, no rows, not UTF-8).
    """
    columns = read_columns(uri)
    photo_name, lat_name, lon_name = columns.require(PHOTO_NAMES, LAT_NAMES, LON_NAMES)
    if unused := columns.unused((photo_name, lat_name, lon_name, *_OPTIONAL)):
        say(unused)
    folder = uri.rsplit("/", 1)[0] if "/" in uri else "."
    names = (photo_name, lat_name, lon_name)
    repeated = RepeatedIds(row_key(row, photo_name, line) for line, row in enumerate(columns.rows, start=1))
    twice: set[str] = set()
    refused, unreachable = ScratchRecords(RefusedRow), ScratchRecords(RefusedRow)

    def accepted() -> Iterator[Photo]:
        for line, row in enumerate(columns.rows, start=1):
            key = row_key(row, photo_name, line)
            try:
                columns.check(line)
                photo = _photo(row, key, names, folder, defaults, anywhere=anywhere)
                if line - 1 in repeated:
                    if key in twice:
                        raise InputError(
                            f"row {line} repeats the id {key!r}; the first one is kept", reason="duplicate_id"
                        )
                    twice.add(key)
                yield photo
            except InputError as error:
                refused.append(RefusedRow(key, error.reason, str(error), uri))

    found = ScratchRecords(Photo)
    for each in found_photos(accepted(), PhotoFinder(folder)):
        if isinstance(each, RefusedRow):
            unreachable.append(each)
        else:
            found.append(each)
    for row in unreachable:
        refused.append(row)
    return found, refused


def row_key(row: Row, photo_name: str, line: int) -> str:
    """What a row is called: its id, else its photo, else its number."""
    return row.get("id") or row.get("query_id") or row.get(photo_name) or f"row {line}"


def found_photos(photos: Iterable[Photo], finder: PhotoFinder) -> Iterator[Photo | RefusedRow]:
    """Photos with the URIs and sizes of their files; a refused row for one in a place that may not be looked at."""

    def find(photo: Photo) -> Photo | RefusedRow:
        try:
            uri, size = finder.find(photo.uri)
        except StoreUnavailable:
            raise
        except StorageError as error:
            return RefusedRow(photo.query_id, "unreachable", str(error), photo.uri)
        return replace(photo, uri=uri, size_bytes=size)

    return looked_for(photos, find, lambda photo: photo.uri)


def photo_fingerprints(uris: Iterable[str | None]) -> Iterator[str | None]:
    """What identifies the content of photos, of which one that may not be read costs its row alone (None: no look)."""
    return file_fingerprints(uris, closed="unreachable")


def looked_for(
    items: Iterable[Item], look: Callable[[Item], Found], uri_of: Callable[[Item], str]
) -> Iterator[Found]:
    """`look` of each item in order; on object stores eight at a time, since there the time goes into waiting."""
    waiting = iter(items)
    with ThreadPoolExecutor(_LOOKERS) as pool:
        while some := list(islice(waiting, _LOOKED_FOR_AT_ONCE)):
            local = all(storage.is_local(uri_of(item)) for item in some)
            yield from map(look, some) if local else pool.map(look, some)


def _photo(
    row: Row, key: str, names: tuple[str, str, str], folder: str, defaults: ViewDefaults, *, anywhere: bool
) -> Photo:
    photo_name, lat_name, lon_name = names
    name = row.get(photo_name, "")
    if not name:
        raise InputError(f"the {photo_name} cell is empty", reason="missing_file")
    lat, lon, place_id = number(row, lat_name), number(row, lon_name), row.get("place_id") or None
    if (lat is not None or lon is not None or place_id is None) and (problem := coordinate_problem(lat, lon)):
        raise InputError(problem[1], reason=problem[0])
    view = row.get("view") or defaults.view
    if view not in VIEWS:
        raise InputError(f"view is {view!r}, not one of {', '.join(VIEWS)}", reason="bad_value")
    heading, fov = number(row, "heading_deg"), number(row, "fov_deg")
    given = fov is not None
    fov = (defaults.fov_deg or usual_fov_deg(view)) if fov is None else fov
    if not 0.0 < fov <= 360.0:
        raise InputError(f"fov_deg is {fov:g}, outside 0 to 360 degrees", reason="bad_value")
    step = number(row, "step")
    if step is not None and not step.is_integer():
        raise InputError(f"step is {step:g}, not a whole number", reason="bad_value")
    return Photo(
        query_id=key,
        uri=photo_uri(name, folder, anywhere=anywhere),
        view=view,
        heading_deg=None if heading is None else heading % 360.0,
        fov_deg=fov,
        lat=lat,
        lon=lon,
        place_id=place_id,
        route_id=row.get("route_id") or None,
        step=None if step is None else int(step),
        view_given=bool(row.get("view")),
        fov_given=given,
        file_heading=defaults.file_heading,
    )


def unused_headings(what: str, count: int) -> str:
    """One line about photos whose files state a heading that is not used; empty without any."""
    if not count:
        return ""
    return f"{what}: {count:,} files state a heading (GPano PoseHeadingDegrees) that is not used; file_heading takes it"


def load_photos(photos: Sequence[Photo]) -> tuple[pa.Table, list[RefusedRow], int]:
    """Read and check the pictures: rows of the queries table, and those refused, both in order.

    The third is the number of photos whose files state a heading that is not used.

    Memory: the files' bytes, and one decoded picture at a time. Photos on object stores are fetched by eight
    threads: there the time goes into waiting.
    """
    kept: list[tuple[Photo, bytes]] = []
    refused: list[RefusedRow] = []
    unused = 0
    for photo, data in zip(photos, _contents(photos), strict=True):
        try:
            if isinstance(data, InputError):
                raise data
            picture = decode_picture(data)
            photo = _as_its_file_says(photo, picture.facts)
            check_shape(photo.view, photo.fov_deg, *picture.pixels.shape[:2])
            kept.append((photo, data))
            unused += photo.heading_deg is None and picture.facts.panorama_heading_deg is not None
        except InputError as error:
            refused.append(RefusedRow(photo.query_id, error.reason, str(error), photo.uri))
    return _queries_table(kept), refused, unused


def _as_its_file_says(photo: Photo, facts: PhotoFacts) -> Photo:
    """The photo with the view, field of view and (where wanted) heading of its file, where its row gave none."""
    if facts.panorama_fov_deg is None:
        return photo
    if photo.file_heading and photo.heading_deg is None:
        photo = replace(photo, heading_deg=facts.panorama_heading_deg)
    view = photo.view if photo.view_given else "panorama"
    if view != "panorama" or photo.fov_given:
        return replace(photo, view=view)
    return replace(photo, view=view, fov_deg=facts.panorama_fov_deg)


def _contents(photos: Sequence[Photo]) -> Iterator[bytes | InputError]:
    if all(urlparse(photo.uri).scheme in ("", "file") for photo in photos):
        yield from map(_content, photos)
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield from pool.map(_content, photos)


def _content(photo: Photo) -> bytes | InputError:
    try:
        return read_photo(photo.uri)
    except InputError as error:
        return error
    except ArtifactError:
        return InputError(f"the photo {photo.uri!r} does not exist", reason="missing_file")


def read_photo(uri: str) -> bytes:
    """The bytes of a photo; `InputError` for more than images may have and for a place that refuses to be read."""
    try:
        return read_image_bytes(uri)
    except StoreUnavailable:
        raise
    except StorageError as error:
        raise InputError(str(error), reason="unreachable") from error


def _queries_table(kept: Iterable[tuple[Photo, bytes]]) -> pa.Table:
    rows = list(kept)
    columns = {
        field.name: pa.array([getattr(photo, field.name) for photo, _ in rows], field.type)
        for field in schemas.QUERIES
        if field.name != "image"
    }
    columns["image"] = pa.array([data for _, data in rows], pa.binary())
    return schemas.conform(pa.table(columns), schemas.QUERIES)
