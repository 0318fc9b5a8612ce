"""Light and sky of pictures by rays: the sun in the weather of a look, and clouds on a plane overhead."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world.caster import leaf
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.shapes import Vector
from geoloc.synthetic.world.view_conditions import Look
from geoloc.synthetic.world.weather import Weather


class SkyLight(NamedTuple):
    """The light of one picture.

    sun: unit vector to the sun; sunlight, skylight: factors on red, green and blue; horizon, zenith: colours 0..255 of
    the sky; cover: share of the sky under clouds; overcast: share of the sun that is lost; visibility_m: distance
    at which haze hides half; cloud_seed: seed of the clouds.

    Convention: directions are east, north, up of the city's grid.
    """

    sun: Vector
    sunlight: Vector
    skylight: Vector
    horizon: Vector
    zenith: Vector
    cover: float
    overcast: float
    visibility_m: float
    cloud_seed: int


def light_of_weather(look: Look, weather: Weather) -> SkyLight:
    """The light of a look in its weather.

    Convention: the direction to the sun is east, north, up of the city's grid.
    """
    azimuth, elevation = math.radians(look.sun_azimuth_deg), math.radians(look.sun_elevation_deg)
    low = math.cos(elevation)
    sun = np.array([math.sin(azimuth) * low, math.cos(azimuth) * low, math.sin(elevation)])
    power = min(0.62 / sun[2], 1.5) * (1 - weather.overcast) ** 1.5
    cool = np.array([0.96, 1.0, 1.07]) * (0.48 + 0.4 * weather.overcast)
    return SkyLight(
        _vector(sun), _vector(weather.sunlight * power), _vector(cool), _vector(weather.horizon),
        _vector(weather.zenith), weather.cover, weather.overcast, weather.visibility_m, weather.seed,
    )  # fmt: skip


def _vector(values: FloatArray) -> Vector:
    first, second, third = values.tolist()
    return first, second, third


@borrowing()
def sky_colour(light: SkyLight, d: Vector) -> Vector:
    """The sky's red, green and blue in a direction: a gradient, a glow around the sun, clouds on a plane overhead.

    Convention: the direction is of length 1, east, north, up of the city's grid.
    """
    up = max(d[2], 0.0)
    rise = min(up * 1.7, 1.0)
    rise = rise * (2 - rise)
    cloud = 0.0
    if up > 0.015 and light.cover > 0.05:
        dense = _billows(d[0] / (up + 0.12) * 1.6, d[1] / (up + 0.12) * 1.6, light.cloud_seed)
        cloud = min(max((dense - 0.78 + 0.5 * light.cover) * 3.2, 0.0), 1.0) * min(up * 9, 1.0)
    toward = max(d[0] * light.sun[0] + d[1] * light.sun[1] + d[2] * light.sun[2], 0.0)
    glow = toward * toward
    glow = glow * glow
    glow = glow * glow * (1 - light.overcast) * 46
    white = 238.0 - 46 * light.overcast
    red = light.horizon[0] + (light.zenith[0] - light.horizon[0]) * rise + glow
    green = light.horizon[1] + (light.zenith[1] - light.horizon[1]) * rise + glow
    blue = light.horizon[2] + (light.zenith[2] - light.horizon[2]) * rise + glow * 0.8
    return red + (white - red) * cloud, green + (white - green) * cloud, blue + (white + 3 - blue) * cloud


@borrowing()
def _billows(x: float, y: float, seed: int) -> float:
    """Smooth noise in 0..1 of four octaves."""
    total, weight, size = 0.0, 0.5, 1.0
    for octave in range(4):
        i, j = math.floor(x * size), math.floor(y * size)
        fx, fy = x * size - i, y * size - j
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        k = seed + octave * 101
        south = leaf(i, j, k) * (1 - fx) + leaf(i + 1, j, k) * fx
        north = leaf(i, j + 1, k) * (1 - fx) + leaf(i + 1, j + 1, k) * fx
        total += weight * (south * (1 - fy) + north * fy) / 255
        weight, size = weight / 2, size * 2
    return total / 0.9375
