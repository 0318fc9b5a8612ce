"""Orientation maps: what direction every pixel of a picture looks at (OriCNN, Liu and Li, CVPR 2019).

Ground pictures get (yaw, pitch), aerial ones (yaw, radius), both scaled to about -1..1: yaw / pi, pitch / pi,
(radius - 0.5) * 2 with radius 1 at half the side. The yaw of one direction is the same in both views: that is
what the maps tell the network.

Convention: yaw is clockwise from north, -1 and +1 both south; pitch is positive BELOW the horizon, as in the
published maps. A map moves with its picture: a turned, rotated or cropped picture has its map turned, rotated or
cropped, the values unchanged. Mirroring is that of the world (both views of a pair together): the map is
mirrored and its yaw changes sign, so that north stays north and east becomes west.
"""

from __future__ import annotations

from typing import Literal

import torch

Sampling = Literal["centred", "paper"]

# Outer edges of the published ground maps: 224 rows of 2 pi / 1231, half of them on either side of the horizon.
PUBLISHED_ELEVATION_DEG = (-112 * 360 / 1231, 112 * 360 / 1231)


def ground_orientation(
    height_px: int,
    width_px: int,
    *,
    elevation_deg: tuple[float, float] = PUBLISHED_ELEVATION_DEG,
    fov_deg: float = 360.0,
    yaw_deg: torch.Tensor | None = None,
    sampling: Sampling = "centred",
) -> torch.Tensor:
    """Yaw and pitch of every pixel of an equirectangular picture, float32[B, 2, height_px, width_px].

    `yaw_deg` [B] is the heading of the middle column (default: one map, looking north). Elevations span
    the picture's outer edges, and every row has the elevation of its middle. `centred` gives every column the yaw of
    its middle. `paper` is the published map: its first and last column are at the ends of the field of view (for 360
    degrees these two columns then look the same way).
    """
    low, high = elevation_deg
    across = _steps(width_px, -fov_deg / 2, fov_deg / 2, sampling)
    pitch = -_steps(height_px, high, low, "centred") / 180
    turn = torch.zeros(1, dtype=torch.float64) if yaw_deg is None else yaw_deg.double().cpu()
    yaw = across[None] + turn[:, None]
    if yaw_deg is not None:
        yaw = _wrapped(yaw)
    batch = len(yaw)
    maps = torch.empty((batch, 2, height_px, width_px), dtype=torch.float32)
    maps[:, 0] = (yaw / 180)[:, None, :]
    maps[:, 1] = pitch[None, :, None]
    return maps


def aerial_orientation(
    side_px: int,
    *,
    yaw_deg: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Yaw and radius of every pixel of a square aerial picture, float32[B, 2, side_px, side_px].

    `yaw_deg` [B] is the heading at the picture's top (default: one map, north up); `scale` [B] multiplies
    the radius (below 1: a crop of the middle that keeps the whole picture's radii). Outside of the inscribed
    circle the radius goes on beyond 1. The centre pixel of an odd side looks along the picture's top.
    """
    offset = torch.arange(side_px, dtype=torch.float64) - (side_px - 1) / 2
    down, right = torch.meshgrid(offset, offset, indexing="ij")
    yaw = torch.rad2deg(torch.atan2(right, -down + 0.0))[
        None
    ]  # + 0.0: never minus zero, which would be south
    radius = (torch.hypot(right, down) / (side_px / 2))[None]
    if yaw_deg is not None:
        yaw = _wrapped(yaw + yaw_deg.double().cpu()[:, None, None])
    if scale is not None:
        radius = radius * scale.double().cpu()[:, None, None]
    batch = max(len(yaw), len(radius))
    yaw, radius = yaw.expand(batch, -1, -1), radius.expand(batch, -1, -1)
    maps = torch.stack([yaw / 180, (radius - 0.5) * 2], dim=1)
    return maps.float()


def polar_orientation(
    height_px: int,
    width_px: int,
    *,
    radial_power: float = 1.0,
    yaw_deg: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Yaw and radius of every pixel of a polar image (sampling `centred`), float32[B, 2, height_px, width_px].

    `yaw_deg` [B] is the heading of the middle column, `scale` [B] multiplies the radius.
    """
    across = _steps(width_px, -180.0, 180.0, "centred")[None]
    if yaw_deg is not None:
        across = _wrapped(across + yaw_deg.double().cpu()[:, None])
    radius = (_steps(height_px, 1.0, 0.0, "centred") ** radial_power)[None]
    if scale is not None:
        radius = radius * scale.double().cpu()[:, None]
    batch = max(len(across), len(radius))
    maps = torch.empty((batch, 2, height_px, width_px), dtype=torch.float32)
    maps[:, 0] = (across / 180)[:, None, :]
    maps[:, 1] = ((radius - 0.5) * 2)[:, :, None]
    return maps


def _steps(count: int, first: float, last: float, sampling: Sampling) -> torch.Tensor:
    if sampling == "paper":
        return torch.linspace(first, last, count, dtype=torch.float64)
    return first + (last - first) * (torch.arange(count, dtype=torch.float64) + 0.5) / count


def _wrapped(degrees: torch.Tensor) -> torch.Tensor:
    """Degrees brought to -180 (included) to 180 (left out)."""
    return (degrees + 180) % 360 - 180
