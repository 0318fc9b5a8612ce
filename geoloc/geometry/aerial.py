"""Views of aerial tiles: moved, turned, scaled and mirrored about a point, sampled once."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def look_down(
    images: torch.Tensor,
    *,
    side_px: int,
    field_px: float | None = None,
    east_px: torch.Tensor | None = None,
    north_px: torch.Tensor | None = None,
    heading_deg: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    mirrored: torch.Tensor | None = None,
) -> torch.Tensor:
    """The square of `field_px` input pixels about a point, as float[B, C, side_px, side_px], bilinear.

    `images` float[B, C, S, S]; `field_px` defaults to `side_px` (no change of scale). The values [B] of the view
    mean what they mean in `aerial_to_polar`, so that the polar image of the output is that of the input with the
    same values. Differentiable in the images and in all these values. Samples outside of an image are 0.

    Convention: images are north up, east right; east_px, north_px run from the image's centre to the view's
    centre, heading_deg (clockwise from north) comes to the top, `scale` multiplies the field, `mirrored` swaps
    left and right of the view. Pixels are squares with their values in the middle (align_corners=False): without
    any values and with the image's side, the output is the image.
    """
    batch, _, rows, columns = images.shape
    exact = torch.promote_types(images.dtype, torch.float32)
    step = (side_px if field_px is None else field_px) / side_px
    offset = (torch.arange(side_px, device=images.device, dtype=exact) - (side_px - 1) / 2) * step
    down, right = torch.meshgrid(offset, offset, indexing="ij")
    down, right = down.expand(batch, -1, -1), right.expand(batch, -1, -1)
    if scale is not None:
        down, right = down * scale[:, None, None], right * scale[:, None, None]
    if mirrored is not None:
        right = torch.where(mirrored[:, None, None], -right, right)
    if heading_deg is not None:
        angle = torch.deg2rad(heading_deg.to(images.device, exact))[:, None, None]
        sine, cosine = torch.sin(angle), torch.cos(angle)
        right, down = right * cosine - down * sine, right * sine + down * cosine
    if east_px is not None:
        right = right + east_px[:, None, None]
    if north_px is not None:
        down = down - north_px[:, None, None]
    grid = torch.stack([2 * right / columns, 2 * down / rows], dim=-1)
    return F.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )
