from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from geoloc.core.errors import ConfigError
from geoloc.geometry.polar import aerial_to_polar
from geoloc.geometry.warp import (
    affine_grid,
    control_points,
    pixel_grid,
    polar_places,
    sample,
    spline_grid,
    spline_operator,
)

IDENTITY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (1, 2, height, width))).float()


def test_pixels_have_their_value_in_their_middle() -> None:
    grid = pixel_grid(2, 4)
    assert grid[0, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]  # not -1 ... 1: that would be align_corners
    assert grid[:, 0, 1].tolist() == [-0.5, 0.5]
    assert grid.shape == (2, 4, 2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 8), (33, 64)])
def test_the_identity_is_exact_in_single_precision(height: int, width: int) -> None:
    images = picture(height, width)
    by_affine = sample(images, affine_grid(IDENTITY, height, width))
    torch.testing.assert_close(by_affine, images, atol=2e-5, rtol=0)
    points = control_points()
    operator = spline_operator(points, height, width)
    by_spline = sample(images, spline_grid(operator, points[None].float(), height, width))
    torch.testing.assert_close(by_spline, images, atol=5e-5, rtol=0)


def test_the_affine_grid_is_that_of_torch() -> None:
    matrices = torch.tensor([[[0.8, 0.3, -0.1], [-0.2, 1.1, 0.4]], [[1.0, 0.0, 0.5], [0.0, 0.5, 0.0]]])
    expected = torch.nn.functional.affine_grid(matrices, [2, 1, 5, 7], align_corners=False)
    torch.testing.assert_close(affine_grid(matrices, 5, 7), expected)


def test_a_shift_by_one_pixel_moves_the_picture_by_one_pixel() -> None:
    images = picture(6, 10)
    matrix = IDENTITY.clone()
    matrix[0, 0, 2] = 2 / 10  # one of ten columns: the output shows what lies one column to the right
    got = sample(images, affine_grid(matrix, 6, 10))
    torch.testing.assert_close(got[..., :-1], images[..., 1:], atol=1e-5, rtol=0)
    assert not got[..., -1].any() or got[..., -1].max() < 1e-5  # outside is black
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    square = picture(8, 8)
    turned = sample(square, affine_grid(quarter, 8, 8))
    # Output right looks down into the input: the left column comes to the top, turned counter-clockwise.
    torch.testing.assert_close(turned, torch.rot90(square, 1, dims=(2, 3)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", [(6, 10, 0.9), (2, 2, 1.0), (3, 4, 0.5)])
def test_a_spline_reproduces_affine_maps_exactly(grid: tuple[int, int, float]) -> None:
    rows, columns, span = grid
    points = control_points(rows, columns, span)
    assert points.shape == (rows * columns, 2)
    operator = spline_operator(points, 7, 9)
    matrix = torch.tensor([[0.7, -0.4, 0.1], [0.3, 0.9, -0.2]], dtype=torch.float64)
    places = points @ matrix[:, :2].T + matrix[:, 2]
    expected = affine_grid(matrix[None], 7, 9)
    torch.testing.assert_close(spline_grid(operator, places[None], 7, 9), expected, atol=1e-9, rtol=0)
    single = spline_grid(operator, places[None].float(), 7, 9)
    torch.testing.assert_close(single, expected.float(), atol=5e-6, rtol=0)


def test_a_spline_passes_through_its_control_points_and_bends_least_by_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    height, width = 5, 5
    points = control_points(3, 3, 0.8)  # 0.8 = the middle of the outer pixels of five
    places = torch.from_numpy(rng.uniform(-1, 1, (9, 2)))
    grid = spline_grid(spline_operator(points, height, width), places[None], height, width)[0]
    torch.testing.assert_close(grid[::2, ::2].reshape(9, 2), places, atol=1e-9, rtol=0)

    def kernel(r: float) -> float:
        return r * r * math.log(r) if r else 0.0

    # The interpolation solved with plain loops: kernel r^2 log r, affine part, side conditions.
    p = points.numpy()
    system = np.zeros((12, 12))
    for i in range(9):
        for j in range(9):
            system[i, j] = kernel(float(np.hypot(*(p[i] - p[j]))))
        system[i, 9:] = system[9:, i] = (1.0, p[i, 0], p[i, 1])
    solved = np.linalg.solve(system, np.concatenate([places.numpy(), np.zeros((3, 2))]))
    for i, j in ((0, 1), (1, 1), (3, 2)):
        x, y = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
        basis = [kernel(float(np.hypot(x - q[0], y - q[1]))) for q in p] + [1.0, x, y]
        np.testing.assert_allclose(grid[i, j].numpy(), np.array(basis) @ solved, atol=1e-9)


def test_polar_places_are_the_polar_view() -> None:
    images = picture(24, 24)
    grid = polar_places(pixel_grid(6, 16))[None]
    torch.testing.assert_close(
        sample(images, grid.float()), aerial_to_polar(images, height_px=6, width_px=16), atol=1e-5, rtol=0
    )


def test_a_polar_spline_comes_near_the_polar_view() -> None:
    points = control_points()
    grid = spline_grid(spline_operator(points, 16, 64), polar_places(points)[None], 16, 64)[0]
    exact = polar_places(pixel_grid(16, 64))
    error = (grid - exact).norm(dim=-1)
    assert error[2:-2, 4:-4].max() < 0.05
    # Against the identity, where a picture's top left corner is taken from there and not from the south.
    assert error.mean() < 0.1 * (pixel_grid(16, 64) - exact).norm(dim=-1).mean()


@pytest.mark.parametrize(
    "points", [control_points(1, 10), control_points(5, 1), torch.zeros(2, 2)], ids=["row", "column", "two"]
)
def test_points_without_a_plane_are_refused(points: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="control points span no plane"):
        spline_operator(points, 4, 4)


def test_gradients() -> None:
    points = control_points(2, 3)
    operator = spline_operator(points, 3, 4)
    images = picture(5, 6).double().requires_grad_()
    places = (points[None] * 0.83 + 0.021).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, p: sample(i, spline_grid(operator, p, 3, 4)), (images, places))
    matrix = (IDENTITY.double() * 0.87 + 0.013).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, m: sample(i, affine_grid(m, 3, 4)), (images, matrix))
