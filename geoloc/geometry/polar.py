"""Polar images: an aerial tile resampled around a point so that it lines up with a panorama taken there.

The closed form is SAFA's (Shi et al., "Spatial-Aware Feature Aggregation for Cross-View Image Based
Geo-Localization", NeurIPS 2019), the "view conversion" of the hashing system (TGRS 2023) too.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

Sampling = Literal["centred", "paper"]


def polar_offsets(
    height_px: int,
    width_px: int,
    *,
    radius_px: float,
    radial_power: float = 1.0,
    sampling: Sampling = "centred",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a polar image samples: radius [H] in aerial pixels and azimuth [W] in radians.

    Convention: azimuth is clockwise from north and grows to the right; the middle of the image is north, its
    left edge south. The bottom row lies at the centre of the tile, the top row `radius_px` away.
    `centred` puts samples in the middle of their pixel: azimuth of column j is 2 pi ((j + 0.5) / W - 0.5),
    radius of row i is radius_px * ((H - i - 0.5) / H) ** radial_power. `paper` is the published formula:
    azimuth 2 pi (j / W - 0.5), radius radius_px * (H - 1 - i) / H.
    """
    half = 0.5 if sampling == "centred" else 0.0
    columns = torch.arange(width_px, dtype=torch.float64)
    azimuth = 2 * math.pi * ((columns + half) / width_px - 0.5)
    rows = torch.arange(height_px, dtype=torch.float64)
    share = (height_px - 1 - rows + half) / height_px
    return radius_px * share**radial_power, azimuth


def aerial_to_polar(
    images: torch.Tensor,
    *,
    height_px: int,
    width_px: int,
    radius_px: float | None = None,
    radial_power: float = 1.0,
    east_px: torch.Tensor | None = None,
    north_px: torch.Tensor | None = None,
    heading_deg: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    mirrored: torch.Tensor | None = None,
    sampling: Sampling = "centred",
) -> torch.Tensor:
    """Resample aerial images float[B, C, S, S] to polar images float[B, C, height_px, width_px], bilinear.

    `radius_px` is the radius of the top edge (default: half the side), `east_px`, `north_px` [B] move the
    centre within each image, `scale` [B] multiplies the radius, `heading_deg` [B] is the heading of the
    middle column (0: north), `mirrored` bool[B] swaps left and right about that column. Differentiable in
    the images. Samples outside of an image are 0.

    Convention: images are north up, east right; offsets east_px, north_px run from the image's centre to the
    polar centre; headings are clockwise from north. An image of heading h equals the image of heading 0
    rolled to the left by h / 360 of its width. The tile's centre is the middle of the raster,
    pixel coordinate (S - 1) / 2; in `paper` sampling it is pixel S / 2, as in the published formula.
    """
    batch, _, rows, columns = images.shape
    radius, azimuth = polar_offsets(
        height_px,
        width_px,
        radius_px=rows / 2 if radius_px is None else radius_px,
        radial_power=radial_power,
        sampling=sampling,
    )
    device, exact = images.device, torch.promote_types(images.dtype, torch.float32)
    posed = any(value is not None for value in (east_px, north_px, heading_deg, scale, mirrored))
    angle = azimuth.to(device, exact).expand(batch if posed else 1, -1)  # without a pose one grid serves all
    if mirrored is not None:
        angle = torch.where(mirrored[:, None], -angle, angle)
    if heading_deg is not None:
        angle = angle + torch.deg2rad(heading_deg.to(device, exact))[:, None]
    length = radius.to(device, exact)[None, :, None]
    if scale is not None:
        length = length * scale[:, None, None]
    right = length * torch.sin(angle)[:, None, :]
    down = -length * torch.cos(angle)[:, None, :]
    if east_px is not None:
        right = right + east_px[:, None, None]
    if north_px is not None:
        down = down - north_px[:, None, None]
    # grid_sample's -1..1 spans the outer edges of the raster: pixel coordinate p lies at (2 p + 1) / S - 1.
    shift = 1.0 if sampling == "paper" else 0.0
    grid = torch.stack([(2 * right + shift) / columns, (2 * down + shift) / rows], dim=-1)
    grid = grid.to(images.dtype).expand(batch, -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
