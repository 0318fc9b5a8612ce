from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from geoloc.geometry.panorama import turn_panorama
from geoloc.geometry.polar import aerial_to_polar, polar_offsets


def picture(side: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, 1, (side, side))


def bilinear(signal: npt.NDArray[np.float64], x: float, y: float) -> float:
    """Value at row x, column y; neighbours outside of the picture count 0."""
    x0, y0 = math.floor(x), math.floor(y)
    total = 0.0
    for row, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
        for column, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
            if 0 <= row < signal.shape[0] and 0 <= column < signal.shape[1]:
                total += wx * wy * signal[row, column]
    return total


def polar(
    signal: npt.NDArray[np.float64], height: int, width: int, **options: object
) -> npt.NDArray[np.float64]:
    image = torch.from_numpy(signal)[None, None]
    return aerial_to_polar(image, height_px=height, width_px=width, **options)[0, 0].numpy()  # type: ignore[arg-type]


def test_paper_sampling_is_the_published_formula_pixel_by_pixel() -> None:
    side, height, width = 20, 6, 16
    signal = picture(side)
    expected = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            r = side / 2 / height * (height - 1 - i)
            y = side / 2 - r * math.sin(2 * math.pi * j / width)
            x = side / 2 + r * math.cos(2 * math.pi * j / width)
            expected[i, j] = bilinear(signal, x, y)
    np.testing.assert_allclose(polar(signal, height, width, sampling="paper"), expected, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_centred_sampling_is_its_formula_pixel_by_pixel(power: float) -> None:
    side, height, width, radius = 21, 5, 12, 8.0
    east, north, heading = 1.3, -0.7, 37.0
    signal = picture(side)
    expected = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            azimuth = 2 * math.pi * ((j + 0.5) / width - 0.5) + math.radians(heading)
            r = radius * ((height - i - 0.5) / height) ** power
            row = (side - 1) / 2 - north - r * math.cos(azimuth)
            column = (side - 1) / 2 + east + r * math.sin(azimuth)
            expected[i, j] = bilinear(signal, row, column)
    got = polar(
        signal,
        height,
        width,
        radius_px=radius,
        radial_power=power,
        east_px=torch.tensor([east]),
        north_px=torch.tensor([north]),
        heading_deg=torch.tensor([heading]),
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "column", "share"), [(2, 20, 0.5), (20, 38, 0.75), (38, 20, 0.0), (20, 2, 0.25)], ids=list("NESW")
)
def test_north_is_in_the_middle_and_azimuth_grows_to_the_right(row: int, column: int, share: float) -> None:
    signal = np.zeros((41, 41))
    signal[row - 2 : row + 3, column - 2 : column + 3] = 1.0
    image = polar(signal, 20, 64)
    weight = image[:6].sum(0)  # the far rows
    angle = np.angle((weight * np.exp(2j * math.pi * (np.arange(64) + 0.5) / 64)).sum()) / (2 * math.pi) % 1
    assert min(abs(angle - share), 1 - abs(angle - share)) < 0.02


def test_bottom_row_is_the_centre() -> None:
    signal = np.zeros((41, 41))
    signal[20, 20] = 1.0
    image = polar(signal, 40, 32)
    assert image[-1].min() > 0.1
    assert image[:-6].max() == 0


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_tile_is_a_rolled_polar_image(turns: int) -> None:
    signal = picture(24)
    turned = np.rot90(signal, turns).copy()  # counter-clockwise: east comes to the top
    by_roll = np.roll(polar(signal, 8, 32), -8 * turns, axis=1)
    np.testing.assert_allclose(polar(turned, 8, 32), by_roll, atol=1e-5)
    by_heading = polar(signal, 8, 32, heading_deg=torch.tensor([90.0 * turns]))
    np.testing.assert_allclose(by_heading, by_roll, atol=1e-5)


def test_heading_and_mirroring_move_polar_and_panorama_alike() -> None:
    signal = picture(24)
    aligned = polar(signal, 8, 32)
    columns = torch.tensor([0, 5, 31, 7])
    mirrored = torch.tensor([False, False, True, True])
    panoramas = torch.from_numpy(aligned)[None, :, :, None].expand(4, -1, -1, -1)
    turned = turn_panorama(panoramas, columns, mirrored)[..., 0].numpy()
    images = torch.from_numpy(signal)[None, None].expand(4, -1, -1, -1)
    moved = aerial_to_polar(
        images, height_px=8, width_px=32, heading_deg=columns * (360 / 32), mirrored=mirrored
    )[:, 0].numpy()
    np.testing.assert_allclose(moved, turned, atol=1e-5)


def test_offset_moves_the_centre() -> None:
    signal = picture(32)
    shifted = np.zeros_like(signal)
    shifted[:, :-3] = signal[:, 3:]  # what lay 3 px east of the centre is now at the centre
    small = {"radius_px": 8.0}
    got = polar(signal, 6, 16, east_px=torch.tensor([3.0]), **small)
    np.testing.assert_allclose(got, polar(shifted, 6, 16, **small), atol=1e-5)
    north = polar(signal, 6, 16, north_px=torch.tensor([2.0]), **small)
    np.testing.assert_allclose(north, polar(np.roll(signal, 2, axis=0), 6, 16, **small), atol=1e-5)


def test_scale_is_a_larger_radius() -> None:
    signal = picture(32)
    np.testing.assert_allclose(
        polar(signal, 6, 16, radius_px=6.0, scale=torch.tensor([1.5])),
        polar(signal, 6, 16, radius_px=9.0),
        atol=1e-5,
    )


def test_outside_is_zero_and_rows_are_evenly_spaced() -> None:
    ones = np.ones((16, 16))
    assert polar(ones, 4, 8, radius_px=100.0)[0].max() == 0
    radius, azimuth = polar_offsets(4, 8, radius_px=8.0)
    np.testing.assert_allclose(radius.numpy(), [7, 5, 3, 1])
    np.testing.assert_allclose(np.diff(azimuth.numpy()), 2 * math.pi / 8)


def test_differentiable_in_the_picture() -> None:
    image = torch.from_numpy(picture(6))[None, None].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: aerial_to_polar(x, height_px=3, width_px=8, radius_px=2.0), (image,)
    )


def test_differentiable_in_the_look() -> None:
    image = torch.from_numpy(picture(8))[None, None]
    numbers = [
        torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.31, -0.22, 17.0, 0.83)
    ]

    def run(*numbers: torch.Tensor) -> torch.Tensor:
        east, north, heading, scale = numbers
        return aerial_to_polar(
            image,
            height_px=3,
            width_px=5,
            radius_px=2.5,
            east_px=east,
            north_px=north,
            heading_deg=heading,
            scale=scale,
        )

    assert torch.autograd.gradcheck(run, tuple(numbers))


def test_a_batch_is_its_pictures_one_by_one() -> None:
    images = torch.from_numpy(np.stack([picture(12, seed) for seed in range(3)]))[:, None]
    heading = torch.tensor([0.0, 50.0, 300.0], dtype=torch.float64)
    together = aerial_to_polar(images, height_px=4, width_px=9, heading_deg=heading)
    for row in range(3):
        one = slice(row, row + 1)
        alone = aerial_to_polar(images[one], height_px=4, width_px=9, heading_deg=heading[one])
        torch.testing.assert_close(together[one], alone)
