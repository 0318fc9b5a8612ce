"""Routes of photos on a small real index: over its tiles, and along a street graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geoloc import Localizer
from geoloc.core import geodesy
from geoloc.core.errors import QueryError
from geoloc.geometry.street_graph import MappedGraph, local_metres, neighbour_links
from geoloc.index.search.region import circle
from geoloc.localization.query_photos import Photo, photo
from geoloc.localization.routes.motion import Step


@pytest.fixture(scope="module")
def localizer(small_index: Any) -> Localizer:
    return Localizer.open(small_index.index, device="cpu")


def photo_of(small_index: Any, number: int) -> Photo:
    return photo(small_index.panoramas[number], view="panorama", heading_deg=0.0)


def chain(small_index: Any, count: int = 8) -> list[int]:
    """Tiles of a walk that goes to the nearest one that it has not visited."""
    walk = [0]
    while len(walk) < count:
        apart = geodesy.distance_m(
            small_index.lat, small_index.lon, small_index.lat[walk[-1]], small_index.lon[walk[-1]]
        )
        apart[walk] = np.inf
        walk.append(int(apart.argmin()))
    return walk


def steps_of(small_index: Any, walk: list[int]) -> list[Step]:
    lat, lon = np.asarray(small_index.lat)[walk], np.asarray(small_index.lon)[walk]
    moved = geodesy.distance_m(lat[:-1], lon[:-1], lat[1:], lon[1:])
    course = geodesy.heading_deg(lat[:-1], lon[:-1], lat[1:], lon[1:])
    ways = [Step(moved_m=float(m), course_deg=float(c)) for m, c in zip(moved, course, strict=True)]
    return [Step(), *ways]


def test_a_route_over_tiles_corrects_a_photo_that_shows_another_place(
    localizer: Localizer, small_index: Any
) -> None:
    walk = chain(small_index)
    photos = [photo_of(small_index, number) for number in walk]
    far = int(np.argmax(geodesy.distance_m(
        small_index.lat, small_index.lon, small_index.lat[walk[4]], small_index.lon[walk[4]]
    )))  # fmt: skip
    photos[4] = photo_of(small_index, far)
    found = localizer.localize_route(photos, steps_of(small_index, walk))
    assert found.located
    assert not found.calibrated
    assert [one.path_id for one in found.positions] == [small_index.tile_ids[number] for number in walk]
    for number, one in zip(walk, found.positions, strict=True):
        assert geodesy.distance_m(one.lat, one.lon, small_index.lat[number], small_index.lon[number]) < 15.0
    assert found.present.radius_m is not None
    assert found.snapshot_id == localizer.snapshot_id


def test_a_route_along_streets_names_the_places_of_the_graph(localizer: Localizer, small_index: Any) -> None:
    lat, lon = np.asarray(small_index.lat, float), np.asarray(small_index.lon, float)
    links = neighbour_links(*local_metres(lat, lon), 120.0)
    ids = [f"node {k}" for k in range(len(lat))]
    streets = MappedGraph.from_degrees(ids, lat, lon, np.full(len(lat), np.nan), links)
    walk = chain(small_index, 5)
    moved = steps_of(small_index, walk)
    found = localizer.localize_route([photo_of(small_index, k) for k in walk], moved, streets=streets)
    assert [one.path_id for one in found.positions] == [f"node {k}" for k in walk]


def test_an_emission_model_is_fitted_to_photos_of_known_position(
    localizer: Localizer, small_index: Any
) -> None:
    numbers = list(range(30))
    lat, lon = np.asarray(small_index.lat)[numbers], np.asarray(small_index.lon)[numbers]
    model = localizer.fit_route_emission([photo_of(small_index, k) for k in numbers], lat, lon)
    assert model.outlier < 0.2
    found = localizer.localize_route([photo_of(small_index, 3)], emission=model)
    assert found.calibrated
    assert found.present.path_id == small_index.tile_ids[3]


def test_routes_that_cannot_be_located_are_refused(localizer: Localizer, small_index: Any) -> None:
    with pytest.raises(QueryError, match="has no photo"):
        localizer.localize_route([])
    with pytest.raises(QueryError, match="has 1 photos and 2 steps"):
        localizer.localize_route([photo_of(small_index, 0)], [Step(), Step()])
    with pytest.raises(QueryError, match="No tile with coordinates lies in the area of the route"):
        localizer.localize_route([photo_of(small_index, 0)], region=circle(-33.0, 20.0, 100.0))
    lat, lon, yaw = np.full(2, -33.0), np.array([20.0, 20.0001]), np.full(2, np.nan)
    streets = MappedGraph.from_degrees(["a", "b"], lat, lon, yaw, np.array([[0, 1]]))
    with pytest.raises(QueryError, match="No place of the street graph has a tile within"):
        localizer.localize_route([photo_of(small_index, 0)], streets=streets)
