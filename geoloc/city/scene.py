"""One panorama in the making: what its painters share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoloc.city.camera import Camera, Rays
from geoloc.city.looks import Look
from geoloc.city.noise import Float
from geoloc.city.raster import Window


@dataclass
class Scene:
    """One picture in the making; images are [rows, columns], lowest row first.

    sin, cos: float32[C] of the grid azimuth of each column; pixel: int32[C, S] flat window pixel of each step;
    depth: float32[R, C] in metres; colour: float32[R * C, 3].
    """

    window: Window
    look: Look
    camera: Camera
    rays: Rays
    x: float
    y: float
    sin: Float
    cos: Float
    pixel: NDArray[np.int32]
    depth: Float
    colour: Float

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.sin)


def spread(count: NDArray[np.int64], first: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Expand runs of rows: each run's number, repeated, and the rows first, first + 1, ...: int64[sum] twice."""
    run = np.repeat(np.arange(len(count)), count)
    ends = np.cumsum(count)
    inside = np.arange(len(run)) - np.repeat(ends - count - first, count)
    return run, inside
