"""Street photos of limited field of view: any heading, pitch, roll and camera height, in any weather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.perspective import View, render_view
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.style import VIEW_RANGE_M
from geoloc.synthetic.world.view_conditions import Look
from geoloc.synthetic.world.weather import develop_photo

CLEAR_M = 3.5
"""No car has its centre nearer to the camera, as in the panoramas."""


@dataclass(frozen=True)
class StreetCamera:
    """A pinhole camera held at the street.

    Convention: `fov_deg` is across the width; `pitch_deg` above the horizon; `roll_deg` clockwise about the axis.
    """

    width_px: int = 512
    height_px: int = 384
    fov_deg: float = 70.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    camera_m: float = 1.7

    def __post_init__(self) -> None:
        if not 5 <= self.fov_deg <= 150:
            raise ConfigError(
                f"A field of view of {self.fov_deg:g} degrees is no pinhole camera's; choose one from 5 to 150."
            )


def street_view(position: tuple[float, float], camera: StreetCamera, heading_deg: float) -> View:
    """The geometry of a street photo from a position (x, y in city metres).

    Convention: as `View`; `heading_deg` is clockwise from GRID north.
    """
    return View(
        *position, camera.camera_m, heading_deg, camera.pitch_deg, camera.roll_deg, camera.fov_deg, camera.width_px,
        camera.height_px,
    )  # fmt: skip


def street_bounds(position: tuple[float, float]) -> Bounds:
    """The area that a street photo sees: west, south, east, north in city metres."""
    x, y = position
    return x - VIEW_RANGE_M, y - VIEW_RANGE_M, x + VIEW_RANGE_M, y + VIEW_RANGE_M


def render_street(
    city: City,
    position: tuple[float, float],
    look: Look,
    camera: StreetCamera | None = None,
    *,
    heading_deg: float = 0.0,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """A street photo from a position (x, y in city metres): uint8[height_px, width_px, 3].

    `window`, if given, must reach `VIEW_RANGE_M` around the position; the picture does not depend on it. Draw the
    look with `weather.street_look`.

    Convention: the middle of the picture looks along `heading_deg`, clockwise from GRID north, and `pitch_deg`
    above the horizon; row 0 is the top.
    """
    camera = camera or StreetCamera()
    bounds = street_bounds(position)
    window = window or city.window(bounds)
    view = street_view(position, camera, heading_deg)
    colour = render_view(window, bounds, view, look, reach_m=VIEW_RANGE_M, clear_m=CLEAR_M)
    return develop_photo(colour, look)
