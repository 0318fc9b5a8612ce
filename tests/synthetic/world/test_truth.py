"""One red building on flat ground, and one tree: every view must show them where the projections say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.cars import cars_on
from geoloc.synthetic.world.cloud import point_cloud
from geoloc.synthetic.world.drone import DronePose, drone_bounds, drone_view
from geoloc.synthetic.world.panorama import trace
from geoloc.synthetic.world.perspective import render_view
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.street import StreetCamera, street_bounds, street_view
from geoloc.synthetic.world.view_conditions import photo_look
from synthetic.world.scenes import corners_of, empty_window, grid, is_red, plain_look, with_building
from synthetic.world.truth import (
    Places,
    in_aerial,
    in_cloud,
    in_drone,
    in_map,
    in_panorama,
    in_street,
    seen_from,
    seen_from_above,
)

PLACES = [(15.0, 22.0, 30.0), (-28.0, 9.0, 75.0), (-20.0, -20.0, 45.0), (0.5, 40.0, 0.0)]
HERE = (0.0, 0.0)
LOOK = plain_look(sun_azimuth_deg=180.0)


def box(x: float, y: float, turn: float, wall: float = 9.0) -> np.ndarray:
    """The eight corners of the building, eaves first."""
    plan = np.array(corners_of(x, y, 6.0, 4.0, turn))
    return np.array([[*corner, z] for z in (wall, 0.0) for corner in plan])


def check_extent(mask: np.ndarray, column: np.ndarray, row: np.ndarray, tolerance: float = 1.5) -> None:
    """The red pixels fill the box around the projected corners, to `tolerance` pixels on each side."""
    rows, columns = np.nonzero(mask)
    seen = [columns.min(), columns.max() + 1, rows.min(), rows.max() + 1]
    np.testing.assert_allclose(seen, [column.min(), column.max(), row.min(), row.max()], atol=tolerance)


@pytest.mark.parametrize(("x", "y", "turn"), PLACES)
def test_a_building_in_a_panorama(x: float, y: float, turn: float) -> None:
    camera = Camera(height_px=128, width_px=512)
    heading = float(np.degrees(np.arctan2(x, y)))
    picture, _ = trace(with_building(x, y, 6.0, 4.0, turn, 9.0), HERE, LOOK, camera, heading)
    place = in_panorama(box(x, y, turn), HERE, camera, heading)
    assert place.inside.all()
    check_extent(is_red(picture), place.column, place.row, 2.0)


@pytest.mark.parametrize(("x", "y", "turn"), PLACES)
@pytest.mark.parametrize("tilt", [(0.0, 0.0), (6.0, -9.0)])
def test_a_building_in_a_street_photo(x: float, y: float, turn: float, tilt: tuple[float, float]) -> None:
    camera = StreetCamera(240, 180, 80.0, tilt[0], tilt[1])
    heading = float(np.degrees(np.arctan2(x, y))) + 4
    window = with_building(x, y, 6.0, 4.0, turn, 9.0)
    view = street_view(HERE, camera, heading)
    picture = render_view(window, street_bounds(HERE), view, LOOK, reach_m=130.0)
    place = in_street(box(x, y, turn), HERE, camera, heading)
    assert place.inside.all()
    check_extent(is_red(picture), place.column, place.row)


@pytest.mark.parametrize(("x", "y", "turn"), PLACES)
def test_a_building_in_a_drone_photo(x: float, y: float, turn: float) -> None:
    pose = DronePose(x - 40.0, y - 30.0, 90.0, 53.0, -61.0)
    window = with_building(x, y, 6.0, 4.0, turn, 9.0)
    bounds = drone_bounds(pose, 34.0)
    picture = render_view(window, bounds, drone_view(pose, 256, 34.0), LOOK, reach_m=900.0)
    place = in_drone(box(x, y, turn), pose, size_px=256, fov_deg=34.0)
    assert place.inside.all()
    check_extent(is_red(picture), place.column, place.row)


@pytest.mark.parametrize(("x", "y", "turn"), PLACES)
def test_a_building_in_the_imagery_and_in_the_cloud(city: City, x: float, y: float, turn: float) -> None:
    bounds = (-40.0, -40.0, 60.0, 60.0)
    window = with_building(x, y, 6.0, 4.0, turn, 9.0)
    picture = render_aerial(city, bounds, look=LOOK, window=window)
    place = in_aerial(box(x, y, turn), bounds)
    assert place.inside.all()
    check_extent(is_red(picture), place.column, place.row)
    points, classes = point_cloud(city, bounds, points_per_m2=2.0, window=window)
    local, inside = in_cloud(box(x, y, turn), bounds)
    assert inside.all()
    of_it = points[classes == 4]
    np.testing.assert_allclose(of_it.min(0), local.min(0), atol=0.8)
    np.testing.assert_allclose(of_it.max(0), local.max(0), atol=0.8)


def test_a_lone_tree_is_where_the_views_say(city: City) -> None:
    """A crown of 3 m radius from 3 to 8 m above (12, 25): its extent within 2 pixels in four views."""
    window = empty_window()
    east, north = grid(window)
    crown = np.hypot(east - 12.0, north - 25.0) < 3.0
    window.layers.canopy_dm[crown], window.layers.under_dm[crown] = 80, 30
    window.layers.hue[crown] = 120
    turn = np.linspace(0, 2 * np.pi, 24)
    rim = np.array([[12 + 3 * np.sin(a), 25 + 3 * np.cos(a), z] for a in turn for z in (3.0, 8.0)])
    look = replace(LOOK, sun_elevation_deg=60.0)

    def check(picture: np.ndarray, place: Places) -> None:
        level = picture.astype(int)
        green = (level[..., 1] > level[..., 2] + 12) & (level[..., 1] > level[..., 0])
        check_extent(green, place.column, place.row, 2.0)

    camera = Camera(height_px=128, width_px=512)
    check(trace(window, HERE, look, camera, 0.0)[0], in_panorama(rim, HERE, camera))
    street = StreetCamera(240, 180, 80.0)
    view = street_view(HERE, street, 20.0)
    photo = render_view(window, street_bounds(HERE), view, look, reach_m=130.0)
    check(photo, in_street(rim, HERE, street, 20.0))
    bounds = (-8.0, 5.0, 32.0, 45.0)
    check(render_aerial(city, bounds, look=look, window=window), in_aerial(rim, bounds))
    pose = DronePose(12.0, 25.0, 90.0, 70.0, -90.0)
    down = render_view(window, drone_bounds(pose, 30.0), drone_view(pose, 160, 30.0), look, reach_m=900.0)
    check(down, in_drone(rim, pose, size_px=160, fov_deg=30.0))


def test_cars_lie_where_the_projections_put_their_boxes(city: City, window: Window) -> None:
    """Pixels that a picture loses with its traffic are within 1.5 pixels of the boxes of the cars that can be seen."""
    busy = replace(photo_look(3, 1), traffic=0.4, sun_azimuth_deg=180.0, sun_elevation_deg=50.0)
    empty = replace(busy, traffic=0.0)
    bounds = (60.0, 60.0, 188.0, 188.0)
    pictures = [render_aerial(city, bounds, look=look, window=window).astype(int) for look in (busy, empty)]
    changed = np.abs(pictures[0] - pictures[1]).max(-1) > 4
    cars = cars_on(window.edges, busy)
    middle = np.column_stack([cars.centre, cars.height_m])
    place = in_aerial(middle, bounds)
    shown = place.inside & seen_from_above(window, middle)
    assert shown.sum() > 8
    assert changed[place.row[shown].astype(int), place.column[shown].astype(int)].mean() > 0.9
    r, c = np.nonzero(changed)
    away = np.hypot(c[:, None] + 0.5 - place.column, r[:, None] + 0.5 - place.row).min(1)
    assert away.max() * 0.4 < 4.0  # a car is 5 m long
    here, camera = (120.0, 90.0), StreetCamera(320, 200, 90.0)
    eye = (*here, camera.camera_m)
    found = []
    for heading in (0.0, 90.0, 180.0, 270.0):
        view = street_view(here, camera, heading)
        pair = [
            render_view(window, street_bounds(here), view, look, reach_m=130.0, clear_m=3.5)
            for look in (busy, empty)
        ]
        changed = np.abs(pair[0] - pair[1]).max(-1) > 2
        waist = np.column_stack([cars.centre, 0.5 * cars.height_m])
        place = in_street(waist, here, camera, heading)
        away = np.hypot(cars.centre[:, 0] - here[0], cars.centre[:, 1] - here[1])
        shown = place.inside & (away < 40) & (away > 3.5)
        shown[shown] = seen_from(window, eye, waist[shown], empty)
        found += changed[place.row[shown].astype(int), place.column[shown].astype(int)].tolist()
    assert len(found) > 5
    assert np.mean(found) > 0.95


def test_maps_and_imagery_share_their_coordinates() -> None:
    points = np.random.default_rng(0).uniform(0, 50, (20, 3))
    one = in_map(points, 25.0, 25.0, side_m=50.0, size_px=125)
    two = in_aerial(points, (0.0, 0.0, 50.0, 50.0), 0.4)
    np.testing.assert_allclose([one.column, one.row], [two.column, two.row])


def test_a_wall_hides_what_is_behind_it() -> None:
    window = with_building(0.0, 20.0, 8.0, 4.0, 0.0, 12.0)
    points = np.array([[0.0, 10.0, 0.0], [0.0, 16.0, 5.0], [0.0, 30.0, 1.0], [0.0, 40.0, 40.0]])
    seen = seen_from(window, (0.0, 0.0, 2.0), points, plain_look())
    np.testing.assert_array_equal(seen, [True, True, False, True])
    above = seen_from_above(
        window, np.array([[0.0, 10.0, 0.0], [0.0, 20.0, 5.0], [0.0, 20.0, 12.0], [900.0, 0.0, 0.0]])
    )
    np.testing.assert_array_equal(above, [True, False, True, False])
