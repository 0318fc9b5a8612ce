"""Equirectangular panoramas: turned, mirrored, cut to a field of view.

Convention of the whole module: azimuth grows to the right and 0 is the middle column.
"""

from __future__ import annotations

import torch


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


def limit_rows(images: torch.Tensor, top: torch.Tensor, bottom: torch.Tensor) -> torch.Tensor:
    """Panoramas [B, H, W, C] that stay black above the share `top` float[B] of their height and below `bottom`.

    Convention: 0 is the upper edge, 1 the lower; a row belongs where its middle lies.
    """
    height = images.shape[1]
    middle = (torch.arange(height, device=images.device)[None] + 0.5) / height
    shown = (middle >= top[:, None]) & (middle < bottom[:, None])
    return images * shown[:, :, None, None].to(images.dtype)


def shown_pixels(first: torch.Tensor, kept: torch.Tensor, width_px: int) -> torch.Tensor:
    """Which pixel columns are shown, bool[B, W], when `kept` int64[B] are from column `first` int64[B] on.

    The columns go around the end of the picture.
    """
    index = (torch.arange(width_px, device=first.device)[None] - first[:, None]) % width_px
    return index < kept[:, None]


def columns_of_view(fov_deg: float, width_px: int) -> int:
    """How many of `width_px` columns a field of view keeps: int(fov / 360 * W), at least 1, as published."""
    return max(1, int(fov_deg / 360 * width_px))
