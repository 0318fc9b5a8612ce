"""Routes of the data set: where their photos lie, what the odometer says, and that the seed decides."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from geoloc.core.geodesy import distance_m
from geoloc.geometry.street_graph import StreetGraph
from geoloc.sources.street_graphs import read_streets
from geoloc.stages.localize_routes import list_routes
from geoloc.synthetic.world.districts import District
from geoloc.synthetic.world.export import route_tables
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.route_photos import DistrictRoutes, RouteSettings, plan_routes, render_route_photo
from geoloc.synthetic.world.street import StreetCamera

SETTINGS = RouteSettings(3, 15, 12.0, StreetCamera(48, 36, 90.0))


def district(name: str = "test") -> District:
    return District(name, (0.0, 0.0, 768.0, 768.0), [], [], [], [], [])


@pytest.fixture(scope="module")
def planned(city: City) -> DistrictRoutes:
    return plan_routes(city, district(), SETTINGS, 64.0)


def from_streets_m(streets: StreetGraph, point: np.ndarray) -> float:
    """Distance of a point float64[2] from the nearest link, by brute force."""
    nodes = np.stack([streets.x, streets.y], -1)
    a, b = nodes[streets.links[:, 0]], nodes[streets.links[:, 1]]
    share = np.clip(((point - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1), 0, 1)
    return float(np.linalg.norm(point - a - share[:, None] * (b - a), axis=-1).min())


def test_photos_lie_in_the_right_lane_about_as_far_apart_as_the_spacing(planned: DistrictRoutes) -> None:
    assert [(photo.route_id, photo.step) for photo in planned.photos] == [
        (f"{route:04d}", step) for route in range(3) for step in range(15)
    ]
    for route in range(3):
        photos = planned.photos[15 * route : 15 * route + 15]
        place = np.array([[photo.x, photo.y] for photo in photos])
        assert max(from_streets_m(planned.streets, point) for point in place) <= 1.6 + 1e-9
        apart = np.linalg.norm(np.diff(place, axis=0), axis=-1)
        assert 11.0 - 2 < np.median(apart) < 11.0 + 3
        assert apart.max() < 1.25 * 12 + 3.3  # the lane makes the outer side of a corner longer
        moved = np.array([photo.moved_m for photo in photos[1:]])
        assert 0.03 < np.abs(moved / apart - 1).mean() < 0.3
        assert (photos[0].moved_m, photos[0].turn_deg) == (None, None)
        # The camera looks where it drives, except beside a corner.
        course = np.degrees(np.arctan2(*np.diff(place, axis=0).T))
        heading = np.array([photo.heading_deg for photo in photos[1:]])
        off = np.abs((heading - course + 180) % 360 - 180)
        assert np.median(off) < 12


def test_the_seed_decides_and_districts_differ(city: City, planned: DistrictRoutes) -> None:
    assert plan_routes(city, district(), SETTINGS, 64.0).photos == planned.photos
    other = plan_routes(city, district("validation"), SETTINGS, 64.0).photos
    assert {photo.key for photo in other}.isdisjoint({photo.key for photo in planned.photos})
    photo = planned.photos[0]
    picture = render_route_photo(city, photo, SETTINGS.camera)
    assert picture == render_route_photo(city, photo, SETTINGS.camera)
    assert picture != render_route_photo(city, planned.photos[-1], SETTINGS.camera)


def test_the_tables_are_what_localize_reads_and_hide_the_heading(
    planned: DistrictRoutes, tmp_path: Path
) -> None:
    for name, content in route_tables(planned, 90.0).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "photos").mkdir()
    for photo in planned.photos:
        (tmp_path / "photos" / photo.name).write_bytes(b"")
    routes = list_routes(str(tmp_path))
    assert [len(route) for route in routes] == [15] * 3
    assert all(entry.problem is None and entry.heading_deg is None for route in routes for entry in route)
    entry, photo = routes[1][4], planned.photos[19]
    assert entry.way is not None
    assert entry.way.moved_m == pytest.approx(photo.moved_m, abs=1e-3)
    assert entry.way.turn_deg == pytest.approx(photo.turn_deg, abs=1e-3)
    assert (entry.fov_deg, entry.view) == (90.0, "street")

    streets = read_streets(str(tmp_path / "streets.csv"))
    assert streets.graph.links.tolist() == planned.streets.links.tolist()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "photos.csv").read_text())))
    truth = list(csv.DictReader(io.StringIO((tmp_path / "truth.csv").read_text())))
    assert [row["photo"] for row in rows] == [row["photo"] for row in truth]
    for number in (0, 19, 44):
        nearest = int(np.hypot(planned.streets.x - planned.photos[number].x,
                               planned.streets.y - planned.photos[number].y).argmin())  # fmt: skip
        apart = distance_m(
            float(rows[number]["lat"]), float(rows[number]["lon"]), streets.lat[nearest], streets.lon[nearest]
        )
        assert float(apart) < 9.0
