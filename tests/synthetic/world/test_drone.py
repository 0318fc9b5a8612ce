from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.caster import CROWN, GROUND, ROOF, WALL, cast
from geoloc.synthetic.world.drone import (
    FIRST_ALTITUDE_M,
    LAST_ALTITUDE_M,
    DronePose,
    drone_bounds,
    drone_view,
    render_drone,
    spiral,
)
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.weather import drone_look, lens_of, photo_jpeg
from synthetic.world.scenes import empty_window, plain_look, with_ground_spot
from synthetic.world.truth import in_aerial, in_drone

TARGET = (130.0, 120.0)
LOW = DronePose(120.0, 60.0, 90.0, 20.0, -58.0)


def test_the_spiral_descends_in_three_rounds_with_the_target_in_the_middle() -> None:
    poses = spiral(*TARGET)
    altitude = np.array([pose.altitude_m for pose in poses])
    assert len(poses) == 54
    assert (altitude[0], altitude[-1]) == (FIRST_ALTITUDE_M, LAST_ALTITUDE_M) == (256.0, 121.5)
    assert (np.diff(altitude) < 0).all()
    turned = np.diff(np.unwrap([pose.heading_deg for pose in poses], period=360))
    np.testing.assert_allclose(turned, 20.0)
    for pose in poses:
        place = in_drone(np.array([[*TARGET, 0.0]]), pose, size_px=512)
        np.testing.assert_allclose([place.column[0], place.row[0]], [256, 256], atol=1e-6)
        assert np.hypot(pose.x - TARGET[0], pose.y - TARGET[1]) == pytest.approx(pose.altitude_m)


def test_the_target_is_painted_in_the_middle_of_the_picture() -> None:
    """A red spot at the target: its centroid within a pixel of the middle, at the heights of a spiral scaled down."""
    window = with_ground_spot(5.0, -3.0, 1.7)
    for step in (0, 17, 40):
        full = spiral(5.0, -3.0)[step]
        pose = DronePose(
            5 + (full.x - 5) / 1.7, -3 + (full.y + 3) / 1.7, full.altitude_m / 1.7, full.heading_deg, -45
        )
        picture = render_drone(City(11), pose, plain_look(), size_px=200, fov_deg=20.0, window=window).astype(
            int
        )
        r, c = np.nonzero((picture[..., 0] > 1.7 * picture[..., 1]) & (picture[..., 0] > 60))
        assert len(r) > 20
        np.testing.assert_allclose([c.mean() + 0.5, r.mean() + 0.5], [100, 100], atol=1.0)


def test_straight_down_it_shows_what_the_imagery_shows(window: Window) -> None:
    """Each ground point and roof lies, by its pixel, on the imagery's pixel with the same building or none."""
    pose = DronePose(20.0, 220.0, 110.0, 0.0, -90.0)
    view = drone_view(pose, 160, 40.0)
    column, row = np.meshgrid(np.arange(160) + 0.5, np.arange(160) + 0.5)
    rays = view.directions(column.ravel(), row.ravel())
    hits = cast(window, np.array([pose.x, pose.y, pose.altitude_m]), rays, drone_look(1, 1))
    ahead = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    points = np.array([pose.x, pose.y, pose.altitude_m]) + ahead * hits.depth[:, None]
    back = in_drone(points, pose, size_px=160, fov_deg=40.0)
    np.testing.assert_allclose([back.column, back.row], [column.ravel(), row.ravel()], atol=1e-3)
    bounds = window.bounds
    place = in_aerial(points, bounds)
    shown = window.layers.building[place.row.astype(int), place.column.astype(int)]
    for kind in (GROUND, ROOF):
        of = hits.kind == kind
        expected = hits.item[of] if kind == ROOF else np.full(of.sum(), -1)
        assert of.mean() > 0.15
        assert (shown[of] == expected).mean() > 0.97  # outlines are painted on whole pixels
    assert {WALL, CROWN} <= set(hits.kind.tolist())


def test_the_picture_does_not_depend_on_the_window(city: City, window: Window) -> None:
    look = drone_look(2, 5)
    own = render_drone(city, LOW, look, size_px=96)
    assert own.shape == (96, 96, 3)
    np.testing.assert_array_equal(own, render_drone(City(seed=11), LOW, look, size_px=96, window=window))
    assert photo_jpeg(own, look) == photo_jpeg(own, look)
    assert 55 <= lens_of(look).quality <= 93


def test_one_window_serves_a_whole_spiral() -> None:
    areas = np.array([drone_bounds(pose) for pose in spiral(*TARGET)])
    west, south, east, north = *areas[:, :2].min(0), *areas[:, 2:].max(0)
    for pose in spiral(*TARGET)[::9]:
        area = drone_bounds(pose)
        assert area[0] >= west
        assert area[1] >= south
        assert area[2] <= east
        assert area[3] <= north


@pytest.mark.parametrize(("altitude", "pitch"), [(100.0, -10.0), (40.0, -80.0)])
def test_a_drone_that_sees_the_horizon_or_flies_among_roofs_is_refused(altitude: float, pitch: float) -> None:
    with pytest.raises(ConfigError, match=r"sees farther than 900 m or flies below 66 m; fly higher"):
        render_drone(City(11), DronePose(0.0, 0.0, altitude, 0.0, pitch), plain_look(), window=empty_window())
