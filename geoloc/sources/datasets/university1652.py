"""University-1652 (Zheng et al., ACM MM 2020): buildings from drones, streets and satellites, and its 160k distractors.

    <root>/train/{satellite,drone,street,google}/<building>/*.jpg
    <root>/test/{query,gallery}_{satellite,drone,street}/<building>/*.jpg, test/4K_drone/<building>/*.jpg
    <root>/test/gallery_satellite_160k/*, test/query_drone_160k/*      flat, their names hide the labels

Truth is an identity: the folder's name, four digits, is the place_id; -1 marks junk. Tiles are satellite
pictures and queries all others, so the two directions of a pair of views differ in their files alone: satellite
to drone takes `query_satellite` as tiles and `gallery_drone` as queries, and the protocol ranks in reverse.
No scale, heading or field of view is published: a tile's metres_per_pixel and a photo's fov_deg are nominal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geoloc.core import storage
from geoloc.core.errors import InputError
from geoloc.core.geodesy import map_metres_per_pixel
from geoloc.sources.datasets import files
from geoloc.sources.datasets.files import PICTURE_ENDINGS
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Pair, Picture, Plan, Query, Request, Tile

NOMINAL_METRES_PER_PIXEL = map_metres_per_pixel(40.0, 18)
NOMINAL_TILE_PX = 512
NOMINAL_FOV_DEG = {"drone": 60.0, "street": 90.0}
JUNK = "-1"
_ROOTS = ("", "University-1652", "University-Release")
LAYOUT = (
    "<root>/train/{satellite,drone,street,google}/<building>/<picture> and "
    "<root>/test/{query,gallery}_{satellite,drone,street}/<building>/<picture>, a building being four digits; for the "
    "distractors <root>/test/gallery_satellite_160k/<picture> and <root>/test/query_drone_160k/<picture>"
)


@dataclass(frozen=True)
class _Folder:
    """A folder of the data set: where it may be, the view that it shows, whether its pictures lie in labelled ones."""

    path: str
    view: str
    others: tuple[str, ...] = ()
    labelled: bool = True
    optional: bool = False


@dataclass(frozen=True)
class _Split:
    tiles: tuple[_Folder, ...]
    queries: tuple[_Folder, ...]
    published: tuple[int, int] | None = None
    protocol: str | None = None


def _test(name: str, view: str) -> _Folder:
    return _Folder(f"test/{name}", view)


_GALLERY, _WANTED = _test("gallery_satellite", "aerial"), _test("query_satellite", "aerial")
_DISTRACTORS = _Folder("test/gallery_satellite_160k", "aerial", ("gallery_satellite_160k",), labelled=False)
_HIDDEN = _Folder("test/query_drone_160k", "drone", ("query_drone_160k",), labelled=False)
SPLITS = {
    "train": _Split(
        (_Folder("train/satellite", "aerial"),),
        (
            _Folder("train/drone", "drone"),
            _Folder("train/street", "street"),
            _Folder("train/google", "street", optional=True),
        ),
        (701, 49_517),
    ),
    "drone-to-satellite": _Split((_GALLERY,), (_test("query_drone", "drone"),), (951, 37_855), ""),
    "satellite-to-drone": _Split((_WANTED,), (_test("gallery_drone", "drone"),), (701, 51_355), ""),
    "ground-to-satellite": _Split((_GALLERY,), (_test("query_street", "street"),), (951, 2_579), ""),
    "satellite-to-ground": _Split((_WANTED,), (_test("gallery_street", "street"),), (701, 2_921), ""),
    "drone-4k-to-satellite": _Split((_GALLERY,), (_test("4K_drone", "drone"),), None, "drone-to-satellite"),
    "drone-to-satellite-160k": _Split(
        (_GALLERY, _DISTRACTORS), (_test("query_drone", "drone"),), (168_437, 37_855), "drone-to-satellite"
    ),
    "challenge-160k": _Split((_DISTRACTORS,), (_HIDDEN,), None),
}


def plan(request: Request) -> Plan:
    """Rows of a split; `ArtifactError` or `InputError` when the data set is not as it should be."""
    split = SPLITS[request.split]
    roots = [files.below(request.root, inner) for inner in _ROOTS]
    protocol = None if split.protocol is None else f"university1652-{split.protocol or request.split}"
    result = Plan("university1652", request.split, protocol)
    if split.published:
        result.published = dict(zip(("tiles", "queries"), split.published, strict=True))
    for folder in split.tiles:
        result.tiles += [
            Tile(
                key,
                picture,
                NOMINAL_METRES_PER_PIXEL,
                f"university1652/{name}",
                NOMINAL_TILE_PX,
                place_id=place,
            )
            for key, picture, place, name in _pictures(roots, folder)
        ]
    for folder in split.queries:
        result.queries += [
            Query(key, picture, folder.view, NOMINAL_FOV_DEG[folder.view], place_id=place)
            for key, picture, place, _ in _pictures(roots, folder)
        ]
    result.counts = {"tiles": len(result.tiles), "queries": len(result.queries)}
    result.pairs = _pairs(result)
    result.compare_counts()
    result.findings += _findings(result)
    return result


def _pictures(roots: Sequence[str], folder: _Folder) -> list[tuple[str, Picture, str | None, str]]:
    """(id, picture, place_id, folder name) of a folder's pictures, by name.

    Ids are the data set's own paths below train or test: pictures of different buildings share their names.
    """
    candidates = [files.below(root, path) for root in roots for path in (folder.path, *folder.others)]
    found = next((uri for uri in candidates if storage.exists(uri)), None)
    if found is None:
        if folder.optional:
            return []
        raise files.missing(f"the folder {folder.path} of University-1652", candidates, LAYOUT)
    name = folder.path.rpartition("/")[2]
    rows = []
    for file in storage.list_files(found, recursive=True):
        inner = file.uri.removeprefix(storage.join(found, ""))
        if not file.name.lower().endswith(PICTURE_ENDINGS) or file.name.startswith("."):
            continue
        place = _label(file.uri, inner) if folder.labelled else None
        rows.append((f"{name}/{inner}", Picture(file.uri, file.size_bytes), place, name))
    if not rows and not folder.optional:
        raise files.missing(f"every picture of University-1652's {folder.path}", [found], LAYOUT)
    return rows


def _label(uri: str, inner: str) -> str:
    parts = inner.split("/")
    label = parts[0]
    if len(parts) != 2 or not (label == JUNK or label.isdecimal()):
        raise InputError(
            f"{uri!r} is not in a folder of a building (four digits, or -1 for junk). Expected layout: {LAYOUT}.",
            reason="bad_annotation",
        )
    return label if label == JUNK else f"{int(label):04d}"


def _pairs(result: Plan) -> list[Pair]:
    """Every query with every tile of its building; junk and hidden labels pair with nothing."""
    of_place: dict[str, list[str]] = {}
    for tile in result.tiles:
        if tile.place_id not in (None, JUNK):
            of_place.setdefault(str(tile.place_id), []).append(tile.tile_id)
    return [
        Pair(query.query_id, tile_id)
        for query in result.queries
        for tile_id in of_place.get(query.place_id or "", [])
    ]


def _findings(result: Plan) -> list[str]:
    name = f"university1652 {result.split}"
    found = [f"{name}: no scale is published; metres_per_pixel and fov_deg are nominal."]
    hidden = sum(tile.place_id is None for tile in result.tiles)
    if result.split == "challenge-160k":
        return [*found, f"{name}: labels are hidden; recall is counted by the authors' server, not here."]
    if hidden:
        found.append(
            f"{name}: {hidden:,} distractors have no label; a masked copy of a labelled building among them would "
            "count as wrong."
        )
    places = {query.place_id for query in result.queries} - {JUNK}
    lost = places - {tile.place_id for tile in result.tiles}
    # The drone gallery holds buildings that no satellite query asks for: they are its distractors.
    if lost:
        found.append(f"{name}: {len(lost):,} of {len(places):,} buildings of the queries have no tile.")
    return found


DATASET = register(DataSet("university1652", tuple(SPLITS), LAYOUT, plan))
