"""Compiled basics of rasters: values to bytes."""

from __future__ import annotations

import numpy as np
from numba import njit

from geoloc.synthetic.world.noise import Scalar


@njit(cache=True, nogil=True)
def to_byte(value: Scalar) -> Scalar:
    """A number cut to 0..255 and down to a whole one."""
    return np.uint8(min(max(value, np.float32(0)), np.float32(255)))
