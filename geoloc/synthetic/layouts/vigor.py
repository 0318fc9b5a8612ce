"""VIGOR: photos anywhere on the streets of four cities, tiles on a grid with 50 % overlap.

    <City>/panorama/<id>,<lat>,<lon>,.jpg               1024 x 2048, north at the centre
    <City>/satellite/satellite_<lat>_<lon>.png          640 x 640, zoom 20 of a web map
    splits/<City>/satellite_list.txt                    all tiles, row by row from the south-west
    splits/<City>/same_area_balanced_{train,test}.txt   labels as published, for 0.114 m a pixel everywhere
    splits/<City>/same_area_balanced_{train,test}__corrected.txt   labels in true pixels, as SliceMatch gives them
    splits/<City>/pano_label_balanced.txt, pano_label_balanced__corrected.txt   both halves (cross-area)

Facts of the layout: Zhu, Yang, Chen, VIGOR, CVPR 2021; the label files checked against Seattle's published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.layouts.cities import VIGOR_CITIES, vigor_city
from geoloc.synthetic.layouts.placement import mercator_metres_per_pixel
from geoloc.synthetic.layouts.spread import grow
from geoloc.synthetic.layouts.view_images import AERIAL, PANORAMA, CitySource, Export, Picture, masked_name
from geoloc.synthetic.world.camera_positions import street_points
from geoloc.synthetic.world.coverage import TileGrid, keep_balanced
from geoloc.synthetic.world.network import Bounds, Network
from geoloc.synthetic.world.noise import uniform

STEP_LAT_DEG = 0.00032807245263910545
"""The published grid's step; the step in longitude is as long on the ground."""
NOMINAL_METRES_PER_PIXEL = 0.114
ZOOM = 20
TILE_PX = 640
PANORAMA_HEIGHT_PX = 1024
PUBLISHED_PHOTOS = 105_214
_METRES_PER_DEG = 2 * math.pi * 6378137.0 / 360
_PHOTOS_PER_TILE = 0.55
"""Photos that the streets of a tile's central quarter give on average: an area's first size."""
_MOST_PER_TILE = 2
_LEAST_APART_M = 6.0


@dataclass(frozen=True)
class VigorSpec:
    """photos: of each city; labels are always written for tiles of 640 pixels, whatever size is rendered."""

    seed: int = 7
    photos: int = PUBLISHED_PHOTOS // 4
    cities: tuple[str, ...] = VIGOR_CITIES
    tile_px: int = TILE_PX
    panorama_height_px: int = PANORAMA_HEIGHT_PX
    photo_epoch: int = 0
    imagery_epoch: int = 0


@dataclass(frozen=True)
class Area:
    """One city's photos and tiles, before they have names.

    lat, lon: float64[N] of photos; tiles: int64[N, 4], positive first; metres_per_pixel: of a true tile pixel.
    """

    city: CitySource
    grid: TileGrid
    lat: FloatArray
    lon: FloatArray
    tiles: IntArray
    metres_per_pixel: float


def plan(spec: VigorSpec) -> Export:
    """All pictures and label files of VIGOR's cities."""
    cities = [vigor_city(name, spec.seed) for name in spec.cities]
    pictures: list[Picture] = []
    files: dict[str, bytes] = {}
    details = {}
    for number, city in enumerate(cities):
        area = find_area(city, spec.photos)
        satellites = satellite_names(area.grid)
        panoramas = [
            f"{masked_name(22, spec.seed, number, k)},{area.lat[k]:.6f},{area.lon[k]:.6f},.jpg"
            for k in range(len(area.lat))
        ]
        order = sorted(range(len(panoramas)), key=panoramas.__getitem__)
        half = set(order[: len(order) // 2])
        files |= _label_files(area, panoramas, satellites, order, half)
        pictures += _tiles(spec, number, area, satellites) + _photos(spec, number, area, panoramas, half)
        details[city.name] = {
            "photos": len(panoramas), "tiles": len(satellites), "metres_per_pixel": area.metres_per_pixel,
        }  # fmt: skip
    return Export("vigor", cities, pictures, files, details=details)


def find_area(city: CitySource, photos: int) -> Area:
    """A square of a city that holds so many photos, no tile the positive of more than two.

    Photos keep a whole step from the grid's rim, so that each has its positive and three semi-positives.
    """
    network = Network(city.seed, city.style)
    step_m = STEP_LAT_DEG * _METRES_PER_DEG
    _, area = grow(
        0.0, 0.0, photos / _PHOTOS_PER_TILE * step_m**2 / 1e6, lambda b: _try_area(city, network, b, photos)
    )
    return area


def _try_area(city: CitySource, network: Network, bounds: Bounds, photos: int) -> Area:
    west, south, east, north = bounds
    lat, lon = city.placement.to_latlon([west, east], [south, north])
    step_lon = STEP_LAT_DEG / math.cos(math.radians(float(lat.mean())))
    columns = int((lon[1] - lon[0]) / step_lon) + 3
    rows = int((lat[1] - lat[0]) / STEP_LAT_DEG) + 3
    grid = TileGrid(
        float(lon[0]) - step_lon, float(lat[0]) - STEP_LAT_DEG, step_lon, STEP_LAT_DEG, columns, rows
    )
    points = street_points(network, bounds, city.seed + 900)
    points = points[_first_in_cells(points)]
    # The name is all that VIGOR tells of a place: the place is what the name says, to six decimals.
    at_lat, at_lon = (np.round(v, 6) for v in city.placement.to_latlon(points[:, 0], points[:, 1]))
    tiles = grid.cover(at_lon, at_lat)
    keep = np.nonzero((tiles >= 0).all(1))[0]
    keep = keep[keep_balanced(tiles[keep, 0], _MOST_PER_TILE)][:photos]
    if len(keep) < photos:
        raise ConfigError(
            f"Only {len(keep)} of {photos} photos fit on the streets of {city.name}; ask for fewer."
        )
    resolution = mercator_metres_per_pixel(float(lat.mean()), ZOOM)
    return Area(city, grid, at_lat[keep], at_lon[keep], tiles[keep], resolution)


def _first_in_cells(points: FloatArray) -> IntArray:
    """Numbers of the points that are the first of their cell of `_LEAST_APART_M`, in order."""
    cells = np.floor(points / _LEAST_APART_M).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    return np.sort(first)


def satellite_names(grid: TileGrid) -> list[str]:
    """File names of all tiles with the coordinates of their centres, row by row from the south-west."""
    lon, lat = grid.centres()
    return [f"satellite_{a!r}_{b!r}.png" for a, b in zip(lat.tolist(), lon.tolist(), strict=True)]


def pixel_offsets(area: Area, metres_per_pixel: float) -> IntArray:
    """Positions of each photo in its four tiles of 640 pixels: int64[N, 4, 2], rounded to whole pixels.

    Convention: [..., 0] is how far the photo lies BELOW (south of) the tile's centre, [..., 1] how far to the
    LEFT (west) of it, as in the published files: it is drawn at column 320 - d[1], row 320 + d[0].
    """
    lon, lat = area.grid.centres()
    x, y = area.city.placement.from_latlon(area.lat, area.lon)
    tile_x, tile_y = area.city.placement.from_latlon(lat, lon)
    down = tile_y[area.tiles] - y[:, None]
    left = tile_x[area.tiles] - x[:, None]
    return np.rint(np.stack([down, left], -1) / metres_per_pixel).astype(np.int64)


def _label_files(
    area: Area, panoramas: list[str], satellites: list[str], order: list[int], train: set[int]
) -> dict[str, bytes]:
    """The label files of one city, with published and with true pixel sizes."""
    shuffled = [order[k] for k in np.argsort(uniform(area.city.seed + 901, np.arange(len(order))))]
    groups = {
        "same_area_balanced_train": [k for k in shuffled if k in train],
        "same_area_balanced_test": [k for k in shuffled if k not in train],
        "pano_label_balanced": shuffled,
    }
    files = {f"splits/{area.city.name}/satellite_list.txt": "".join(f"{n}\n" for n in satellites).encode()}
    for suffix, resolution in (("", NOMINAL_METRES_PER_PIXEL), ("__corrected", area.metres_per_pixel)):
        offsets = pixel_offsets(area, resolution)
        lines = [
            " ".join([panoramas[k], *(
                f"{satellites[tile]} {float(down)} {float(left)}"
                for tile, (down, left) in zip(area.tiles[k], offsets[k].tolist(), strict=True)
            )])
            for k in range(len(panoramas))
        ]  # fmt: skip
        for name, members in groups.items():
            path = f"splits/{area.city.name}/{name}{suffix}.txt"
            files[path] = "\n".join(lines[k] for k in members).encode()
    return files


def _tiles(spec: VigorSpec, number: int, area: Area, names: list[str]) -> list[Picture]:
    lon, lat = area.grid.centres()
    x, y = area.city.placement.from_latlon(lat, lon)
    return [
        Picture(
            f"{area.city.name}/satellite/{name}", AERIAL, number, float(x[k]), float(y[k]), spec.tile_px,
            spec.tile_px, side_m=TILE_PX * area.metres_per_pixel, split="gallery", epoch=spec.imagery_epoch,
        )
        for k, name in enumerate(names)
    ]  # fmt: skip


def _photos(spec: VigorSpec, number: int, area: Area, names: list[str], train: set[int]) -> list[Picture]:
    placement = area.city.placement
    x, y = placement.from_latlon(area.lat, area.lon)
    turn = placement.convergence_deg(x, y)
    height = spec.panorama_height_px
    return [
        Picture(
            f"{area.city.name}/panorama/{name}", PANORAMA, number, float(x[k]), float(y[k]), 2 * height, height,
            key=(1, number, k), heading_deg=-float(turn[k]), altitude_m=2.0, fov_deg=360.0, top_deg=90.0,
            bottom_deg=-90.0, split="train" if k in train else "test", epoch=spec.photo_epoch,
        )
        for k, name in enumerate(names)
    ]  # fmt: skip
