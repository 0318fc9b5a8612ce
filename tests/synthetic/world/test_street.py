from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.caster import CROWN, cast
from geoloc.synthetic.world.panorama import trace
from geoloc.synthetic.world.perspective import View, render_view
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.street import StreetCamera, render_street, street_bounds, street_view
from geoloc.synthetic.world.weather import street_look, weather_of
from synthetic.world.scenes import empty_window, plain_look
from synthetic.world.truth import in_panorama, in_street

HERE = (120.0, 90.0)
SMALL = StreetCamera(96, 72, 70.0, 3.0, -4.0)


@given(st.floats(0, 360), st.floats(-60, 60), st.floats(-40, 40), st.floats(20, 120))
def test_a_view_turns_as_rotations_say(heading: float, pitch: float, roll: float, fov: float) -> None:
    """Against rotation matrices: camera axes x right, y down, z ahead; roll, then pitch, then heading."""
    view = View(1.0, 2.0, 3.0, heading, pitch, roll, fov, 320, 200)
    level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # right is east, ahead is north, down is -up
    turn = Rotation.from_euler("z", -heading, degrees=True) * Rotation.from_euler("x", pitch, degrees=True)
    turn = turn * Rotation.from_euler("y", roll, degrees=True)
    camera = np.random.default_rng(1).uniform([-1, -1, 1], [1, 1, 9], (12, 3))
    points = turn.apply(camera @ level.T) + np.array([1.0, 2.0, 3.0])
    focal = 160 / np.tan(np.radians(fov / 2))
    column, row, _ = view.project(points)
    np.testing.assert_allclose(column, 160 + focal * camera[:, 0] / camera[:, 2], atol=1e-6)
    np.testing.assert_allclose(row, 100 + focal * camera[:, 1] / camera[:, 2], atol=1e-6)
    back = view.directions(column, row)
    ahead = points - (1.0, 2.0, 3.0)
    cosine = (back * ahead).sum(1) / np.linalg.norm(back, axis=1) / np.linalg.norm(ahead, axis=1)
    np.testing.assert_allclose(cosine, 1, atol=1e-12)


def test_points_behind_the_camera_are_not_in_the_picture() -> None:
    place = in_street(np.array([[0.0, -5.0, 1.7], [0.0, 5.0, 1.7]]), (0.0, 0.0), StreetCamera(), 0.0)
    np.testing.assert_array_equal(place.inside, [False, True])
    assert np.isnan(place.column[0])
    np.testing.assert_allclose([place.column[1], place.row[1]], [256, 192])


def test_the_picture_does_not_depend_on_the_window(city: City, window: Window) -> None:
    look = street_look(2, 5)
    own = render_street(city, HERE, look, SMALL, heading_deg=77.0)
    assert own.shape == (72, 96, 3)
    other = render_street(City(seed=11), HERE, look, SMALL, heading_deg=77.0, window=window)
    np.testing.assert_array_equal(own, other)


def test_a_photo_is_a_resampled_panorama(window: Window) -> None:
    """Distances of the photo's pixels and the panorama's, beyond leaves and outlines: 98 % within 1 m or 3 %."""
    camera, look = Camera(camera_m=1.7, height_px=96, width_px=512), replace(street_look(2, 5), traffic=0.0)
    _, depth = trace(window, HERE, look, camera, 0.0)
    depth = np.where(np.isfinite(depth), depth, 1e6)
    for heading, pitch, roll in ((10.0, 0.0, 0.0), (200.0, 5.0, 8.0)):
        view = street_view(HERE, StreetCamera(96, 72, 60.0, pitch, roll), heading)
        column, row = np.meshgrid(np.arange(96) + 0.5, np.arange(72) + 0.5)
        rays = view.directions(column.ravel(), row.ravel())
        hits = cast(window, np.array([*HERE, 1.7]), rays, look, reach_m=128.0)
        ahead = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        place = in_panorama(np.array([*HERE, 1.7]) + 50 * ahead, HERE, camera)
        seen = place.inside & np.isfinite(hits.depth) & (hits.kind != CROWN)
        r, c = (2 * place.row[seen]).astype(int), (2 * place.column[seen]).astype(int)
        other = depth[r, c]
        smooth = np.abs(depth[np.clip(r + 1, 0, 191), c] - depth[np.clip(r - 1, 0, 191), c]) < 0.1 * other
        smooth &= np.abs(depth[r, (c + 1) % 1024] - depth[r, c - 1]) < 0.1 * other
        flat = (hits.depth * np.hypot(ahead[:, 0], ahead[:, 1]))[seen]
        solid = smooth & (other < 90)
        assert solid.mean() > 0.4
        assert (np.abs(flat[solid] - other[solid]) < np.maximum(1.0, 0.03 * other[solid])).mean() > 0.98


def test_a_ring_of_photos_covers_what_the_panorama_sees() -> None:
    rng = np.random.default_rng(2)
    azimuth, rise = rng.uniform(0, 2 * np.pi, 500), rng.uniform(-0.3, 0.3, 500)
    points = 30 * np.stack([np.sin(azimuth), np.cos(azimuth), rise], -1) + (*HERE, 1.7)
    camera = StreetCamera(fov_deg=64.0)
    ring = [in_street(points, HERE, camera, heading).inside for heading in range(0, 360, 60)]
    assert in_panorama(points, HERE, Camera(camera_m=1.7)).inside.all()
    assert np.any(ring, 0).all()
    assert (np.sum(ring, 0) <= 2).all()


def test_a_turned_camera_sees_the_same_things_elsewhere(window: Window) -> None:
    """A panned photo is the first one moved: points of both views project to colours that agree."""
    look = replace(street_look(2, 5), traffic=0.0)
    camera = StreetCamera(160, 120, 80.0)
    one, two = (
        render_view(window, street_bounds(HERE), street_view(HERE, camera, h), look, reach_m=130.0)
        for h in (30.0, 50.0)
    )
    view = street_view(HERE, camera, 50.0)
    column, row = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    far = np.array([*HERE, 1.7]) + 80 * view.directions(column, row) / view.focal_px
    place = in_street(far.reshape(-1, 3), HERE, camera, 30.0)
    a = one[place.row[place.inside].astype(int), place.column[place.inside].astype(int)]
    b = two.reshape(-1, 3)[place.inside]
    assert place.inside.mean() > 0.4
    assert np.median(np.abs(a - b).max(-1)) < 3
    assert (np.abs(a - b).max(-1) < 30).mean() > 0.85


def test_weather_is_drawn_from_the_look_alone_and_differs() -> None:
    looks = [street_look(7, k) for k in range(60)]
    weathers = [weather_of(look) for look in looks]
    assert weather_of(looks[3]).seed == weathers[3].seed
    grey = np.mean([weather.overcast > 0.5 for weather in weathers])
    assert 0.1 < grey < 0.45
    assert min(w.visibility_m for w in weathers) < 430 < 900 < max(w.visibility_m for w in weathers)
    assert min(look.sun_elevation_deg for look in looks) < 16


@pytest.mark.parametrize("fov", [3.0, 170.0, float("nan")])
def test_a_field_of_view_that_no_lens_has_is_refused(fov: float) -> None:
    with pytest.raises(ConfigError, match=r"degrees is no pinhole camera's; choose one from 5 to 150"):
        StreetCamera(fov_deg=fov)


def test_empty_ground_has_its_horizon_in_the_middle() -> None:
    view = street_view((0.0, 0.0), StreetCamera(80, 60, 70.0), 0.0)
    picture = render_view(empty_window(), street_bounds((0.0, 0.0)), view, plain_look(), reach_m=130.0)
    ground = np.abs(picture[..., 0] - picture[..., 2]) < 14
    assert ground[33:].mean() > 0.98
    assert ground[:28].mean() < 0.9
