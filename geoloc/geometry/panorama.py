"""Equirectangular panoramas: turned, mirrored, cut to a field of view, seen by a tilted camera.

Convention of the whole module: azimuth grows to the right and 0 is the middle column; elevation grows upwards.
A pixel has its value in its middle: of W columns over `fov_deg`, column j looks along
fov_deg * ((j + 0.5) / W - 0.5); of H rows over elevations low to high, row i looks along
high - (high - low) * (i + 0.5) / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

WHOLE_SPHERE_DEG = (-90.0, 90.0)


def turn_panorama(
    images: torch.Tensor, columns: torch.Tensor, mirrored: torch.Tensor | None = None
) -> torch.Tensor:
    """Panoramas [B, H, W, C] turned to the right by `columns` int64[B] pixels, after an optional mirroring.

    Output column j shows input column j' + columns (modulo W), where j' is j or, mirrored, W - 1 - j: the
    same motion as `aerial_to_polar(..., heading_deg=360 * columns / W, mirrored=mirrored)`.

    Convention: azimuth grows to the right; turning by k columns makes the middle column look k / W * 360
    degrees further clockwise.
    """
    batch, height, width, channels = images.shape
    index = torch.arange(width, device=images.device).expand(batch, -1)
    if mirrored is not None:
        index = torch.where(mirrored[:, None], width - 1 - index, index)
    index = (index + columns[:, None]) % width
    return torch.gather(images, 2, index[:, None, :, None].expand(batch, height, width, channels))


def limit_view(images: torch.Tensor, first: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Panoramas [B, H, W, C] that stay black outside `columns` int64[B] columns from column `first` int64[B] on.

    The columns go around the end of the picture. What is left stays where it is: its azimuth is kept.
    The published protocol of a limited view with unknown north (DSM, CVPR 2020) keeps int(fov / 360 * W)
    columns of a randomly turned panorama; see `columns_of_view`.
    """
    shown = shown_pixels(first, columns, images.shape[2])
    return images * shown[:, None, :, None].to(images.dtype)


def shown_pixels(first: torch.Tensor, kept: torch.Tensor, width_px: int) -> torch.Tensor:
    """Which pixel columns are shown, bool[B, W], when `kept` int64[B] are from column `first` int64[B] on.

    The columns go around the end of the picture.
    """
    index = (torch.arange(width_px, device=first.device)[None] - first[:, None]) % width_px
    return index < kept[:, None]


def columns_of_view(fov_deg: float, width_px: int) -> int:
    """How many of `width_px` columns a field of view keeps: int(fov / 360 * W), at least 1, as published."""
    return max(1, int(fov_deg / 360 * width_px))


def resample_panorama(
    images: torch.Tensor,
    *,
    height_px: int,
    width_px: int,
    elevation_deg: tuple[float, float] = WHOLE_SPHERE_DEG,
    to_elevation_deg: tuple[float, float] | None = None,
    to_fov_deg: float = 360.0,
    heading_deg: torch.Tensor | None = None,
    pitch_deg: torch.Tensor | None = None,
    roll_deg: torch.Tensor | None = None,
) -> torch.Tensor:
    """What another camera at the same place sees of full panoramas float[B, C, H, W], bilinear, around the seam.

    `elevation_deg` is what the rows span, `to_elevation_deg` what the output's rows shall span (default: the
    same), `to_fov_deg` the output's azimuths about its middle. `heading_deg`, `pitch_deg`, `roll_deg` [B] turn
    the new camera against the old. Directions that the input does not have are 0. Returns
    float[B, C, height_px, width_px]; differentiable in the images and the three angles.

    Convention: headings are clockwise, a positive pitch looks up, a positive roll lowers the camera's right side;
    the camera is rolled first, then pitched, then turned.
    """
    batch = len(images)
    exact = torch.promote_types(images.dtype, torch.float32)
    azimuth = _middles(width_px, -to_fov_deg / 2, to_fov_deg / 2).to(images.device, exact)
    low, high = to_elevation_deg or elevation_deg
    elevation = _middles(height_px, high, low).to(images.device, exact)
    if pitch_deg is None and roll_deg is None:
        azimuth = azimuth.expand(batch, height_px, width_px)
        elevation = elevation[:, None].expand(batch, height_px, width_px)
    else:
        azimuth, elevation = _tilt(azimuth, elevation, batch, pitch_deg, roll_deg)
    if heading_deg is not None:
        azimuth = azimuth + heading_deg.to(images.device, exact)[:, None, None]
    return _sample_directions(images, azimuth, elevation, elevation_deg)


def _middles(count: int, first: float, last: float) -> torch.Tensor:
    """Middles of `count` equal steps from `first` to `last`, float64[count]."""
    return first + (last - first) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def _tilt(
    azimuth_deg: torch.Tensor,
    elevation_deg: torch.Tensor,
    batch: int,
    pitch_deg: torch.Tensor | None,
    roll_deg: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions of a tilted camera's pixels in the level frame: azimuth and elevation [B, H, W] in degrees."""
    across, up = torch.deg2rad(azimuth_deg)[None, None], torch.deg2rad(elevation_deg)[None, :, None]
    x = (torch.cos(up) * torch.sin(across)).expand(batch, -1, -1)  # right
    y = (torch.cos(up) * torch.cos(across)).expand(batch, -1, -1)  # forward
    z = torch.sin(up).expand_as(x)
    if roll_deg is not None:
        angle = torch.deg2rad(roll_deg.to(x))[:, None, None]
        x, z = x * torch.cos(angle) + z * torch.sin(angle), z * torch.cos(angle) - x * torch.sin(angle)
    if pitch_deg is not None:
        angle = torch.deg2rad(pitch_deg.to(x))[:, None, None]
        y, z = y * torch.cos(angle) - z * torch.sin(angle), y * torch.sin(angle) + z * torch.cos(angle)
    return torch.rad2deg(torch.atan2(x, y)), torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))


def _sample_directions(
    images: torch.Tensor, azimuth: torch.Tensor, elevation: torch.Tensor, elevation_deg: tuple[float, float]
) -> torch.Tensor:
    """Values of full panoramas along directions [B, h, w] in degrees."""
    height, width = images.shape[-2:]
    low, high = elevation_deg
    # Positions in columns and rows; one column of the other end on both sides makes the seam a place like others.
    column = ((azimuth / 360 + 0.5) * width - 0.5 + 0.5) % width - 0.5
    row = (high - elevation) / (high - low) * height - 0.5
    ring = F.pad(images, (1, 1, 0, 0), mode="circular")
    grid = torch.stack([(2 * (column + 1) + 1) / (width + 2) - 1, (2 * row + 1) / height - 1], dim=-1)
    return F.grid_sample(
        ring, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
