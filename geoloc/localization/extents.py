"""Drone photos of unknown ground extent: several extents are tried, as headings are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geoloc.localization.fix import Fix
from geoloc.localization.query_photos import Photo

SCALES = 5
LARGEST_SCALE = 4.0
"""Largest extent that is tried, as a multiple of the model's field."""


def extents_to_try(tile_m: float, scales: int) -> list[float]:
    """Ground extents in metres for a photo of unknown extent, from the model's field to `LARGEST_SCALE` times it."""
    return [float(tile_m * factor) for factor in np.geomspace(1.0, LARGEST_SCALE, scales)][:scales]


def at_all_extents(photos: Sequence[Photo], tile_m: float, scales: int) -> tuple[list[Photo], list[int]]:
    """Every photo once, drone photos of unknown extent once an extent; and the position of the photo of each."""
    copies, owners = [], []
    for position, one in enumerate(photos):
        unknown = one.view == "drone" and one.extent_m is None
        for extent_m in extents_to_try(tile_m, scales) if unknown else [one.extent_m]:
            copies.append(replace(one, extent_m=extent_m))
            owners.append(position)
    return copies, owners


def best_extents(fixes: Sequence[Fix], owners: Sequence[int]) -> list[Fix]:
    """The fix of each photo at the extent whose best tile is most similar; of equal ones the smallest extent."""
    best: dict[int, Fix] = {}
    for fix, owner in zip(fixes, owners, strict=True):
        if owner not in best or _likeness(fix) > _likeness(best[owner]):
            best[owner] = fix
    return [best[owner] for owner in sorted(best)]


def _likeness(fix: Fix) -> float:
    if not fix.matches:
        return -math.inf
    first = fix.matches[0]
    return -float(first.distance_bits or 0) if first.similarity is None else first.similarity
