"""Point clouds of tiles: placed under a pose, cut to the model's field, thinned by farthest-point sampling.

Convention of the whole module: a point is a row (east, north, height, class). The horizontal coordinates are metres
from the tile's centre, the height is metres above the ground, the class is an id of `core.semantics`. After a pose the
first two are `right` and `forward`: `forward` looks along the heading, which lies at the top of the picture.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F

from geoloc.core.arrays import Float32Array, IntArray
from geoloc.core.errors import InputError
from geoloc.core.semantics import CLASSES

POINT_NUMBERS = 4


def cloud_rows(flat: Float32Array) -> Float32Array:
    """The points float32[P, 4] of the column `points` of a tile, float32[4 P].

    Raises `InputError` when the numbers are no whole points, are not finite, or name a class that does not exist.
    """
    if flat.size % POINT_NUMBERS:
        raise InputError(
            f"A tile has {flat.size} numbers as points, no multiple of {POINT_NUMBERS} (east, north, height, class).",
            reason="bad_points",
        )
    points = np.asarray(flat, dtype=np.float32).reshape(-1, POINT_NUMBERS)
    kinds = points[:, 3]
    if not np.isfinite(points).all() or not ((kinds >= 0) & (kinds < len(CLASSES))).all():
        raise InputError(
            f"The points of a tile are not finite, or their classes are not 0 to {len(CLASSES) - 1}.",
            reason="bad_points",
        )
    return points


def crop_cloud(points: Float32Array, half_m: float) -> Float32Array:
    """The points float32[Q, 4] of float32[P, 4] within the square of `half_m` metres to each side, in their order."""
    kept: Float32Array = points[(np.abs(points[:, :2]) <= half_m).all(axis=1)]
    return kept


def farthest_points(points: Float32Array, count: int, *, first: int = 0) -> IntArray:
    """Positions int64[min(count, P)] of points float32[P, >= 3], each the farthest from all that were taken before.

    Distances are Euclidean over the first three numbers; of equal ones the first is taken. Every beginning of the
    result is itself such a sample. Source: Eldar et al., "The farthest point strategy", IEEE Trans. Image Processing
    6(9), 1997; as in PointNet++ (NeurIPS 2017). Time: count * P.
    """
    taken = np.empty(min(count, len(points)), np.int64)
    if len(taken):
        _fill_farthest(np.ascontiguousarray(points[:, :3], np.float32), first, taken)
    return taken


@numba.njit(cache=True, nogil=True)
def _fill_farthest(points: Any, first: int, taken: Any) -> None:  # pragma: no cover - compiled
    count = points.shape[0]
    nearest = np.full(count, np.float32(np.inf))
    current = first
    for number in range(taken.shape[0]):
        taken[number] = current
        x, y, z = points[current, 0], points[current, 1], points[current, 2]
        best, following = np.float32(-1.0), 0
        for row in range(count):
            dx, dy, dz = points[row, 0] - x, points[row, 1] - y, points[row, 2] - z
            squared = dx * dx + dy * dy + dz * dz
            if squared < nearest[row]:
                nearest[row] = squared
            if nearest[row] > best:
                best, following = nearest[row], row
        current = following


def sample_cloud(points: Float32Array, count: int) -> Float32Array:
    """Exactly `count` points float32[count, 4] of float32[P, 4], by farthest-point sampling.

    Too few are repeated in turn.

    The sample starts at the point nearest to the centre, so that it does not depend on the order of the points
    (apart from ties). Raises `InputError` without any point.
    """
    if not len(points):
        raise InputError(
            "The tile has no points within the model's field; leave it out or give its cloud.",
            reason="no_points",
        )
    centre = int((points[:, :3].astype(np.float64) ** 2).sum(axis=1).argmin())
    taken = farthest_points(points, count, first=centre)
    sampled: Float32Array = points[taken[np.arange(count) % len(taken)]]
    return sampled


def place_clouds(
    clouds: torch.Tensor,
    *,
    east_m: torch.Tensor | None = None,
    north_m: torch.Tensor | None = None,
    heading_deg: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    mirrored: torch.Tensor | None = None,
) -> torch.Tensor:
    """Clouds float[B, P, 4] as `geometry.aerial.look_down` shows their pictures for the same values [B].

    Convention: east_m, north_m run from the tile's centre to the centre of the view. `heading_deg`, clockwise from
    north, comes to the top. `scale` multiplies the field, so coordinates are divided by it; heights are kept.
    `mirrored` swaps left and right. The output's first two numbers are right and forward.
    """
    right, forward = clouds[..., 0], clouds[..., 1]
    if east_m is not None:
        right = right - east_m[:, None]
    if north_m is not None:
        forward = forward - north_m[:, None]
    if heading_deg is not None:
        angle = torch.deg2rad(heading_deg.to(clouds.dtype))[:, None]
        sine, cosine = torch.sin(angle), torch.cos(angle)
        right, forward = right * cosine - forward * sine, right * sine + forward * cosine
    if mirrored is not None:
        right = torch.where(mirrored[:, None], -right, right)
    if scale is not None:
        right, forward = right / scale[:, None], forward / scale[:, None]
    return torch.cat([torch.stack([right, forward], dim=-1), clouds[..., 2:]], dim=-1)


def first_inside(
    clouds: torch.Tensor, half_m: float, count: int, keep: torch.Tensor | None = None
) -> torch.Tensor:
    """The first `count` points of each cloud float[B, P, 4] within `half_m` to each side: float[B, count, 4].

    `keep` bool[B, P] leaves out others. Of clouds in farthest-point order the result is spread nearly as evenly as a
    sample of its own. Too few points are repeated in turn; a cloud without any inside gives its first ones.
    """
    inside = (clouds[..., :2].abs() <= half_m).all(dim=-1)
    if keep is not None:
        inside = inside & keep
    inside = inside | ~inside.any(dim=1, keepdim=True)
    order = torch.argsort((~inside).to(torch.uint8), dim=1, stable=True)
    present = inside.sum(dim=1, keepdim=True)
    wanted = torch.arange(count, device=clouds.device)[None] % present
    rows = order.gather(1, wanted)
    return clouds.gather(1, rows[..., None].expand(-1, -1, clouds.shape[-1]))


def cloud_features(clouds: torch.Tensor, half_m: float, *, semantics: bool = True) -> torch.Tensor:
    """What networks see of placed clouds float[B, P, 4]: float[B, 3 (+ 25), P].

    Coordinates are divided by `half_m`, so the field is -1..1. With `semantics` the classes follow, one-hot.
    """
    places = clouds[..., :3] / half_m
    if not semantics:
        return places.transpose(1, 2)
    kinds = F.one_hot(clouds[..., 3].long(), len(CLASSES)).to(places.dtype)
    return torch.cat([places, kinds], dim=-1).transpose(1, 2)
