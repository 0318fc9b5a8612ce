"""Photos of a lens against a world of smooth colours, seen through rotation matrices of scipy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from geoloc.geometry.perspective import lens_pixels, level_view, lift

ELEVATION = (-42.0, 32.0)
HEIGHT, WIDTH = 64, 256


def colour(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A smooth colour of unit vectors (ahead, right, up) [..., 3]: float[..., 3] in 0..255."""
    return 127.5 + 100 * np.sin(directions * np.array([4.0, 5.0, 6.0]) + np.array([0.3, 1.0, 2.0]))


def world_photo(
    height: int, width: int, fov_deg: float, pitch_deg: float, roll_deg: float
) -> npt.NDArray[np.uint8]:
    """What a pinhole sees: rays of the camera turned into the world by scipy, about right-handed axes."""
    focal = width / 2 / np.tan(np.radians(fov_deg) / 2)
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([np.full_like(x, focal), x, -y], -1)  # ahead, right, up of the camera
    # (ahead, right, up) is left-handed: with right as -left the axes are ahead, left, up.
    rays = rays * np.array([1.0, -1.0, 1.0])
    # Intrinsic: first down about the left axis, then clockwise about the axis of sight.
    turn = Rotation.from_euler("YX", [pitch_deg, roll_deg], degrees=True)
    turned = turn.apply((rays / np.linalg.norm(rays, axis=-1, keepdims=True)).reshape(-1, 3))
    seen = colour(turned.reshape(rays.shape) * np.array([1.0, -1.0, 1.0]))
    return np.rint(seen).astype(np.uint8)


def world_panorama(finer: int = 1) -> npt.NDArray[np.float64]:
    (low, high), height, width = ELEVATION, HEIGHT * finer, WIDTH * finer
    elevation = np.radians(high - (np.arange(height) + 0.5) / height * (high - low))[:, None]
    azimuth = np.radians(((np.arange(width) + 0.5) / width - 0.5) * 360.0)[None]
    ahead, right = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
    return colour(np.stack([ahead, right, np.broadcast_to(np.sin(elevation), ahead.shape)], -1))


@pytest.mark.parametrize(
    ("shape", "fov_deg", "pitch_deg", "roll_deg"),
    [
        ((480, 640), 70.0, 0.0, 0.0),
        ((640, 480), 55.0, 8.0, 0.0),
        ((480, 640), 70.0, -10.0, 12.0),
        ((600, 800), 90.0, 15.0, -20.0),
    ],
)
def test_a_lifted_photo_shows_what_a_panorama_shows(
    shape: tuple[int, int], fov_deg: float, pitch_deg: float, roll_deg: float
) -> None:
    image = world_photo(*shape, fov_deg, pitch_deg, roll_deg)
    got = lift(image, HEIGHT, WIDTH, ELEVATION, fov_deg=fov_deg, pitch_deg=pitch_deg, roll_deg=roll_deg)
    shown = got.any(axis=-1)
    assert np.abs(got.astype(float) - world_panorama())[shown].max() < 8
    columns = np.flatnonzero(shown.any(axis=0))
    assert abs((columns[0] + columns[-1] + 1) / 2 - WIDTH / 2) < (1.0 if roll_deg == 0 else 12.0)
    # A level strip about the horizon is as wide as the field of view.
    horizon = shown[round(HEIGHT * 32 / 74)].sum() / WIDTH * 360
    if roll_deg == 0:
        assert horizon == pytest.approx(fov_deg, abs=3.0)


def test_directions_that_are_known_by_hand() -> None:
    def at(azimuth: float, elevation: float, **held: float) -> tuple[float, float]:
        x, y, inside = lens_pixels(np.array(azimuth), np.array(elevation), 200, 100, fov_deg=90.0, **held)
        assert inside
        return float(x), float(y)

    assert at(0, 0) == pytest.approx((100, 50))
    assert at(44.999, 0) == pytest.approx((200, 50), abs=0.01)  # the right edge
    assert at(0, -20, pitch_deg=20) == pytest.approx((100, 50))  # the axis looks 20 degrees down
    assert at(0, 0, pitch_deg=20)[1] == pytest.approx(
        50 - 100 * np.tan(np.radians(20))
    )  # the horizon is above
    left, right = at(-20, 0, roll_deg=10), at(20, 0, roll_deg=10)
    assert left[1] > 50 > right[1]  # turned clockwise, the horizon sinks to the left of the photo
    behind = lens_pixels(np.array([180.0, 120.0]), np.zeros(2), 200, 100, fov_deg=90.0)[2]
    assert not behind.any()


def test_what_a_photo_does_not_show_is_black() -> None:
    white = np.full((300, 400, 3), 255, np.uint8)
    got = lift(white, HEIGHT, WIDTH, ELEVATION, fov_deg=70.0)
    assert set(np.unique(got)) == {0, 255}
    half_height = np.degrees(np.arctan(np.tan(np.radians(35)) * 300 / 400))
    middle = got[:, WIDTH // 2, 0] > 0
    assert middle.sum() / HEIGHT * 74 == pytest.approx(2 * half_height, abs=2.5)
    low = lift(white, HEIGHT, WIDTH, ELEVATION, fov_deg=70.0, pitch_deg=15.0)[:, WIDTH // 2, 0] > 0
    assert np.flatnonzero(low).mean() > np.flatnonzero(middle).mean()


@pytest.mark.parametrize("azimuth_deg", [0.0, 90.0, 180.0, -45.0])
def test_a_level_view_shows_what_a_lens_sees(azimuth_deg: float) -> None:
    panorama = np.rint(world_panorama(finer=8)).astype(np.uint8)
    turned = np.roll(panorama, round(azimuth_deg / 360 * panorama.shape[1]), axis=1)
    got = level_view(turned, ELEVATION, azimuth_deg=azimuth_deg, fov_deg=70.0, width=320, height=240)
    expected = world_photo(240, 320, 70.0, 0.0, 0.0)
    assert np.abs(got.astype(float) - expected).max() < 3
