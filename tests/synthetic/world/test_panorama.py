from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.panorama import render_panorama, trace
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.view_conditions import photo_look
from synthetic.world.scenes import (
    corners_of,
    empty_window,
    is_red,
    plain_look,
    with_building,
    with_ground_spot,
)

CAMERA = Camera(height_px=128, width_px=512)
STEP_DEG = 360 / CAMERA.width_px
ROW_DEG = (CAMERA.top_deg - CAMERA.bottom_deg) / CAMERA.height_px
PLACES = [(15.0, 22.0, 30.0), (-28.0, 9.0, 75.0), (6.0, -33.0, 10.0), (-20.0, -20.0, 45.0), (0.5, 40.0, 0.0)]


def azimuth_of(x: float, y: float) -> float:
    """Clockwise from north, in (-180, 180]."""
    return math.degrees(math.atan2(x, y))


def spread_deg(angles: list[float], around: float) -> tuple[float, float]:
    """Least and greatest of angles, measured from a direction."""
    turned = [(a - around + 180) % 360 - 180 for a in angles]
    return min(turned), max(turned)


def columns_deg(mask: np.ndarray, around: float) -> np.ndarray:
    """Azimuths of the columns with a set pixel, measured from a direction."""
    column = np.nonzero(mask.any(0))[0]
    azimuth = (column + 0.5) * STEP_DEG - 180
    return np.asarray((azimuth - around + 180) % 360 - 180)


@pytest.mark.parametrize(("x", "y", "turn"), PLACES)
def test_a_building_appears_where_trigonometry_says(x: float, y: float, turn: float) -> None:
    """Width within one column and a half on each side, height within one row and a half."""
    window = with_building(x, y, 6.0, 4.0, turn, 9.0)
    picture, _ = trace(window, (0.0, 0.0), plain_look(), CAMERA, 0.0)
    mask = is_red(picture)
    middle = azimuth_of(x, y)
    seen = columns_deg(mask, middle)
    low, high = spread_deg([azimuth_of(*corner) for corner in corners_of(x, y, 6.0, 4.0, turn)], middle)
    assert abs(seen.min() - low) < 1.5 * STEP_DEG
    assert abs(seen.max() - high) < 1.5 * STEP_DEG
    nearest = min(math.hypot(*corner) for corner in corners_of(x, y, 6.0, 4.0, turn))
    column = int((middle + 180) / STEP_DEG) % CAMERA.width_px
    rows = np.nonzero(mask[:, column])[0]
    top = CAMERA.top_deg - (rows.min() + 0.5) * ROW_DEG
    farthest = math.hypot(x, y)
    assert math.degrees(math.atan2(7.0, farthest)) - 1.5 * ROW_DEG < top
    assert top < math.degrees(math.atan2(7.0, nearest - 0.5)) + 1.5 * ROW_DEG


@pytest.mark.parametrize(
    ("x", "y"), [(6.0, 3.0), (-9.0, 4.0), (2.5, -8.0), (-5.0, -5.0), (0.0, 14.0), (25.0, -9.0)]
)
def test_a_spot_on_the_ground_appears_where_trigonometry_says(x: float, y: float) -> None:
    """Every red pixel, put back on the ground: the middle of them within 0.3 m, or a row's depth if that is more."""
    picture, depth = trace(with_ground_spot(x, y, 0.8), (0.0, 0.0), plain_look(), CAMERA, 0.0)
    rows, columns = np.nonzero(is_red(picture))
    azimuth = np.radians((columns + 0.5) * STEP_DEG - 180)
    distance = 2.0 / np.tan(np.radians((rows + 0.5) * ROW_DEG - CAMERA.top_deg))
    east, north = distance * np.sin(azimuth), distance * np.cos(azimuth)
    tolerance = max(0.3, math.hypot(x, y) ** 2 / 2 * math.radians(ROW_DEG))
    assert abs((east.min() + east.max()) / 2 - x) < tolerance
    assert abs((north.min() + north.max()) / 2 - y) < tolerance
    np.testing.assert_allclose(depth[2 * rows, 2 * columns], distance, rtol=0.1)


def test_the_camera_position_moves_the_view() -> None:
    window = with_ground_spot(10.0, 20.0, 0.8)
    picture, _ = trace(window, (10.0, 12.0), plain_look(), CAMERA, 0.0)
    assert abs(columns_deg(is_red(picture), 0.0)).max() < 7  # due north of the camera now


@pytest.mark.parametrize("heading", [90.0, 180.0, 247.5, -45.0])
def test_turning_the_camera_rolls_the_panorama(window: Window, heading: float) -> None:
    look = photo_look(4, 4)
    ahead, _ = trace(window, (100.0, 100.0), look, CAMERA, 0.0)
    turned, _ = trace(window, (100.0, 100.0), look, CAMERA, heading)
    shift = round(heading / STEP_DEG)
    rolled = np.roll(ahead, -shift, axis=1)  # what lay `heading` to the right is now in the middle
    different = np.abs(rolled.astype(int) - turned).max(-1) > 2
    assert different.mean() < 0.004  # rays that graze a texel's edge


def test_empty_ground_shows_sky_above_the_horizon_and_ground_below() -> None:
    picture, depth = trace(empty_window(), (0.0, 0.0), plain_look(), CAMERA, 0.0)
    horizon = CAMERA.top_deg / ROW_DEG
    assert np.isinf(depth[: int(2 * horizon) - 4]).all()
    below = depth[int(2 * horizon) + 4 :]
    elevation = np.radians(CAMERA.top_deg - (np.arange(len(depth)) + 0.5) * ROW_DEG / 2)[
        int(2 * horizon) + 4 :
    ]
    np.testing.assert_allclose(below, np.repeat((-2.0 / np.tan(elevation))[:, None], 1024, 1), rtol=1e-4)
    assert abs(int(picture[-1].astype(int).max()) - 90) < 12


def test_a_wall_hides_what_is_behind_it_and_nothing_in_front() -> None:
    window = with_building(0.0, 20.0, 8.0, 4.0, 0.0, 12.0)
    _, depth = trace(window, (0.0, 0.0), plain_look(), CAMERA, 0.0)
    middle = depth[:, 512]
    wall = np.abs(middle - 16.0) < 0.3
    assert wall.sum() > 100
    assert np.isinf(middle[: np.nonzero(wall)[0].min() - 2]).all()
    assert (middle[np.nonzero(wall)[0].max() + 1 :] < 16.5).all()


def test_the_same_photo_has_the_same_bytes_with_any_window(city: City, window: Window) -> None:
    look = photo_look(3, 1)
    for place in ((120.0, 90.0), (60.3, 200.7)):
        own = render_panorama(city, place, look)
        assert own.shape == (64, 256, 3)
        np.testing.assert_array_equal(own, render_panorama(City(seed=11), place, look, window=window))


def test_two_looks_at_one_place_differ_in_colour_but_not_in_depth(window: Window) -> None:
    looks = [replace(photo_look(3, k), traffic=0.0) for k in (1, 2)]
    pictures, depths = zip(*(trace(window, (120.0, 90.0), look, CAMERA, 0.0) for look in looks), strict=True)
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 4
    np.testing.assert_array_equal(depths[0], depths[1])
