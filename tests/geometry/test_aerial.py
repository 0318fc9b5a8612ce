from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from geoloc.geometry.aerial import look_down
from geoloc.geometry.polar import aerial_to_polar


def picture(side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (1, 1, side, side)))


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def smooth(side: int) -> torch.Tensor:
    """A tile without detail, of which resampling loses little."""
    x = np.linspace(-1, 1, side)[None]
    y = np.linspace(-1, 1, side)[:, None]
    value = 0.5 + 0.3 * np.sin(2 * x + y) + 0.2 * np.cos(3 * y - x)
    return torch.from_numpy(value)[None, None]


@pytest.mark.parametrize("side", [15, 16])
def test_no_look_is_the_identity_in_single_precision(side: int) -> None:
    images = picture(side).float()
    torch.testing.assert_close(look_down(images, side_px=side), images, atol=1e-5, rtol=0)


def test_a_smaller_field_is_the_middle_of_the_tile() -> None:
    images = picture(16)
    torch.testing.assert_close(look_down(images, side_px=8), images[:, :, 4:12, 4:12])
    moved = look_down(images, side_px=8, east_px=one(3.0), north_px=one(-2.0))
    torch.testing.assert_close(moved, images[:, :, 6:14, 7:15])
    halves = look_down(images, side_px=8, field_px=16)
    torch.testing.assert_close(halves, torch.nn.functional.avg_pool2d(images, 2))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_heading_comes_to_the_top(turns: int) -> None:
    images = picture(12)
    got = look_down(images, side_px=12, heading_deg=one(90.0 * turns))
    torch.testing.assert_close(got, torch.rot90(images, turns, dims=(2, 3)))


def test_mirroring_comes_before_turning() -> None:
    images = picture(12)
    got = look_down(images, side_px=12, mirrored=torch.tensor([True]))
    torch.testing.assert_close(got, images.flip(-1))
    both = look_down(images, side_px=12, heading_deg=one(90.0), mirrored=torch.tensor([True]))
    torch.testing.assert_close(both, torch.rot90(images, 1, dims=(2, 3)).flip(-1))


def test_any_look_pixel_by_pixel() -> None:
    side, out, field = 9, 4, 5.0
    east, north, heading, scale = 0.7, -0.4, 33.0, 1.2
    signal = picture(side)[0, 0].numpy()

    def value(row: float, column: float) -> float:
        total = 0.0
        for r in range(side):
            for c in range(side):
                total += max(0.0, 1 - abs(row - r)) * max(0.0, 1 - abs(column - c)) * signal[r, c]
        return total

    expected: npt.NDArray[np.float64] = np.empty((out, out))
    turn = math.radians(heading)
    for i in range(out):
        for j in range(out):
            ahead, right = (
                ((out - 1) / 2 - i) * field / out * scale,
                (j - (out - 1) / 2) * field / out * scale,
            )
            to_east = right * math.cos(turn) + ahead * math.sin(turn) + east
            to_north = ahead * math.cos(turn) - right * math.sin(turn) + north
            expected[i, j] = value((side - 1) / 2 - to_north, (side - 1) / 2 + to_east)
    got = look_down(
        torch.from_numpy(signal)[None, None],
        side_px=out,
        field_px=field,
        east_px=one(east),
        north_px=one(north),
        heading_deg=one(heading),
        scale=one(scale),
    )
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_polar_image_of_a_look_is_the_looks_polar_image(mirrored: bool) -> None:
    tile = smooth(160)
    look = {
        "east_px": one(5.0),
        "north_px": one(-8.0),
        "heading_deg": one(77.0),
        "scale": one(0.9),
        "mirrored": torch.tensor([mirrored]),
    }
    direct = aerial_to_polar(tile, height_px=12, width_px=48, radius_px=50.0, **look)
    first = look_down(tile, side_px=110, **look)
    torch.testing.assert_close(
        aerial_to_polar(first, height_px=12, width_px=48, radius_px=50.0), direct, atol=2e-3, rtol=0
    )


def test_a_rolled_panorama_equals_a_rotated_tile() -> None:
    tile = smooth(64)
    aligned = aerial_to_polar(tile, height_px=10, width_px=36, radius_px=28.0)
    for heading in (30.0, 100.0, 250.0):
        turned = look_down(tile, side_px=64, heading_deg=one(heading))
        of_turned = aerial_to_polar(turned, height_px=10, width_px=36, radius_px=28.0)
        rolled = aligned.roll(-round(heading / 10), -1)  # 10 degrees a column
        torch.testing.assert_close(of_turned, rolled, atol=5e-3, rtol=0)


def test_gradients_of_pictures_and_looks() -> None:
    images = picture(6).requires_grad_()
    numbers = [one(value).requires_grad_() for value in (0.31, -0.22, 17.0, 0.83)]

    def run(images: torch.Tensor, *numbers: torch.Tensor) -> torch.Tensor:
        east, north, heading, scale = numbers
        return look_down(images, side_px=3, east_px=east, north_px=north, heading_deg=heading, scale=scale)

    assert torch.autograd.gradcheck(run, (images, *numbers))
