from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geoloc.core.arrays import FloatArray
from geoloc.geometry.azimuth import shown_columns
from geoloc.geometry.panorama import (
    columns_of_view,
    limit_view,
    resample_panorama,
    shown_pixels,
    turn_panorama,
)


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (1, 2, height, width)))


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_nothing_changed_is_the_identity_in_single_precision() -> None:
    images = picture(13, 32).float()
    got = resample_panorama(images, height_px=13, width_px=32, elevation_deg=(-30, 40))
    torch.testing.assert_close(got, images, atol=2e-5, rtol=0)


def test_a_heading_of_whole_columns_is_a_roll_to_the_left() -> None:
    images = picture(6, 16)
    got = resample_panorama(images, height_px=6, width_px=16, heading_deg=one(360 / 16 * 5))
    torch.testing.assert_close(got, images.roll(-5, -1))
    channels_last = images.permute(0, 2, 3, 1)
    turned = turn_panorama(channels_last, torch.tensor([5])).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, turned)


def test_half_a_column_is_the_mean_of_two_neighbours_around_the_seam() -> None:
    images = picture(4, 8)
    got = resample_panorama(images, height_px=4, width_px=8, heading_deg=one(22.5))
    torch.testing.assert_close(got, (images + images.roll(-1, -1)) / 2)


def test_a_field_of_view_is_a_crop_about_the_heading() -> None:
    images = picture(4, 16)
    got = resample_panorama(images, height_px=4, width_px=4, to_fov_deg=90, heading_deg=one(90.0))
    torch.testing.assert_close(got, images[..., 10:14])  # east lies at three quarters of the width


def test_a_smaller_vertical_range_is_a_crop_of_rows_and_a_larger_one_is_black() -> None:
    images = picture(8, 16)  # 10 degrees a row from 40 down to -40
    kept = resample_panorama(
        images, height_px=4, width_px=16, elevation_deg=(-40, 40), to_elevation_deg=(-30, 10)
    )
    torch.testing.assert_close(kept, images[:, :, 3:7])
    grown = resample_panorama(
        images, height_px=12, width_px=16, elevation_deg=(-40, 40), to_elevation_deg=(-60, 60)
    )
    torch.testing.assert_close(grown[:, :, 2:10], images)
    assert not grown[:, :, [0, 1, 10, 11]].any()


def direction(azimuth: float, elevation: float) -> FloatArray:
    """East, north, up."""
    a, e = math.radians(azimuth), math.radians(elevation)
    return np.array([math.cos(e) * math.sin(a), math.cos(e) * math.cos(a), math.sin(e)])


def rotation(heading: float, pitch: float, roll: float) -> FloatArray:
    """From the camera's right, forward, up to east, north, up, by three plain matrices."""
    h, p, r = (math.radians(angle) for angle in (heading, pitch, roll))
    turn = np.array([[math.cos(h), math.sin(h), 0], [-math.sin(h), math.cos(h), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]])
    lean = np.array([[math.cos(r), 0, math.sin(r)], [0, 1, 0], [-math.sin(r), 0, math.cos(r)]])
    return turn @ tilt @ lean


def world(direction: FloatArray) -> float:
    """A smooth brightness of the sky."""
    return float(
        0.5 + 0.3 * direction[0] + 0.15 * direction[1] - 0.2 * direction[2] + direction[0] * direction[2]
    )


def seen(height: int, width: int, turn: FloatArray) -> FloatArray:
    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            elevation = 90 - 180 * (i + 0.5) / height
            azimuth = 360 * ((j + 0.5) / width - 0.5)
            out[i, j] = world(turn @ direction(azimuth, elevation))
    return out


@pytest.mark.parametrize("angles", [(0, 25, 0), (0, 0, -35), (70, -20, 15)], ids=["pitch", "roll", "all"])
def test_a_tilted_camera_sees_the_rotated_world(angles: tuple[float, float, float]) -> None:
    level = torch.from_numpy(seen(90, 180, np.eye(3)))[None, None]
    heading, pitch, roll = (one(angle) for angle in angles)
    got = resample_panorama(
        level, height_px=30, width_px=60, heading_deg=heading, pitch_deg=pitch, roll_deg=roll
    )
    np.testing.assert_allclose(got[0, 0].numpy()[1:-1], seen(30, 60, rotation(*angles))[1:-1], atol=3e-3)


def test_looking_up_lowers_the_horizon_and_leaning_right_raises_it_on_the_right() -> None:
    level = torch.zeros(1, 1, 60, 120, dtype=torch.float64)
    level[:, :, :30] = 1.0  # sky
    up = resample_panorama(level, height_px=60, width_px=120, pitch_deg=one(30.0))[0, 0]
    assert up[:, 60].sum() > 35  # more sky in the middle of the picture
    lean = resample_panorama(level, height_px=60, width_px=120, roll_deg=one(30.0))[0, 0]
    assert lean[:, 90].sum() < 25 < 35 < lean[:, 30].sum()  # the right side looks down


def test_gradients_of_pictures_and_angles() -> None:
    images = picture(4, 8)[:, :1].requires_grad_()
    angles = [one(value).requires_grad_() for value in (13.0, 7.0, -9.0)]

    def run(images: torch.Tensor, *angles: torch.Tensor) -> torch.Tensor:
        heading, pitch, roll = angles
        return resample_panorama(
            images, height_px=3, width_px=5, heading_deg=heading, pitch_deg=pitch, roll_deg=roll
        )

    assert torch.autograd.gradcheck(run, (images, *angles))


def test_a_limited_view_keeps_columns_where_they_are() -> None:
    images = torch.arange(1, 9, dtype=torch.uint8)[None, None, :, None].expand(3, 2, 8, 3)
    got = limit_view(images, torch.tensor([0, 6, 3]), torch.tensor([2, 4, 8]))
    assert got.dtype == torch.uint8
    assert got[:, 1, :, 2].tolist() == [[1, 2, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 7, 8], list(range(1, 9))]


def test_columns_of_a_view_are_the_published_number() -> None:
    assert [columns_of_view(fov, 616) for fov in (360, 180, 90, 70)] == [616, 308, 154, 119]
    assert columns_of_view(0.1, 64) == 1


def test_shown_columns_are_those_of_which_half_is_left() -> None:
    first, kept = torch.tensor([0, 6, 13, 2, 0]), torch.tensor([6, 8, 7, 1, 16])
    white = torch.ones(5, 1, 16, 1)
    left = limit_view(white, first, kept)[:, 0, :, 0].view(5, 4, 4).sum(-1)
    got = shown_columns(shown_pixels(first, kept, 16), 4)
    want = left >= 2
    want[3] = left[3] == 1  # narrower than half a column: the fullest one
    assert got.tolist() == want.tolist()
    assert got[0].tolist() == [True, True, False, False]
    assert got[4].all()
