from __future__ import annotations

import math

import numpy as np
import pytest

from geoloc.core.errors import InputError
from geoloc.geometry.oblique import footprint, ground_homography, square_side, straight_down, to_photo
from geoloc.synthetic.world.drone import DronePose, drone_view

SIZES = [(400, 300), (300, 400), (256, 256)]


def ray_on_ground(x: float, y: float, pitch_deg: float, fov_deg: float, size: tuple[int, int]) -> list[float]:
    """Where the ray of a pixel meets the ground, from the point below the camera: by turning the ray, step by step."""
    width, height = size
    focal = width / 2 / math.tan(math.radians(fov_deg / 2))
    right, up, ahead = (x - width / 2) / focal, -(y - height / 2) / focal, 1.0
    down = math.radians(pitch_deg)
    forward = ahead * math.cos(down) + up * math.sin(down)
    rise = up * math.cos(down) - ahead * math.sin(down)
    return [right / -rise, forward / -rise]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pitch_deg", [30.0, 47.0, 75.0, 90.0])
def test_points_of_the_ground_land_where_their_rays_come_from(
    size: tuple[int, int], pitch_deg: float
) -> None:
    rng = np.random.default_rng(1)
    homography = ground_homography(pitch_deg, 40.0, *size)
    middle = 1 / math.tan(math.radians(pitch_deg)) if pitch_deg < 90 else 0.0
    for _ in range(20):
        x, y = rng.uniform(0, size[0]), rng.uniform(size[1] * 0.3, size[1])
        right, forward = ray_on_ground(x, y, pitch_deg, 40.0, size)
        seen = to_photo(homography, np.array([[right, forward - middle]]))
        np.testing.assert_allclose(seen, [[x, y]], atol=1e-8)


@pytest.mark.parametrize("heading_deg", [0.0, 73.0, 250.0])
def test_the_homography_is_that_of_the_citys_camera(heading_deg: float) -> None:
    """The renderer's rays through the corners meet the ground at the corners of the footprint, north being north."""
    altitude, pitch = 150.0, 55.0
    view = drone_view(DronePose(10.0, 20.0, altitude, heading_deg, -pitch), 200, 34.0)
    corners = np.array([[0.0, 0.0], [200.0, 0.0], [200.0, 200.0], [0.0, 200.0]])
    rays = view.directions(corners[:, 0], corners[:, 1])
    ground = np.array([10.0, 20.0]) + rays[:, :2] * (altitude / -rays[:, 2:3])
    turn = math.radians(heading_deg)
    forward, right = (np.array([math.sin(turn), math.cos(turn)]), np.array([math.cos(turn), -math.sin(turn)]))
    middle = np.array([10.0, 20.0]) + forward * altitude / math.tan(math.radians(pitch))
    print_of = altitude * footprint(pitch, 34.0, 200, 200)
    np.testing.assert_allclose(
        middle + print_of[:, :1] * right + print_of[:, 1:] * forward, ground, rtol=1e-9
    )


@pytest.mark.parametrize("size", SIZES)
def test_straight_down_is_the_middle_square_itself(size: tuple[int, int]) -> None:
    width, height = size
    image = np.random.default_rng(2).integers(0, 255, (height, width, 3), dtype=np.uint8)
    square, side = straight_down(image, 90.0, 60.0)
    short = min(size)
    top, left = (height - short) // 2, (width - short) // 2
    np.testing.assert_array_equal(square, image[top : top + short, left : left + short])
    assert side == pytest.approx(2 * math.tan(math.radians(30)) * short / width)


def test_almost_straight_down_is_almost_the_middle_square() -> None:
    smooth = np.mgrid[0:90, 0:120].sum(axis=0).astype(np.uint8)
    image = np.repeat(smooth[:, :, None], 3, axis=2)
    square, side = straight_down(image, 89.999, 60.0)
    exact, exact_side = straight_down(image, 90.0, 60.0)
    assert side == pytest.approx(exact_side, rel=1e-3)
    assert square.shape == exact.shape
    assert np.abs(square.astype(int) - exact).max() <= 1


@pytest.mark.parametrize("pitch_deg", [25.0, 45.0, 80.0])
@pytest.mark.parametrize("size", SIZES)
def test_the_square_is_the_largest_that_the_photo_shows(size: tuple[int, int], pitch_deg: float) -> None:
    homography = ground_homography(pitch_deg, 50.0, *size)
    half = square_side(pitch_deg, 50.0, *size) / 2
    corners = np.array([[-1, 1], [1, 1], [1, -1], [-1, -1]], dtype=np.float64)

    def inside(scale: float) -> bool:
        seen = to_photo(homography, scale * half * corners)
        return bool(np.all((seen >= 0) & (seen <= np.array(size))))

    assert inside(0.9999)
    assert not inside(1.001)


def chequers(ground: np.ndarray) -> np.ndarray:
    """A picture painted on the ground: red grows to the right, green forward, with a grey bar to the right of all."""
    red, green = 128 + 400 * ground[..., 0], 128 + 400 * ground[..., 1]
    return np.clip(np.stack([red, green, np.full_like(red, 90.0)], axis=-1), 0, 255)


@pytest.mark.parametrize("pitch_deg", [35.0, 60.0, 85.0])
def test_a_painted_ground_comes_out_as_from_above(pitch_deg: float) -> None:
    width, height, fov_deg = 320, 240, 30.0
    inverse = np.linalg.inv(ground_homography(pitch_deg, fov_deg, width, height))
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    x, y, w = np.tensordot(inverse, np.stack([columns, rows, np.ones_like(rows)]), axes=1)
    photo = chequers(np.stack([x / w, y / w], axis=-1)).round().astype(np.uint8)
    square, side = straight_down(photo, pitch_deg, fov_deg)
    steps = ((np.arange(len(square)) + 0.5) / len(square) - 0.5) * side
    right, forward = np.meshgrid(steps, -steps)
    expected = chequers(np.stack([right, forward], axis=-1))
    inner = slice(4, -4)
    difference = np.abs(square.astype(float) - expected)[inner, inner]
    assert difference.max() < 3.0


@pytest.mark.parametrize(("pitch_deg", "fov_deg", "reason"), [
    (10.0, 60.0, "bad_pitch"), (91.0, 60.0, "bad_pitch"), (-90.0, 60.0, "bad_pitch"), (60.0, 0.5, "bad_fov"),
    (60.0, 180.0, "bad_fov"), (math.nan, 60.0, "bad_pitch"), (60.0, math.nan, "bad_fov"),
])  # fmt: skip
def test_what_no_camera_sees_is_refused(pitch_deg: float, fov_deg: float, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        straight_down(np.zeros((20, 30, 3), np.uint8), pitch_deg, fov_deg)
    assert caught.value.reason == reason


def test_the_horizon_has_no_ground() -> None:
    corners = footprint(20.0, 60.0, 300, 300)
    assert np.isnan(corners[:2]).all()
    assert np.isfinite(corners[2:]).all()
