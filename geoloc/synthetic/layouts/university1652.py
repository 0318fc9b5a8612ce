"""University-1652: buildings seen from drones, satellites and streets; training and test universities apart.

    train/{drone,satellite,street,google}/<id>/...      701 buildings
    test/{query_drone,query_satellite,query_street}/<id>/...          701 other buildings
    test/{gallery_drone,gallery_satellite,gallery_street}/<id>/...    those and 250 more
    test/gallery_satellite_160k/<masked>.jpg            distractors, names say nothing
    test/query_drone_160k/<masked>.jpeg                 the drone queries, names say nothing

Drone photos are image-01.jpeg to image-54.jpeg, a tile is <id>.jpg, street photos are 1.jpg, 2.jpg, ...; all 512 x
512. A university is a square of city of its own, more than twice the viewing range of a photo on the ground from
every other; drone photos see farther, but buildings are pictured in the middle. `google` holds more street
photos for every second building; where it has none there is no folder.

Facts of the layout: Zheng, Wei, Yang, ACM MM 2020, and the baseline's loaders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.layouts.cities import STYLES, city_seed
from geoloc.synthetic.layouts.placement import Placement
from geoloc.synthetic.layouts.spread import GAP_M, grow, street_places
from geoloc.synthetic.layouts.view_images import (
    AERIAL,
    DRONE,
    STREET,
    CitySource,
    Export,
    Picture,
    masked_name,
)
from geoloc.synthetic.world.camera_positions import street_points
from geoloc.synthetic.world.drone import FOV_DEG, spiral
from geoloc.synthetic.world.network import Bounds, Network
from geoloc.synthetic.world.noise import hash_array, uniform
from geoloc.synthetic.world.raster import City

PUBLISHED = (701, 701, 250)
"""Buildings of training, of test, and of the test gallery alone."""
PUBLISHED_DISTRACTORS = 167_486
DRONE_VIEWS = 54
SIZE_PX = 512
_PER_UNIVERSITY = 23
_TILE_M = 140.0
_APART_M = 45.0
_LEAST_AREA_M2 = 140.0
_STREET_REACH_M = 60.0
_BUILDINGS_PER_KM2 = 110.0
_DISTRACTORS_PER_KM2 = 1500.0
_DISTRACTOR_SPACING_M = 14.0


@dataclass(frozen=True)
class UniversitySpec:
    """Buildings of each part, distractor tiles, and the side of pictures in pixels.

    masked_gallery: the distractors' folder also holds the gallery's own tiles under masked names, as a challenge
    without labels needs it; readers that put both folders together would then have them twice.
    """

    seed: int = 7
    train: int = PUBLISHED[0]
    test: int = PUBLISHED[1]
    extra: int = PUBLISHED[2]
    distractors: int = 0
    drone_views: int = DRONE_VIEWS
    size_px: int = SIZE_PX
    masked_gallery: bool = False
    photo_epoch: int = 0
    imagery_epoch: int = 0


@dataclass(frozen=True)
class Building:
    """A building to be photographed: its middle, height, and cameras on the streets around: float64[K, 2]."""

    city: int
    x: float
    y: float
    height_m: float
    cameras: FloatArray


def plan(spec: UniversitySpec) -> Export:
    """All pictures of a University-1652 data set; the layout has no annotation files but the folders' names."""
    cities = [
        CitySource(f"{split}-{name}", city_seed(spec.seed, 20 + number), STYLES[name], Placement())
        for number, (split, name) in enumerate((s, n) for s in ("train", "test") for n in _CAMPUSES)
    ]
    half = len(_CAMPUSES)
    epochs = sorted({spec.photo_epoch, spec.imagery_epoch})
    train = _find_buildings(cities[:half], 0, spec.train, epochs)
    test = _find_buildings(cities[half:], half, spec.test + spec.extra, epochs)
    labels = _labels(spec.seed, spec.train + spec.test + spec.extra)
    pictures: list[Picture] = []
    for label, building in zip(labels, train, strict=False):
        pictures += _train_pictures(spec, label, building)
    for number, (label, building) in enumerate(zip(labels[spec.train :], test, strict=True)):
        pictures += _test_pictures(spec, label, building, query=number < spec.test)
    pictures += _masked_copies(spec, pictures, cities, half)
    details = {
        "train_buildings": spec.train, "query_buildings": spec.test, "gallery_buildings": spec.test + spec.extra,
        "distractors": spec.distractors, "tile_m": _TILE_M,
    }  # fmt: skip
    return Export("university1652", cities, pictures, {}, details=details)


_CAMPUSES = ("plain", "grid", "old_town", "suburb")


def _labels(seed: int, count: int) -> list[str]:
    """Four-digit names of buildings in an order that says nothing."""
    order = np.argsort(hash_array(seed + 907, np.arange(max(count, 1652))), kind="stable")
    return [f"{number:04d}" for number in order[:count]]


def _find_buildings(cities: list[CitySource], first: int, count: int, epochs: list[int]) -> list[Building]:
    """Buildings of several universities, each a square of one of the cities, `GAP_M` apart.

    They stand in all the epochs that are pictured.
    """
    found: list[Building] = []
    west = [0.0] * len(cities)
    university = 0
    made = [[City(city.seed, city.style, epoch) for epoch in epochs] for city in cities]
    while len(found) < count:
        k = university % len(cities)
        wanted = min(_PER_UNIVERSITY, count - len(found))
        find = partial(_buildings_in, made[k], first + k, count=wanted)
        bounds, some = grow(west[k], 0.0, wanted / _BUILDINGS_PER_KM2, find)
        west[k] = bounds[2] + GAP_M
        found += some
        university += 1
    return found


def _buildings_in(cities: list[City], number: int, bounds: Bounds, count: int) -> list[Building]:
    """Large buildings apart from each other with a street nearby; `ConfigError` when there are too few."""
    network = cities[0].network
    names = network.blocks_in(bounds, 0.0)
    standing = [np.concatenate([city.block(i, j).buildings for i, j in names]) for city in cities]
    rows = standing[0]
    for later in standing[1:]:
        rows = rows[np.isin(rows["id"], later["id"])]
    west, south, east, north = bounds
    at_x, at_y = rows["x"], rows["y"]
    big = 4 * rows["half_u"] * rows["half_v"] >= _LEAST_AREA_M2
    inside = (at_x > west + 40) & (at_x < east - 40) & (at_y > south + 40) & (at_y < north - 40)
    rows = rows[big & inside]
    rows = rows[np.argsort(hash_array(network.seed + 41, rows["id"].astype(np.int64)), kind="stable")]
    cameras = street_points(network, bounds, network.seed + 42)
    chosen: list[Building] = []
    for row in rows:
        x, y = float(row["x"]), float(row["y"])
        if any(np.hypot(x - b.x, y - b.y) < _APART_M for b in chosen):
            continue
        away = np.hypot(cameras[:, 0] - x, cameras[:, 1] - y)
        size = float(np.hypot(row["half_u"], row["half_v"]))
        near = np.nonzero((away > size + 6) & (away < size + _STREET_REACH_M))[0]
        if len(near) >= _MOST_STREET:
            chosen.append(
                Building(number, x, y, float(row["wall_m"] + row["gable_m"]), cameras[near[:_MOST_STREET]])
            )
        if len(chosen) == count:
            return chosen
    raise ConfigError(f"Only {len(chosen)} of {count} buildings stand apart enough here; ask for fewer.")


_MOST_STREET = 8
_STREET_COUNTS = (1, 6)
"""Fewest and most street photos of a building; the published mean is 3.7 in the test set."""


def _train_pictures(spec: UniversitySpec, label: str, building: Building) -> list[Picture]:
    street = _street_count(spec.seed, label)
    made = _drones(spec, f"train/drone/{label}", building, label, "train")
    made.append(_satellite(spec, f"train/satellite/{label}/{label}.jpg", building, label, "train"))
    made += _streets(spec, f"train/street/{label}", building, label, range(street), "train")
    if int(label) % 2:
        made += _streets(spec, f"train/google/{label}", building, label, range(street, street + 2), "train")
    return made


def _test_pictures(spec: UniversitySpec, label: str, building: Building, *, query: bool) -> list[Picture]:
    street = _street_count(spec.seed, label)
    made: list[Picture] = []
    for kind in ("query", "gallery") if query else ("gallery",):
        made += _drones(spec, f"test/{kind}_drone/{label}", building, label, kind)
        made.append(_satellite(spec, f"test/{kind}_satellite/{label}/{label}.jpg", building, label, kind))
        if query or int(label) % 3:  # not every building of the gallery has photos from the street
            made += _streets(spec, f"test/{kind}_street/{label}", building, label, range(street), kind)
    return made


def _street_count(seed: int, label: str) -> int:
    low, high = _STREET_COUNTS
    return int(low + (high - low + 1) * float(uniform(seed + 908, int(label))))


def _drones(spec: UniversitySpec, folder: str, building: Building, label: str, split: str) -> list[Picture]:
    first = 360 * float(uniform(spec.seed + 909, int(label)))
    poses = spiral(building.x, building.y, steps=spec.drone_views, first_deg=first)
    return [
        Picture(
            f"{folder}/image-{step:02d}.jpeg", DRONE, building.city, pose.x, pose.y, spec.size_px, spec.size_px,
            key=(4, int(label)), heading_deg=pose.heading_deg, pitch_deg=pose.pitch_deg,
            altitude_m=pose.altitude_m, fov_deg=FOV_DEG, split=split, place=label, epoch=spec.photo_epoch,
            target=(building.x, building.y),
        )
        for step, pose in enumerate(poses, start=1)
    ]  # fmt: skip


def _satellite(spec: UniversitySpec, path: str, building: Building, label: str, split: str) -> Picture:
    return Picture(
        path, AERIAL, building.city, building.x, building.y, spec.size_px, spec.size_px, side_m=_TILE_M,
        split=split, place=label, epoch=spec.imagery_epoch,
    )  # fmt: skip


def _streets(
    spec: UniversitySpec, folder: str, building: Building, label: str, numbers: range, split: str
) -> list[Picture]:
    """Photos from the streets around, each aimed at the building from below."""
    made = []
    for number in numbers:
        x, y = building.cameras[number % len(building.cameras)].tolist()
        heading = float(np.degrees(np.arctan2(building.x - x, building.y - y)) % 360)
        away = float(np.hypot(building.x - x, building.y - y))
        pitch = float(np.clip(np.degrees(np.arctan2(building.height_m / 2, away)), 0, 25))
        made.append(Picture(
            f"{folder}/{number + 1}.jpg", STREET, building.city, x, y, spec.size_px, spec.size_px,
            key=(5, int(label), number), heading_deg=heading, pitch_deg=pitch, altitude_m=1.7, fov_deg=70.0,
            split=split, place=label, epoch=spec.photo_epoch, target=(building.x, building.y),
        ))  # fmt: skip
    return made


def _masked_copies(
    spec: UniversitySpec, pictures: list[Picture], cities: list[CitySource], first: int
) -> list[Picture]:
    """Masked copies of the drone queries (and of the test gallery's tiles where wanted), and the distractors."""
    if not spec.distractors:
        return []
    made = []
    for number, picture in enumerate(pictures):
        flat = ""
        if spec.masked_gallery and picture.path.startswith("test/gallery_satellite/"):
            flat = f"test/gallery_satellite_160k/{masked_name(15, spec.seed, 160, number)}.jpg"
        elif picture.path.startswith("test/query_drone/"):
            flat = f"test/query_drone_160k/{masked_name(15, spec.seed, 160, number)}.jpeg"
        if flat:
            made.append(replace(picture, path=flat, split="160k"))
    share = -(-spec.distractors // len(_CAMPUSES))
    for k in range(len(_CAMPUSES)):
        count = min(share, spec.distractors - k * share)
        for number, (x, y) in enumerate(_distractors(cities[first + k], count)):
            name = masked_name(15, spec.seed, 161, first + k, number)
            made.append(Picture(
                f"test/gallery_satellite_160k/{name}.jpg", AERIAL, first + k, float(x), float(y), 2 * spec.size_px,
                2 * spec.size_px, side_m=_TILE_M, split="160k", epoch=spec.imagery_epoch,
            ))  # fmt: skip
    return made


def _distractors(city: CitySource, count: int) -> FloatArray:
    """Tile centres on streets south of the universities: float64[count, 2]."""
    if count <= 0:
        return np.zeros((0, 2))
    network = Network(city.seed, city.style)
    room = max(4000.0 * (count / _DISTRACTORS_PER_KM2) ** 0.5, 2000.0)
    _, places = grow(
        0.0, -GAP_M - room, count / _DISTRACTORS_PER_KM2,
        lambda b: _south_of(network, b, count),
    )  # fmt: skip
    return places


def _south_of(network: Network, bounds: Bounds, count: int) -> FloatArray:
    if bounds[3] > -GAP_M:
        raise ConfigError("The distractors would reach the universities; ask for fewer.")
    return street_places(network, bounds, count, _DISTRACTOR_SPACING_M, network.seed + 43)
