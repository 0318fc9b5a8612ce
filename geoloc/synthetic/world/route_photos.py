"""Routes of the data set: photos of limited view along the streets of a district, with a rough odometer.

A camera drives along a walk through the street graph and looks ahead, in the right lane. Its photos lie anywhere
between the nodes of the graph. All photos of a route share weather, season and lens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.geometry.street_graph import StreetGraph
from geoloc.synthetic.world.districts import District, Photo
from geoloc.synthetic.world.noise import generator
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.routes import random_routes, street_graph
from geoloc.synthetic.world.street import StreetCamera, render_street
from geoloc.synthetic.world.weather import photo_jpeg, street_look

_LANE_M = 1.6
_SHORT_PIECE_M = 8.0  # streets are cut into pieces of about 12 m; the shortest are longer than this
_SPACING_SHARE = 0.25
_ODOMETER_SHARE = 0.1
_TURN_SD_DEG = 8.0
_AIM_SD_DEG = 4.0
_LOOK = 7  # of the keys of looks: no other photo of a district has it


@dataclass(frozen=True)
class RouteSettings:
    """How many routes a district has, their photos, the metres between two photos, and the camera."""

    routes: int = 0
    photos: int = 20
    spacing_m: float = 12.0
    camera: StreetCamera = field(default_factory=lambda: StreetCamera(320, 240, 90.0))


@dataclass(frozen=True)
class RoutePhoto(Photo):
    """A photo of a route. moved_m, turn_deg: of the way from the photo before by the odometer, None of a first photo.

    Convention: `heading_deg` clockwise from grid north; a positive turn is to the right.
    """

    route_id: str
    step: int
    moved_m: float | None
    turn_deg: float | None


@dataclass(frozen=True)
class DistrictRoutes:
    """The streets of a district as a graph, in city metres, and the photos of its routes in order."""

    streets: StreetGraph
    photos: list[RoutePhoto]


def plan_routes(city: City, district: District, settings: RouteSettings, margin_m: float) -> DistrictRoutes:
    """Routes through a district, `margin_m` inside its bounds; they follow from the city's seed and the settings.

    Raises `ConfigError` where the district holds no such long way.
    """
    west, south, east, north = district.bounds
    inner = (west + margin_m, south + margin_m, east - margin_m, north - margin_m)
    streets = street_graph(city.network, inner, seed=city.seed).largest_part()
    longest_m = settings.photos * settings.spacing_m * (1.0 + _SPACING_SHARE)
    nodes = math.ceil(longest_m / _SHORT_PIECE_M) + 1
    walks = random_routes(streets, settings.routes, nodes, city.seed)
    photos = [
        photo
        for number, walk in enumerate(walks)
        for photo in _drive(city.seed, district.name, number, streets, walk, settings)
    ]
    return DistrictRoutes(streets, photos)


def _drive(
    seed: int, split: str, number: int, streets: StreetGraph, walk: IntArray, settings: RouteSettings
) -> list[RoutePhoto]:
    """The photos of one route along a walk int64[M] of nodes."""
    rng = generator(seed + 43, len(split), number)
    gaps = settings.spacing_m * rng.uniform(1 - _SPACING_SHARE, 1 + _SPACING_SHARE, settings.photos)
    x, y, course_deg = _along(np.stack([streets.x, streets.y], -1)[walk], np.cumsum(gaps))
    measured_m = gaps * (1 + _ODOMETER_SHARE * rng.normal(size=len(gaps)))
    turn_deg = np.diff(course_deg, prepend=course_deg[0]) + _TURN_SD_DEG * rng.normal(size=len(gaps))
    turn_deg = (turn_deg + 180) % 360 - 180
    heading_deg = (course_deg + _AIM_SD_DEG * rng.normal(size=len(gaps))) % 360
    folder = f"{split}/routes/photos"
    return [
        RoutePhoto(
            f"{number:04d}-{step:03d}.jpg", folder, float(x[step]), float(y[step]), float(heading_deg[step]),
            (_LOOK + len(split), number), f"{number:04d}", step,
            float(measured_m[step]) if step else None, float(turn_deg[step]) if step else None,
        )
        for step in range(settings.photos)
    ]  # fmt: skip


def _along(nodes: FloatArray, at_m: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x, y, course in degrees, float64[K] each, in the right lane at metres float64[K] along nodes float64[M, 2].

    Convention: x east, y north; the course is clockwise from north.
    """
    step = np.diff(nodes, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    reached = np.concatenate([[0.0], np.cumsum(length)])
    piece = np.clip(np.searchsorted(reached, at_m, side="right") - 1, 0, len(step) - 1)
    east, north = (step[piece] / length[piece, None]).T
    x, y = (np.interp(at_m, reached, nodes[:, axis]) for axis in range(2))
    return x + _LANE_M * north, y - _LANE_M * east, np.degrees(np.arctan2(east, north)) % 360


def render_route_photo(
    city: City, photo: RoutePhoto, camera: StreetCamera, window: Window | None = None
) -> bytes:
    """A photo of a route as JPEG bytes.

    Convention: as `render_street`; the photo's heading is from grid north.
    """
    look = street_look(city.seed, *photo.key)
    picture = render_street(
        city, (photo.x, photo.y), look, camera, heading_deg=photo.heading_deg, window=window
    )
    return photo_jpeg(picture, look)
