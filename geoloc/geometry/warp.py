"""Sampling grids of spatial transformers: affine maps and thin plate splines.

Convention of the whole module: a grid float[B, H, W, 2] holds, for every output pixel, the place in the input where
its value is taken from, as (x, y) in -1..1 from the outer left (top) edge to the outer right (bottom) edge. Pixels
have their value in their middle: column j of W lies at (2 j + 1) / W - 1. That is align_corners=False in
`torch.nn.functional`, for making grids AND for sampling them; a grid made for corner-aligned pixels and
sampled otherwise does not even reproduce the identity.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from geoloc.core.errors import ConfigError


def pixel_grid(height_px: int, width_px: int) -> torch.Tensor:
    """Places (x, y) of the pixels of a picture, float64[height_px, width_px, 2]."""
    x = (2 * torch.arange(width_px, dtype=torch.float64) + 1) / width_px - 1
    y = (2 * torch.arange(height_px, dtype=torch.float64) + 1) / height_px - 1
    return torch.stack([x.expand(height_px, -1), y[:, None].expand(-1, width_px)], dim=-1)


def sample(images: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Values of float[B, C, h, w] at the places of a grid [B, H, W, 2]: float[B, C, H, W], bilinear, 0 outside."""
    return F.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def affine_grid(matrices: torch.Tensor, height_px: int, width_px: int) -> torch.Tensor:
    """Grid [B, height_px, width_px, 2] of affine maps float[B, 2, 3]: input place = A (output place, 1)."""
    places = pixel_grid(height_px, width_px).to(matrices)
    return torch.einsum("bij,hwj->bhwi", matrices[:, :, :2], places) + matrices[:, None, None, :, 2]


def control_points(rows: int = 6, columns: int = 10, span: float = 0.9) -> torch.Tensor:
    """A regular grid of places (x, y) in [-span, span] squared, row by row from the top, float64[rows * columns, 2]."""
    y, x = torch.meshgrid(
        torch.linspace(-span, span, rows, dtype=torch.float64),
        torch.linspace(-span, span, columns, dtype=torch.float64),
        indexing="ij",
    )
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def polar_places(places: torch.Tensor) -> torch.Tensor:
    """Where a polar image takes its values: input places float[..., 2] of output places float[..., 2].

    Convention: that of `views.polar` (north in the middle of the output, its bottom the input's centre, its top
    the inscribed circle); `aerial_to_polar` with `centred` sampling is exactly this map.
    """
    angle = math.pi * places[..., 0]
    radius = (1 - places[..., 1]) / 2
    return torch.stack([radius * torch.sin(angle), -radius * torch.cos(angle)], dim=-1)


def spline_operator(points: torch.Tensor, height_px: int, width_px: int) -> torch.Tensor:
    """The linear map from the input places of K control points to the grid, float64[height_px * width_px, K].

    The thin plate spline through (output place `points[k]` -> input place) is linear in the input places:
    grid = operator @ places. Kernel U(r) = 0.5 r^2 log r^2 with an affine part, solved once in float64. It
    reproduces affine maps, the identity among them, exactly. Raises `ConfigError` for fewer than three points
    or points that lie on one line.
    """
    count = len(points)
    points = points.double()
    ones = torch.ones((count, 1), dtype=torch.float64)
    if count < 3 or torch.linalg.matrix_rank(torch.cat([points, ones], 1)) < 3:
        raise ConfigError(f"{count} control points span no plane; give three or more, not all on one line.")
    system = torch.zeros((count + 3, count + 3), dtype=torch.float64)
    system[:count, :count] = _kernel(points, points)
    system[:count, count:] = torch.cat([ones, points], 1)
    system[count:, :count] = system[:count, count:].T
    # Only the first K columns of the inverse meet the places: the affine side conditions are zeros.
    weights = torch.linalg.solve(system, torch.eye(count + 3, dtype=torch.float64)[:, :count])
    places = pixel_grid(height_px, width_px).reshape(-1, 2)
    basis = torch.cat([_kernel(places, points), torch.ones((len(places), 1)).double(), places], 1)
    operator: torch.Tensor = basis @ weights
    return operator


def _kernel(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    squared = (first[:, None] - second[None]).square().sum(-1)
    kernel: torch.Tensor = 0.5 * torch.xlogy(squared, squared)
    return kernel


def spline_grid(operator: torch.Tensor, places: torch.Tensor, height_px: int, width_px: int) -> torch.Tensor:
    """Grid [B, height_px, width_px, 2] of splines whose control points take the input places float[B, K, 2]."""
    grid = torch.einsum("nk,bkc->bnc", operator.to(places), places)
    return grid.view(len(places), height_px, width_px, 2)
