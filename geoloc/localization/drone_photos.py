"""Drone photos: the ground that they show, seen straight down."""

from __future__ import annotations

import math

from geoloc.core.arrays import Pixels
from geoloc.core.errors import InputError, QueryError
from geoloc.geometry.oblique import straight_down


def ground_square(
    image: Pixels, *, altitude_m: float | None, pitch_deg: float | None, fov_deg: float | None
) -> tuple[Pixels, float | None]:
    """The ground about the camera's axis as if seen straight down: uint8[S, S, 3] and the metres that its side covers.

    `pitch_deg` is below the horizon, 90 straight down (also when None); a gimbal's -90 means the same. `altitude_m` is
    above the ground (None: the metres are unknown). Convention: the top is the heading, as in `geometry.oblique`.
    Raises `QueryError` for values out of range, and where the field of view is missing.
    """
    if altitude_m is not None and not (math.isfinite(altitude_m) and 0 < altitude_m <= 20_000):
        raise QueryError(
            f"altitude_m is {altitude_m}; give metres above the ground, up to 20,000.", reason="bad_altitude"
        )
    pitch = 90.0 if pitch_deg is None else abs(pitch_deg)
    if fov_deg is None:
        raise QueryError(
            "A drone photo with altitude_m or pitch_deg needs fov_deg, the horizontal field of view of its lens.",
            reason="bad_fov",
        )
    try:
        square, heights = straight_down(image, pitch, fov_deg)
    except InputError as error:
        raise QueryError(str(error), reason=error.reason) from error
    return square, None if altitude_m is None else heights * altitude_m
