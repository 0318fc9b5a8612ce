"""Light and sky of a picture taken by rays: what the weather makes of the sun, and clouds on a plane overhead."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world.caster import leaf
from geoloc.synthetic.world.shapes import Vector
from geoloc.synthetic.world.view_conditions import Look
from geoloc.synthetic.world.weather import Weather

SUN, SUNLIGHT, SKYLIGHT, HORIZON, ZENITH, COVER, OVERCAST, VISIBILITY = 0, 3, 6, 9, 12, 15, 16, 17
"""Where things start in the light of a picture, float64[18]: direction to the sun, its light, the sky's light,
colours of the sky at the horizon and overhead, share of clouds, loss of sun, metres to half haze.
"""


def light_of_weather(look: Look, weather: Weather) -> FloatArray:
    """The light of a look in its weather: float64[18].

    Convention: the direction to the sun is east, north, up of the city's grid.
    """
    azimuth, elevation = math.radians(look.sun_azimuth_deg), math.radians(look.sun_elevation_deg)
    low = math.cos(elevation)
    sun = np.array([math.sin(azimuth) * low, math.cos(azimuth) * low, math.sin(elevation)])
    power = min(0.62 / sun[2], 1.5) * (1 - weather.overcast) ** 1.5
    cool = np.array([0.96, 1.0, 1.07]) * (0.48 + 0.4 * weather.overcast)
    rest = np.array([weather.cover, weather.overcast, weather.visibility_m])
    return np.concatenate([sun, weather.sunlight * power, cool, weather.horizon, weather.zenith, rest])


@njit(cache=True, nogil=True)
def sky_colour(light: FloatArray, seed: int, d: Vector) -> Vector:
    """The sky in a direction: a gradient, a glow around the sun and clouds on a plane overhead."""
    up = max(d[2], 0.0)
    rise = min(up * 1.7, 1.0)
    rise = rise * (2 - rise)
    cloud = 0.0
    if up > 0.015 and light[COVER] > 0.05:
        dense = _billows(d[0] / (up + 0.12) * 1.6, d[1] / (up + 0.12) * 1.6, seed)
        cloud = min(max((dense - 0.78 + 0.5 * light[COVER]) * 3.2, 0.0), 1.0) * min(up * 9, 1.0)
    toward = max(d[0] * light[SUN] + d[1] * light[SUN + 1] + d[2] * light[SUN + 2], 0.0)
    glow = toward * toward
    glow = glow * glow
    glow = glow * glow * (1 - light[OVERCAST]) * 46
    white = 238.0 - 46 * light[OVERCAST]
    red = light[HORIZON] + (light[ZENITH] - light[HORIZON]) * rise + glow
    green = light[HORIZON + 1] + (light[ZENITH + 1] - light[HORIZON + 1]) * rise + glow
    blue = light[HORIZON + 2] + (light[ZENITH + 2] - light[HORIZON + 2]) * rise + glow * 0.8
    return red + (white - red) * cloud, green + (white - green) * cloud, blue + (white + 3 - blue) * cloud


@njit(cache=True, nogil=True)
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
