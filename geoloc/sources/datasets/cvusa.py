"""CVUSA, the 19zl split (Workman et al., ICCV 2015; Zhai et al., CVPR 2017): one panorama, one Bing tile a place.

    <root>/splits/{train,val}-19zl.csv    aerial,panorama,annotation, without a header
    <root>/bingmap/19/<id>.jpg            750 x 750 px, web mercator zoom 19, north up
    <root>/streetview/panos/<id>.jpg      224 x 1232 px, 360 degrees, north at the centre column
    <root>/split_locations/all.csv        sat_lat,sat_lon,ground_lat,ground_lon,...; line <id> (optional)

The files are named as the split names them, relative to the root. The semantic annotations are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoloc.core import storage
from geoloc.core.geodesy import map_metres_per_pixel
from geoloc.sources.datasets import files
from geoloc.sources.datasets.files import Line, Pictures
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Pair, Plan, Query, Request, Tile, offsets_m

_ZOOM, _TILE_PX = 19, 750
_USUAL_LAT = 39.0  # the middle of the contiguous states, where a row has no coordinates
_ROOTS = ("", "CVUSA", "CVPR_subset")
_PUBLISHED = {"train": 35_532, "val": 8_884}
_LINE = "aerial,panorama,annotation such as bingmap/19/0000001.jpg,streetview/panos/0000001.jpg,..."
LAYOUT = (
    "<root>/splits/{train,val}-19zl.csv, <root>/bingmap/19/<id>.jpg, <root>/streetview/panos/<id>.jpg and, for "
    "coordinates, <root>/split_locations/all.csv"
)


@dataclass(frozen=True)
class _Row:
    tile_id: str
    query_id: str
    aerial: str
    panorama: str
    place: tuple[float, float, float, float] | None


def plan(request: Request) -> Plan:
    """Rows of a split; `ArtifactError` or `InputError` when the data set is not as it should be."""
    roots = [files.below(request.root, inner) for inner in _ROOTS]
    wanted = [files.below(root, "splits", f"{request.split}-19zl.csv") for root in roots]
    uri = files.first_there(f"the {request.split} split of CVUSA", wanted, LAYOUT)
    root = uri.rsplit("/", 2)[0]
    result = Plan("cvusa", request.split, "cvusa" if request.split == "val" else None, annotations=[uri])
    result.published = {"tiles": _PUBLISHED[request.split], "queries": _PUBLISHED[request.split]}
    places = _places(root, result)
    rows = [_row(uri, line, places) for line in files.read_lines(uri)]
    result.counts = {"tiles": len(rows), "queries": len(rows)}
    _add_pictures(result, rows, root)
    result.pairs = _pairs(rows)
    result.compare_counts()
    return result


def _row(uri: str, line: Line, places: list[tuple[float, float, float, float]]) -> _Row:
    aerial, panorama = _names(uri, line)
    tile_id, query_id = (files.stem(name.rpartition("/")[2]) for name in (aerial, panorama))
    return _Row(tile_id, query_id, aerial, panorama, _place(uri, line, tile_id, places))


def _names(uri: str, line: Line) -> tuple[str, str]:
    aerial, panorama, _ = files.split_cells(uri, line, 3, _LINE)
    for name in (aerial, panorama):
        if files.stem(name) == name:
            raise files.bad_line(uri, line, f"{name!r} is not the name of a picture", _LINE)
    return aerial, panorama


def _listing(root: str, names: Sequence[str], what: str) -> dict[str, Pictures]:
    """Pictures of every folder that the split names; `ArtifactError` when there is not a single one."""
    folders = sorted({name.rpartition("/")[0] for name in names})
    found = {folder: Pictures(files.below(root, folder)) for folder in folders}
    if not any(map(len, found.values())):
        looked = [pictures.folders[0] for pictures in found.values()]
        raise files.missing(f"every {what} of CVUSA", looked, LAYOUT)
    return found


def _places(root: str, result: Plan) -> list[tuple[float, float, float, float]]:
    """(aerial lat, lon, panorama lat, lon) by line of all.csv; empty where the file is not there."""
    uri = files.below(root, "split_locations", "all.csv")
    if not storage.exists(uri):
        result.findings.append(
            f"cvusa {result.split}: {uri!r} is not there, so rows have no coordinates and tiles a nominal resolution; "
            "retrieval works, locating does not."
        )
        return []
    result.annotations.append(uri)
    wanted = "sat_lat,sat_lon,ground_lat,ground_lon and maybe more"
    places = []
    for line in files.read_lines(uri):
        cells = line.text.split(",")
        if len(cells) < 4:
            raise files.bad_line(uri, line, f"{len(cells)} columns instead of at least 4", wanted)
        aerial = files.degrees(uri, line, cells[0], cells[1], "the aerial tile", wanted)
        places.append((*aerial, *files.degrees(uri, line, cells[2], cells[3], "the panorama", wanted)))
    return places


def _add_pictures(result: Plan, rows: Sequence[_Row], root: str) -> None:
    tiles = _listing(root, [row.aerial for row in rows], "aerial tile")
    photos = _listing(root, [row.panorama for row in rows], "panorama")
    for row in rows:
        lat, lon, photo_lat, photo_lon = row.place or (None,) * 4
        folder, _, name = row.aerial.rpartition("/")
        if (tile := tiles[folder].find(name)) is None:
            result.refused_tiles.append(tiles[folder].absent(row.tile_id, name))
        else:
            scale = map_metres_per_pixel(_USUAL_LAT if lat is None else lat, _ZOOM)
            result.tiles.append(Tile(row.tile_id, tile, scale, "cvusa", _TILE_PX, lat, lon, row.tile_id))
        folder, _, name = row.panorama.rpartition("/")
        if (photo := photos[folder].find(name)) is None:
            result.refused_queries.append(photos[folder].absent(row.query_id, name))
        else:
            result.queries.append(
                Query(row.query_id, photo, "panorama", 360.0, 0.0, photo_lat, photo_lon, row.tile_id)
            )


def _pairs(rows: Sequence[_Row]) -> list[Pair]:
    if not rows[0].place:
        return [Pair(row.query_id, row.tile_id) for row in rows]
    lat, lon, photo_lat, photo_lon = np.array([row.place for row in rows], dtype=np.float64).T
    east, north = (values.tolist() for values in offsets_m(photo_lat, photo_lon, lat, lon))
    return [
        Pair(row.query_id, row.tile_id, east_m=e, north_m=n)
        for row, e, n in zip(rows, east, north, strict=True)
    ]


def _place(
    uri: str, line: Line, tile_id: str, places: list[tuple[float, float, float, float]]
) -> tuple[float, float, float, float] | None:
    if not places:
        return None
    if not tile_id.isdecimal() or not 1 <= int(tile_id) <= len(places):
        raise files.bad_line(
            uri, line, f"{tile_id!r} is no line of all.csv, which has {len(places):,}", _LINE
        )
    return places[int(tile_id) - 1]


DATASET = register(DataSet("cvusa", tuple(_PUBLISHED), LAYOUT, plan))
