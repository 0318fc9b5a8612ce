"""Drone photos, and the descending spiral on which University-1652 takes 54 of them around every building.

The data set's paper (Zheng, Wei and Yang, ACM MM 2020) says: three rounds, 54 views, the height falling from 256 m
to 121.5 m, the building in the middle of every picture. It does not say how far away the camera is: here it looks
down at 45 degrees throughout, so the distance over the ground equals the altitude. Headings advance evenly, 20
degrees a step, and the altitude falls evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.perspective import View, render_view
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.ray_field import CEILING_M
from geoloc.synthetic.world.view_conditions import Look
from geoloc.synthetic.world.weather import develop_photo

FIRST_ALTITUDE_M = 256.0
LAST_ALTITUDE_M = 121.5
ROUNDS = 3
TILT_DEG = 45.0
FOV_DEG = 34.0
REACH_M = 900.0
_SHADOW_M = 40.0


@dataclass(frozen=True)
class DronePose:
    """Position and direction of a drone's camera.

    Convention: x east, y north in city metres, altitude above the ground; `heading_deg` clockwise from GRID north;
    `pitch_deg` is negative below the horizon, -90 straight down (then the picture's top is at the heading).
    """

    x: float
    y: float
    altitude_m: float
    heading_deg: float
    pitch_deg: float


def spiral(target_x: float, target_y: float, *, steps: int = 54, first_deg: float = 0.0) -> list[DronePose]:
    """The poses of a descending spiral around a target on the ground, highest first.

    Convention: x east, y north in city metres; the first camera looks along `first_deg` from the opposite side of
    the target, and headings grow clockwise.
    """
    poses = []
    for step in range(steps):
        share = step / max(steps - 1, 1)
        altitude = FIRST_ALTITUDE_M + (LAST_ALTITUDE_M - FIRST_ALTITUDE_M) * share
        heading = (first_deg + 360 * ROUNDS * step / steps) % 360
        away, turn = altitude / math.tan(math.radians(TILT_DEG)), math.radians(heading)
        x, y = target_x - away * math.sin(turn), target_y - away * math.cos(turn)
        poses.append(DronePose(x, y, altitude, heading, -TILT_DEG))
    return poses


def drone_view(pose: DronePose, size_px: int = 512, fov_deg: float = FOV_DEG) -> View:
    """The geometry of a drone photo.

    Convention: as `View` and `DronePose`; the picture is square and level.
    """
    return View(
        pose.x, pose.y, pose.altitude_m, pose.heading_deg, pose.pitch_deg, 0.0, fov_deg, size_px, size_px
    )  # fmt: skip


def drone_bounds(pose: DronePose, fov_deg: float = FOV_DEG) -> Bounds:
    """The area that a drone photo needs: what it sees up to the tallest roofs, and what casts shadows into it.

    Raises `ConfigError` when the camera sees the horizon or flies among the roofs.

    Convention: west, south, east, north in city metres.
    """
    view = drone_view(pose, 2, fov_deg)
    corners = view.directions(np.array([0.0, 2.0, 0.0, 2.0]), np.array([0.0, 0.0, 2.0, 2.0]))
    corners /= np.linalg.norm(corners, axis=1, keepdims=True)
    steepest = pose.altitude_m / REACH_M
    if pose.altitude_m <= CEILING_M or (corners[:, 2] > -steepest).any():
        raise ConfigError(
            f"A drone at {pose.altitude_m:g} m with pitch {pose.pitch_deg:g} and a view of {fov_deg:g} degrees sees "
            f"farther than {REACH_M:g} m or flies below {CEILING_M:g} m; fly higher, look down more or narrow the view."
        )
    points = []
    for height in (0.0, CEILING_M):
        points.append((pose.x, pose.y) + corners[:, :2] * ((pose.altitude_m - height) / -corners[:, 2:]))
    every = np.concatenate(points)
    low, high = every.min(0) - _SHADOW_M, every.max(0) + _SHADOW_M
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def render_drone(
    city: City,
    pose: DronePose,
    look: Look,
    *,
    size_px: int = 512,
    fov_deg: float = FOV_DEG,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """A drone photo: uint8[size_px, size_px, 3].

    `window`, if given, must hold `drone_bounds(pose, fov_deg)`; the picture does not depend on it. Draw the look
    with `weather.drone_look`.

    Convention: as `DronePose`; the camera's axis meets the middle of the picture, row 0 is the top.
    """
    bounds = drone_bounds(pose, fov_deg)
    window = window or city.window(bounds)
    colour = render_view(window, bounds, drone_view(pose, size_px, fov_deg), look, reach_m=REACH_M)
    return develop_photo(colour, look)
