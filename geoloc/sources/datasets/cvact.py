"""CVACT (Liu and Li, CVPR 2019): panoramas and satellite tiles of Canberra, one tile a panorama.

    <root>/ACT_data.mat                                          ids, UTM positions and the splits
    <root>/ANU_data_small/streetview/<id>_grdView.jpg            832 x 1664 px, north at the centre column
    <root>/ANU_data_small/satview_polish/<id>_satView_polish.jpg 1200 x 1200 px, web mercator zoom 20, north up
    <root>/ANU_data_test/...                                     the same for the large test set

The splits train and val use ANU_data_small, test uses ANU_data_test in the order of `valSetAll`. Indices in the
file count from 1. The ids of some rows have no picture: those are counted, not an error. UTM is zone 55 south
(EPSG:32755).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from geoloc.core import storage
from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.core.geodesy import map_metres_per_pixel
from geoloc.sources.datasets import files
from geoloc.sources.datasets.files import Pictures
from geoloc.sources.datasets.registry import register
from geoloc.sources.datasets.rows import DataSet, Pair, Plan, Query, Request, Tile

CRS = "EPSG:32755"
_ZOOM, _TILE_PX = 20, 1200
_MAT = "ACT_data.mat"
_FOLDERS = {"train": "ANU_data_small", "val": "ANU_data_small", "test": "ANU_data_test"}
_INDEX = {
    "train": ("trainSet", "trainInd"),
    "val": ("valSet", "valInd"),
    "test": ("valSetAll", "valInd"),
}
_PROTOCOLS = {"train": None, "val": "cvact-val", "test": "cvact-test-5m"}
_PUBLISHED = {"train": 35_532, "val": 8_884, "test": 92_802}
_AROUND_CANBERRA = (-36.5, 148.0, -34.5, 150.5)  # south, west, north, east
LAYOUT = (
    "<root>/ACT_data.mat and, below <root>/ANU_data_small (train, val) or <root>/ANU_data_test (test), "
    "streetview/<id>_grdView.jpg and satview_polish/<id>_satView_polish.jpg"
)


@dataclass(frozen=True)
class Annotation:
    """Rows of one split in its own order: ids and WGS84 degrees [N]."""

    ids: list[str]
    lat: FloatArray
    lon: FloatArray


def read_annotation(uri: str, split: str) -> Annotation:
    """The rows of a split of `ACT_data.mat`; `InputError` when the file or a field is not as it should be."""
    content = _load(uri)
    for name in ("panoIds", "utm"):
        if name not in content:
            raise _broken(uri, f"it has no field {name!r} or is cut off")
    ids = _texts(content["panoIds"])
    utm = np.asarray(content["utm"], dtype=np.float64)
    if utm.ndim != 2 or utm.shape[1] != 2 or len(utm) != len(ids):
        raise _broken(uri, f"utm has the shape {utm.shape} for {len(ids):,} panoIds, not N x 2")
    rows = _indices(uri, content, *_INDEX[split], count=len(ids))
    lon, lat = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform(utm[rows, 0], utm[rows, 1])
    south, west, north, east = _AROUND_CANBERRA
    outside = ~((lat > south) & (lat < north) & (lon > west) & (lon < east))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise _broken(
            uri,
            f"utm of {ids[rows[first]]!r} is ({utm[rows[first], 0]:g}, {utm[rows[first], 1]:g}), which {CRS} puts "
            "far from Canberra; easting comes before northing",
        )
    return Annotation([ids[row] for row in rows], np.asarray(lat), np.asarray(lon))


def _load(uri: str) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    data = storage.read_bytes(uri)
    if not data:
        raise _broken(uri, "it is empty (0 bytes)")
    if data.startswith(b"MATLAB 7.3"):
        raise InputError(
            f"{uri!r} is a MATLAB 7.3 file; save it again with `save(..., '-v7')`.", reason="bad_annotation"
        )
    stream: Any = io.BytesIO(data)  # scipy takes a stream, its annotation only a path
    try:
        content: dict[str, Any] = loadmat(stream)
    except (MatReadError, ValueError, TypeError, IndexError, OSError, zlib.error, struct.error) as error:
        detail = " ".join(str(error).split())[:120]
        raise _broken(uri, f"it is cut off or no MATLAB file ({detail})") from error
    return content


def _broken(uri: str, what: str) -> InputError:
    return InputError(f"{uri!r} cannot be used: {what}. Copy the file again.", reason="bad_annotation")


def _texts(values: npt.NDArray[Any]) -> list[str]:
    """Strings of a char matrix or of a cell array."""
    return [str(np.asarray(value).ravel()[0]).strip() for value in np.asarray(values).ravel()]


def _indices(uri: str, content: dict[str, Any], group: str, name: str, *, count: int) -> IntArray:
    """Zero-based rows of a split, however deep the structs are nested."""
    if group not in content:
        raise _broken(uri, f"it has no field {group!r} or is cut off")
    arrays = dict(_numbers(content[group]))
    # Some copies name the field differently: there it is the only index column, the last of the struct.
    found = arrays.get(name, list(arrays.values())[-1] if arrays else None)
    if found is None or not found.size:
        raise _broken(uri, f"{group} holds no {name}")
    rows = found.ravel().astype(np.int64)
    if (rows != found.ravel()).any() or rows.min() < 1 or rows.max() > count:
        raise _broken(
            uri,
            f"{group}.{name} has values from {found.min():g} to {found.max():g}; rows count from 1 to {count:,}",
        )
    return rows - 1


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """(field name, array) of every numeric array below a MATLAB struct, depth first."""
    array = np.asarray(value)
    if array.dtype.names:
        for field in array.dtype.names:
            for element in array[field].ravel():
                yield from _numbers(element, field)
    elif array.dtype == object:
        for element in array.ravel():
            yield from _numbers(element, name)
    elif array.dtype.kind in "iuf":
        yield name, array


def plan(request: Request) -> Plan:
    """Rows of a split; `ArtifactError` or `InputError` when the data set is not as it should be."""
    split, folder = request.split, _FOLDERS[request.split]
    mats = [files.below(request.root, inner, _MAT) for inner in ("", "CVACT", folder)]
    uri = files.first_there(f"{_MAT} of CVACT", mats, LAYOUT)
    bases = [files.below(request.root, inner) for inner in (folder, f"CVACT/{folder}", "")]
    rows = read_annotation(uri, split)
    result = Plan("cvact", split, _PROTOCOLS[split], annotations=[uri])
    result.published = {"tiles": _PUBLISHED[split], "queries": _PUBLISHED[split]}
    result.counts = {"tiles": len(rows.ids), "queries": len(rows.ids)}
    tiles = Pictures(*(files.below(base, "satview_polish") for base in bases))
    photos = Pictures(*(files.below(base, "streetview") for base in bases))
    for what, found in (("satellite tile", tiles), ("panorama", photos)):
        if not len(found):
            raise files.missing(f"every {what} of CVACT's {split} split", found.folders, LAYOUT)
    for key, lat, lon in zip(rows.ids, rows.lat.tolist(), rows.lon.tolist(), strict=True):
        _add_row(result, key, lat, lon, tiles, photos)
    absent = len(result.refused_tiles), len(result.refused_queries)
    if any(absent):
        result.findings.append(
            f"cvact {split}: {absent[0]:,} tiles and {absent[1]:,} panoramas that ACT_data.mat lists are not there."
        )
    result.compare_counts()
    return result


def _add_row(result: Plan, key: str, lat: float, lon: float, tiles: Pictures, photos: Pictures) -> None:
    tile_name, photo_name = f"{key}_satView_polish.jpg", f"{key}_grdView.jpg"
    tile, photo = tiles.find(tile_name), photos.find(photo_name)
    if tile is None:
        result.refused_tiles.append(tiles.absent(key, tile_name))
    else:
        result.tiles.append(
            Tile(key, tile, map_metres_per_pixel(lat, _ZOOM), "cvact", _TILE_PX, lat, lon, key)
        )
    if photo is None:
        result.refused_queries.append(photos.absent(key, photo_name))
    else:
        result.queries.append(Query(key, photo, "panorama", 360.0, 0.0, lat, lon, key))
    # The tile is cut around the panorama: they share their position.
    result.pairs.append(Pair(key, key, east_m=0.0, north_m=0.0))


DATASET = register(DataSet("cvact", tuple(_PUBLISHED), LAYOUT, plan))
