"""CVACT, small and test: a panorama at the centre of each tile, and the annotation as a MATLAB file.

    ACT_data.mat                                        panoIds, utm, trainSet, valSet, valSetAll
    ANU_data_small/satview_polish/<id>_satView_polish.jpg   1200 x 1200, zoom 20 of a web map, north up
    ANU_data_small/streetview/<id>_grdView.jpg          832 x 1664, north at the centre
    ANU_data_test/...                                   the same for all of valSetAll

Coordinates: readers take `utm` for EPSG:32755 (zone 55 South, Canberra's) and may refuse what lies far from
Canberra. The city is therefore put into that very projection, 130 km south-east of Canberra on the open sea, and
turned by the grid convergence there so that tiles have TRUE north up: easting and northing are city metres,
shifted and turned, so distances in `utm` are exact, and whoever converts EPSG:32755 to degrees gets points whose
distances and directions agree with the pictures (to the projection's scale there, 1.0006).

valSet is the first part of valSetAll, as published: its pictures lie in both folders. Places of valSetAll stand
closer together than 5 m here and there, so that the 5-metre rule and the exact-pair rule differ.

Facts of the layout: Liu and Li, CVPR 2019, and the loaders that read it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.io import savemat

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.synthetic.layouts.cities import plain_city
from geoloc.synthetic.layouts.cvusa import two_districts
from geoloc.synthetic.layouts.placement import mercator_metres_per_pixel, utm_at
from geoloc.synthetic.layouts.view_images import AERIAL, PANORAMA, Export, Picture, masked_name
from geoloc.synthetic.world.noise import hash_array, uniform

PUBLISHED = (35_532, 8_884, 92_802)
TILE_PX = 1200
PANORAMA_HEIGHT_PX = 832
ZOOM = 20
_LAT, _LON = -36.48, 150.25
_ZONE = 55
_PER_KM2 = 580.0
_SPACING_M = 18.0
_CLOSE_M = 2.5
_MAT_HEADER = b"MATLAB 5.0 MAT-file, written by geoloc for the procedural city"


@dataclass(frozen=True)
class CvactSpec:
    """Pairs of the three sets (`validation` is part of `test`) and the sizes of pictures.

    missing_share: of ids whose two pictures are left out, as some are in the published data.
    """

    seed: int = 7
    train: int = PUBLISHED[0]
    validation: int = PUBLISHED[1]
    test: int = PUBLISHED[2]
    missing_share: float = 0.0
    tile_px: int = TILE_PX
    panorama_height_px: int = PANORAMA_HEIGHT_PX
    photo_epoch: int = 0
    imagery_epoch: int = 0


def plan(spec: CvactSpec) -> Export:
    """All pictures and the annotation file of a CVACT data set."""
    city = plain_city(spec.seed, utm_at(_LAT, _LON, zone=_ZONE, south=True))
    places, splits = two_districts(
        city, spec.train, spec.test, _SPACING_M, _PER_KM2, later_spacing_m=_CLOSE_M
    )
    order = np.argsort(hash_array(spec.seed + 905, np.arange(len(places))), kind="stable")
    places = places[order]
    in_train = np.array([splits[k] == "train" for k in order], bool)
    later = np.nonzero(~in_train)[0]
    names = [masked_name(22, spec.seed, 55, k) for k in range(len(places))]
    easting, northing = city.placement.to_projected(places[:, 0], places[:, 1])
    sets = {"train": np.nonzero(in_train)[0], "val": later[: spec.validation], "val_all": later}
    lost = uniform(spec.seed + 906, np.arange(len(places))) < spec.missing_share
    folders = [("ANU_data_small", "train"), ("ANU_data_small", "val"), ("ANU_data_test", "val_all")]
    tile_m = TILE_PX * mercator_metres_per_pixel(_LAT, ZOOM)
    turn = city.placement.convergence_deg(places[:, 0], places[:, 1])
    pictures = [
        picture
        for folder, split in folders
        for k in sets[split]
        if not lost[k]
        for picture in _pair(spec, folder, split, names[k], places[k], -float(turn[k]), tile_m, int(k))
    ]
    files = {"ACT_data.mat": act_data(names, np.column_stack([easting, northing]), sets)}
    missing = sorted(names[k] for k in np.nonzero(lost)[0])
    details = {"tile_m": tile_m, "projection": "EPSG:32755", "missing": missing}
    return Export("cvact", [city], pictures, files, details=details)


def act_data(names: list[str], utm: FloatArray, sets: dict[str, IntArray]) -> bytes:
    """The bytes of `ACT_data.mat`: MATLAB 5, the same for the same data.

    utm: float64[N, 2] of easting and northing in metres; sets: int64[...] numbers from 0 of `train`, `val`, `val_all`.

    The file has panoIds: char array, one id a row; utm: N x 2 double; trainSet.trainInd, valSet.valInd and
    valSetAll.valInd: column vectors of 1-based numbers, each the SECOND field of its struct, because some readers index
    by position. The name of the first field, a count, is ours.
    """

    def group(field: str, count: str, members: IntArray) -> dict[str, object]:
        return {count: float(len(members)), field: (members + 1).astype(np.float64)[:, None]}

    buffer = io.BytesIO()
    stream: Any = buffer  # scipy takes a stream, its annotation only a path
    savemat(stream, {
        "panoIds": np.array(names), "utm": utm, "trainSet": group("trainInd", "trainNum", sets["train"]),
        "valSet": group("valInd", "valNum", sets["val"]), "valSetAll": group("valInd", "valNum", sets["val_all"]),
    }, do_compression=True)  # fmt: skip
    # The first 116 bytes are a text with the date of writing; equal data are to give equal bytes.
    return _MAT_HEADER.ljust(116) + buffer.getvalue()[116:]


def _pair(
    spec: CvactSpec,
    folder: str,
    split: str,
    name: str,
    place: FloatArray,
    heading_deg: float,
    tile_m: float,
    key: int,
) -> list[Picture]:
    x, y = float(place[0]), float(place[1])
    height = spec.panorama_height_px
    aerial = Picture(
        f"{folder}/satview_polish/{name}_satView_polish.jpg", AERIAL, 0, x, y, spec.tile_px, spec.tile_px,
        side_m=tile_m, split=split, place=name, epoch=spec.imagery_epoch,
    )  # fmt: skip
    photo = Picture(
        f"{folder}/streetview/{name}_grdView.jpg", PANORAMA, 0, x, y, 2 * height, height, key=(3, key),
        heading_deg=heading_deg, altitude_m=2.0, fov_deg=360.0, top_deg=90.0, bottom_deg=-90.0, split=split,
        place=name, epoch=spec.photo_epoch,
    )  # fmt: skip
    return [aerial, photo]
