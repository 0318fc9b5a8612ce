"""The map of quarters: a smooth noise cut into works, houses, terraces and towers, and the districts people see."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from geoloc.core.arrays import IntArray
from geoloc.synthetic.world.noise import value_noise
from geoloc.synthetic.world.style import Style

DISTRICTS = ("industry", "suburb", "old town", "grid", "park and water")
"""Names of the quarters in the order of `quarter_index`, and what lies between them."""


def quarter_index(seed: int, style: Style, x: ArrayLike, y: ArrayLike) -> IntArray:
    """The quarter that a place belongs to: 0 works, 1 houses, 2 terraces, 3 towers; int64[...].

    Convention: x east, y north in city metres.
    """
    wide, narrow = value_noise(x, y, style.quarter_scale_m, seed + 20), value_noise(x, y, 300, seed + 21)
    return np.asarray(np.searchsorted(style.quarter_limits, 0.7 * wide + 0.3 * narrow), np.int64)
