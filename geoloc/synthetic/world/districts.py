"""The data set's plan: districts for training, validation and test, places of photos and of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.camera_positions import Positions, positions_in_tiles, street_positions
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.noise import hash_int, uniform
from geoloc.synthetic.world.raster import City

SPLITS = ("train", "validation", "test")
_PHOTOS_PER_KM2 = (580.0, 300.0, 300.0)
_TILES_PER_KM2 = 700.0
"""Densities that streets hold with ease, by split and for test tiles with distractors: a district's first size."""
_GROWTHS = 6


@dataclass(frozen=True)
class Photo:
    """The plan of one photo: its file name, camera position in city metres, grid heading and look key."""

    name: str
    folder: str
    x: float
    y: float
    heading_deg: float
    key: tuple[int, int]


@dataclass(frozen=True)
class Sheet:
    """One sheet of imagery; rows count from the north."""

    row: int
    column: int
    bounds: Bounds


@dataclass(frozen=True)
class District:
    """One split of the data set.

    centres and distractors: (tile_id, x, y) of tile centres; anywhere: photos that may lie anywhere in a tile.
    """

    name: str
    bounds: Bounds
    sheets: list[Sheet]
    photos: list[Photo]
    anywhere: list[Photo]
    centres: list[tuple[str, float, float]]
    distractors: list[tuple[str, float, float]]


@dataclass(frozen=True)
class DistrictSettings:
    """Counts, spacings and sizes in metres.

    Tiles of validation and test keep `spacing_m` from each other and from distractors, which keep
    `distractor_spacing_m` among themselves: about half a tile, so that neighbours overlap and yet can be told apart.
    """

    train_photos: int = 5000
    validation_photos: int = 300
    test_photos: int = 1000
    distractors: int = 5000
    anywhere_photos: int = 500
    validation_anywhere_photos: int = 0
    train_spacing_m: float = 18.0
    spacing_m: float = 25.0
    distractor_spacing_m: float = 15.0
    photo_offset_m: float = 5.0
    tile_m: float = 51.2
    sheet_m: float = 512.0
    gap_m: float = 400.0
    margin_m: float = 64.0
    random_heading: bool = False


def plan_districts(city: City, settings: DistrictSettings) -> list[District]:
    """Lay out the splits side by side with gaps and choose all positions in them.

    Convention: training begins at the style's `east_m` on the x axis, validation lies to its north, test to the
    east of both; all bounds are west, south, east, north in city metres, on whole sheets.
    """
    gap = math.ceil(settings.gap_m / settings.sheet_m) * settings.sheet_m
    west = city.style.east_m
    train = _grow(city, settings, 0, west, 0.0)
    validation = _grow(city, settings, 1, west, train.bounds[3] + gap)
    east = max(train.bounds[2], validation.bounds[2])
    return [train, validation, _grow(city, settings, 2, east + gap, 0.0)]


def _grow(city: City, settings: DistrictSettings, index: int, west: float, south: float) -> District:
    """The smallest district of whole sheets from a corner whose streets hold enough photos and tiles."""
    count = (settings.train_photos, settings.validation_photos, settings.test_photos)[index]
    area = count / _PHOTOS_PER_KM2[index]
    if SPLITS[index] == "test":
        area = max(area, (count + settings.distractors) / _TILES_PER_KM2)
    columns = rows = tries = 1
    while True:
        width, height = columns * settings.sheet_m, rows * settings.sheet_m
        if (width - 2 * settings.margin_m) * (height - 2 * settings.margin_m) / 1e6 >= area:
            try:
                return _district(city, settings, index, (west, south, west + width, south + height))
            except ConfigError:
                if tries == _GROWTHS:
                    raise
                tries += 1
        columns, rows = (columns, rows + 1) if rows <= columns else (columns + 1, rows)


def _district(city: City, settings: DistrictSettings, index: int, bounds: Bounds) -> District:
    """All positions of one split."""
    margin = settings.margin_m
    inner = (bounds[0] + margin, bounds[1] + margin, bounds[2] - margin, bounds[3] - margin)
    count = (settings.train_photos, settings.validation_photos, settings.test_photos)[index]
    seed = city.seed + 500 + 50 * index
    network = city.network
    spacing = settings.train_spacing_m if SPLITS[index] == "train" else settings.spacing_m
    main = street_positions(network, inner, count, spacing, seed, offset_m=settings.photo_offset_m)
    photos = _photos(city.seed, settings, main, 10 * index, f"{SPLITS[index]}/photos")
    centres = _tiles(city.seed, main, 10 * index)
    sheets, taken = _sheets(bounds, settings.sheet_m), np.column_stack([main.centre_x, main.centre_y])
    anywhere = (0, settings.validation_anywhere_photos, settings.anywhere_photos)[index]
    free: list[Photo] = []
    if anywhere:
        within = positions_in_tiles(network, taken, settings.tile_m - 1.2, anywhere, seed + 30)
        free = _photos(city.seed, settings, within, 10 * index + 1, f"{SPLITS[index]}/anywhere/photos")
    if SPLITS[index] != "test":
        return District(SPLITS[index], bounds, sheets, photos, free, centres, [])
    others = street_positions(
        network, inner, settings.distractors, settings.distractor_spacing_m, seed + 20,
        offset_m=settings.photo_offset_m, clear_of=taken, clear_m=settings.spacing_m,
    )  # fmt: skip
    return District("test", bounds, sheets, photos, free, centres, _tiles(city.seed, others, 10 * index + 1))


def _name(prefix: str, *keys: int) -> str:
    return f"{prefix}{hash_int(600, *keys):08x}{hash_int(601, *keys):08x}"[:13]


def _photos(
    seed: int, settings: DistrictSettings, positions: Positions, group: int, folder: str
) -> list[Photo]:
    """Photos in the order of their names, which say nothing about the place."""
    turn = 360 * uniform(seed + 610, group, np.arange(len(positions))) * settings.random_heading
    photos = [
        Photo(_name("p", seed, group, k, 1) + ".jpg", folder, float(x), float(y), float(turn[k]), (group, k))
        for k, (x, y) in enumerate(zip(positions.x, positions.y, strict=True))
    ]
    return sorted(photos, key=lambda photo: photo.name)


def _tiles(seed: int, positions: Positions, group: int) -> list[tuple[str, float, float]]:
    """Tile ids and centres in the order of the ids, which say nothing about the place or the photo."""
    return sorted(
        (_name("t", seed, group, k, 2), float(x), float(y))
        for k, (x, y) in enumerate(zip(positions.centre_x, positions.centre_y, strict=True))
    )


def _sheets(bounds: Bounds, sheet_m: float) -> list[Sheet]:
    """Sheets that cover a district without gap or overlap."""
    west, south, east, north = bounds
    columns, rows = round((east - west) / sheet_m), round((north - south) / sheet_m)
    return [
        Sheet(row, column, (west + column * sheet_m, north - (row + 1) * sheet_m,
                            west + (column + 1) * sheet_m, north - row * sheet_m))
        for row in range(rows)
        for column in range(columns)
    ]  # fmt: skip
