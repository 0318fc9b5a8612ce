"""CVUSA: a panorama at the centre of each tile, north at the centre column, training far from validation.

    bingmap/19/<id>.jpg            750 x 750, zoom 19 of a web map, north up
    streetview/panos/<id>.jpg      224 x 1232, all around, 32.7 degrees up and down
    streetview/annotations/<id>.png   224 x 1232, classes of ground: see `labels`
    splits/train-19zl.csv, val-19zl.csv   aerial, panorama, annotation; no header
    split_locations/all.csv        aerial lat, lon, photo lat, lon, heading; no header; row = id - 1

Facts of the layout: Zhai et al., CVPR 2017 (crossnet), and the loaders that read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.layouts.cities import plain_city
from geoloc.synthetic.layouts.placement import mercator_metres_per_pixel
from geoloc.synthetic.layouts.spread import GAP_M, grow, street_places
from geoloc.synthetic.layouts.view_images import (
    AERIAL,
    LABELS,
    PANORAMA,
    CitySource,
    Export,
    Picture,
    csv_bytes,
)
from geoloc.synthetic.world.network import Network
from geoloc.synthetic.world.noise import hash_array

PUBLISHED = (35_532, 8_884)
TILE_PX = 750
PANORAMA_PX = (224, 1232)
ZOOM = 19
_HALF_VERTICAL_DEG = 360 * PANORAMA_PX[0] / PANORAMA_PX[1] / 2
_PER_KM2 = 580.0
_SPACING_M = 18.0


@dataclass(frozen=True)
class CvusaSpec:
    """Pairs of both splits and the sizes of pictures; what a picture shows does not depend on its size."""

    seed: int = 7
    train: int = PUBLISHED[0]
    validation: int = PUBLISHED[1]
    tile_px: int = TILE_PX
    panorama_height_px: int = PANORAMA_PX[0]
    photo_epoch: int = 0
    imagery_epoch: int = 0


def plan(spec: CvusaSpec) -> Export:
    """All pictures and tables of a CVUSA data set."""
    city = plain_city(spec.seed)
    places, splits = two_districts(city, spec.train, spec.validation, _SPACING_M, _PER_KM2)
    order = np.argsort(hash_array(spec.seed + 902, np.arange(len(places))), kind="stable")
    lat, lon = city.placement.to_latlon(places[:, 0], places[:, 1])
    turn = city.placement.convergence_deg(places[:, 0], places[:, 1])
    tile_m = TILE_PX * mercator_metres_per_pixel(float(lat[0]), ZOOM)
    pictures: list[Picture] = []
    rows: dict[str, list[tuple[str, str, str]]] = {"train": [], "val": []}
    for number, k in enumerate(order.tolist(), start=1):
        name = f"{number:07d}"
        x, y = float(places[k, 0]), float(places[k, 1])
        aerial, photo = f"bingmap/19/{name}.jpg", f"streetview/panos/{name}.jpg"
        labels = f"streetview/annotations/{name}.png"
        rows[splits[k]].append((aerial, photo, labels))
        pictures.append(Picture(
            aerial, AERIAL, 0, x, y, spec.tile_px, spec.tile_px, side_m=tile_m, split=splits[k], place=name,
            epoch=spec.imagery_epoch,
        ))  # fmt: skip
        pictures += _panoramas(spec, (photo, labels), x, y, -float(turn[k]), splits[k], name)
    at = [(f"{lat[k]:.8f}", f"{lon[k]:.8f}") for k in order]
    files = {
        "splits/train-19zl.csv": csv_bytes(rows["train"]), "splits/val-19zl.csv": csv_bytes(rows["val"]),
        "split_locations/all.csv": csv_bytes((*place, *place, "0.0") for place in at),
    }  # fmt: skip
    return Export("cvusa", [city], pictures, files, details={"tile_m": tile_m})


def _panoramas(
    spec: CvusaSpec, paths: tuple[str, str], x: float, y: float, heading_deg: float, split: str, name: str
) -> list[Picture]:
    """A photo and its annotation, both with north at the centre column."""
    height = spec.panorama_height_px
    width = round(height * PANORAMA_PX[1] / PANORAMA_PX[0])
    return [
        Picture(
            path, view, 0, x, y, width, height, key=(2, int(name)), heading_deg=heading_deg, altitude_m=2.0,
            fov_deg=360.0, top_deg=_HALF_VERTICAL_DEG, bottom_deg=-_HALF_VERTICAL_DEG, split=split, place=name,
            epoch=spec.photo_epoch,
        )
        for path, view in zip(paths, (PANORAMA, LABELS), strict=True)
    ]  # fmt: skip


def two_districts(
    city: CitySource,
    train: int,
    validation: int,
    spacing_m: float,
    per_km2: float,
    *,
    later_spacing_m: float = 0.0,
) -> tuple[FloatArray, list[str]]:
    """Places of training and of validation in two squares `GAP_M` apart: float64[N, 2] and each one's split.

    Convention: x east, y north in city metres; validation lies east of training.
    """
    network = Network(city.seed, city.style)
    bounds, first = grow(
        0.0, 0.0, train / per_km2, lambda b: street_places(network, b, train, spacing_m, city.seed + 903)
    )
    later = later_spacing_m or spacing_m
    density = per_km2 * spacing_m / later
    _, second = grow(
        bounds[2] + GAP_M, 0.0, validation / density,
        lambda b: street_places(network, b, validation, later, city.seed + 904),
    )  # fmt: skip
    return np.concatenate([first, second]), ["train"] * len(first) + ["val"] * len(second)
