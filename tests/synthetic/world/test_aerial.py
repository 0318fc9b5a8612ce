from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from geoloc.synthetic.world.aerial import render_aerial, shadows
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.view_conditions import flight_look, photo_look
from synthetic.world.scenes import (
    HALF_M,
    corners_of,
    grid,
    is_red,
    plain_look,
    with_building,
    with_ground_spot,
)

BOX = (-8.0, -8.0, 8.0, 8.0)


def test_a_building_lies_where_its_corners_are(city: City) -> None:
    """Within a pixel (0.4 m) of the exact rectangle."""
    x, y, half_u, half_v, turn = 3.0, -5.0, 9.0, 4.0, 30.0
    window = with_building(x, y, half_u, half_v, turn, 6.0)
    picture = render_aerial(
        city, (-20.0, -20.0, 20.0, 20.0), look=plain_look(sun_azimuth_deg=180.0), window=window
    )
    r, c = np.nonzero(is_red(picture))
    east, north = -20 + (c + 0.5) * 0.4, 20 - (r + 0.5) * 0.4
    corners = np.array(corners_of(x, y, half_u, half_v, turn))
    np.testing.assert_allclose([east.mean(), north.mean()], [x, y], atol=0.1)
    np.testing.assert_allclose([east.min(), north.min()], corners.min(0), atol=0.6)
    np.testing.assert_allclose([east.max(), north.max()], corners.max(0), atol=0.6)


@pytest.mark.parametrize(("x", "y"), [(6.0, 3.0), (-9.0, 4.0), (2.4, -8.0)])
def test_a_spot_on_the_ground_lies_at_its_coordinates(city: City, x: float, y: float) -> None:
    look = plain_look(sun_azimuth_deg=180.0)
    picture = render_aerial(city, (-20.0, -20.0, 20.0, 20.0), look=look, window=with_ground_spot(x, y, 0.8))
    r, c = np.nonzero(is_red(picture))
    np.testing.assert_allclose([-20 + (c.mean() + 0.5) * 0.4, 20 - (r.mean() + 0.5) * 0.4], [x, y], atol=0.21)


@pytest.mark.parametrize("azimuth", [145.0, 180.0, 210.0])
def test_shadows_have_the_direction_and_length_of_the_sun(azimuth: float) -> None:
    """A post of 12 m: its shadow's end within a metre."""
    window = with_building(0.0, 0.0, 0.6, 0.6, 0.0, 12.0)
    look = plain_look(sun_azimuth_deg=azimuth, sun_elevation_deg=45.0)
    east, north = (np.broadcast_to(v, (700, 700)) for v in grid(window))
    dark = shadows(window, look)
    far = np.hypot(east, north)[dark].argmax()
    away = math.radians(azimuth + 180)
    np.testing.assert_allclose(
        [east[dark][far], north[dark][far]], [12 * math.sin(away), 12 * math.cos(away)], atol=1.0
    )


def test_the_longest_shadow_stays_within_the_margin() -> None:
    window = with_building(0.0, -60.0, 3.0, 3.0, 0.0, 59.0)
    east, north = (np.broadcast_to(v, (700, 700)) for v in grid(window))
    for flight in range(40):
        dark = shadows(window, flight_look(1, flight))
        assert np.hypot(east, north + 60)[dark].max() < 125
    assert HALF_M > 125


def test_neighbouring_pictures_join_without_a_seam(city: City, window: Window) -> None:
    look = flight_look(2, 1)
    whole = render_aerial(city, (0.0, 0.0, 256.0, 128.0), look=look, window=window)
    parts = [render_aerial(city, (x, 0.0, x + 128.0, 128.0), look=look) for x in (0.0, 128.0)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), whole)
    north_south = [render_aerial(city, (0.0, y, 128.0, y + 64.0), look=look) for y in (64.0, 0.0)]
    np.testing.assert_array_equal(np.concatenate(north_south), parts[0])


def test_coarser_and_finer_pictures_cover_the_same_ground(city: City, window: Window) -> None:
    bounds, look = (20.0, 20.0, 84.0, 84.0), flight_look(2, 1)
    fine = render_aerial(city, bounds, look=look, window=window)
    coarse = render_aerial(city, bounds, 0.8, look, window=window)
    assert fine.shape == (160, 160, 3)
    assert coarse.shape == (80, 80, 3)
    mean = fine.reshape(80, 2, 80, 2, 3).mean((1, 3))
    assert np.abs(mean - coarse).max() <= 1
    assert render_aerial(city, bounds, 0.2, look, window=window).shape == (320, 320, 3)


def test_cars_and_marks_differ_between_flights_and_photos(city: City, window: Window) -> None:
    look = flight_look(2, 1)
    bounds = (0.0, 0.0, 240.0, 240.0)
    one = render_aerial(city, bounds, look=look, window=window).astype(int)
    two = render_aerial(city, bounds, look=replace(look, seed=look.seed + 1), window=window).astype(int)
    changed = np.abs(one - two).max(-1) > 20
    assert 0.003 < changed.mean() < 0.2  # cars and marks only
    strong = [photo_look(2, k).marking_colours[1] for k in range(2)]
    assert (np.abs(strong[0] - strong[1]) > 0.2).mean() > 0.2
