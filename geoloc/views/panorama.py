"""Equirectangular panoramas: turning them by whole columns and mirroring them."""

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
