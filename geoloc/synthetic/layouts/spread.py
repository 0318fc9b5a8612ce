"""Places of a layout: squares of the city that are large enough and far from each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.camera_positions import street_positions
from geoloc.synthetic.world.network import Bounds, Network

GAP_M = 400.0
"""Least distance between districts of different splits: more than twice the viewing range of 130 m."""
_GROWTH = 1.25
_GROWTHS = 24

T = TypeVar("T")


def grow(west: float, south: float, area_km2: float, find: Callable[[Bounds], T]) -> tuple[Bounds, T]:
    """The smallest of a series of growing squares in which `find` succeeds, and its result.

    `find` raises `ConfigError` where a square holds too little; the last such error is passed on.

    Convention: squares stand on the south-west corner (west, south), city metres, sides of whole 32 m.
    """
    side = 0.0
    for attempt in range(_GROWTHS):
        least = math.sqrt(max(area_km2, 0.01) * 1e6 * _GROWTH**attempt)
        side = max(side + 32.0, 32.0 * math.ceil(least / 32.0))
        bounds = (west, south, west + side, south + side)
        try:
            return bounds, find(bounds)
        except ConfigError:
            if attempt == _GROWTHS - 1:
                raise
    raise AssertionError("the loop returns or raises")


def street_places(network: Network, bounds: Bounds, count: int, spacing_m: float, seed: int) -> FloatArray:
    """`count` camera positions on the streets within bounds, `spacing_m` apart at least: float64[count, 2].

    Raises `ConfigError` when the streets do not hold that many.

    Convention: x east, y north in city metres.
    """
    found = street_positions(network, bounds, count, spacing_m, seed, offset_m=0.0)
    return np.column_stack([found.x, found.y])


def shares(total: int, parts: tuple[int, ...], least: int = 1) -> tuple[int, ...]:
    """`total` split in the proportion of `parts`, each at least `least`."""
    whole = sum(parts)
    return tuple(max(least, round(total * part / whole)) for part in parts)
