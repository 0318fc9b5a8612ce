"""Conditions of a view that differ from the city itself: season, sun, exposure, worn and repainted marks, traffic.

Aerial imagery and every photo draw a look of their own, so that looks do not help to match them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from geoloc.core.arrays import Float32Array
from geoloc.synthetic.world.blocks import BED, HEDGE, LAWN, SOIL, WATER
from geoloc.synthetic.world.ground import FIRST_YELLOW
from geoloc.synthetic.world.noise import generator, mottle, uniform
from geoloc.synthetic.world.style import CHUNK_PX

_WEAR_PATTERNS = 8
_HUES = (0.0, 0.3, 0.6, 0.9, 0.93, 1.0)
_CROWNS = ((32, 62, 50), (50, 88, 42), (80, 110, 44), (122, 130, 52), (112, 60, 58), (88, 46, 52))
"""Crowns from dark conifers to pale and, rarely, copper leaves."""


@dataclass(frozen=True)
class Look:
    """The state of the world and of the light in one view.

    Convention: the sun's azimuth is clockwise from grid north, its elevation above the horizon.
    season: 0 high summer to 1 late autumn; dryness 0..1 of the grass; tint: gains of red, green, blue;
    traffic: share of places on the street that hold a car; seed: what wear, repainting and cars are drawn from;
    variety: spread (of the logarithm) of each ground's brightness in this view: wet or dry, dusty or swept;
    haze: how much of its colour the air adds at the end of the viewing range.
    """

    seed: int
    sun_azimuth_deg: float
    sun_elevation_deg: float
    season: float
    dryness: float
    exposure: float
    tint: tuple[float, float, float]
    traffic: float
    wear: float
    variety: float = 0.0
    haze: float = 0.4

    @cached_property
    def ground_gain(self) -> Float32Array:
        """Factors on the colour of each ground material: float32[14, 3]."""
        gain = np.ones((14, 3), np.float32)
        dry, late = self.dryness, self.season
        gain[[LAWN, BED]] = 1 + dry * np.array([0.55, 0.12, 0.1]) + late * np.array([0.12, -0.1, -0.05])
        gain[HEDGE] = 1 + late * np.array([0.5, -0.05, -0.1])
        gain[SOIL] = 1.12 - 0.3 * late
        gain[WATER] = uniform(self.seed, np.arange(3)) * 0.3 + 0.85
        rng = generator(self.seed, 4)
        own = rng.normal(0, self.variety, (14, 1)) + rng.normal(0, 0.35 * self.variety, (14, 3))
        return np.asarray(gain * np.exp(own), np.float32)

    @cached_property
    def crown_colours(self) -> Float32Array:
        """Colour of a tree crown by its hue 0..255: float32[256, 3]. Low hues are evergreen."""
        hue = np.arange(256)[:, None] / 255
        green = np.stack([np.interp(hue[:, 0], _HUES, band) for band in zip(*_CROWNS, strict=True)], -1)
        autumn = np.array([148, 96, 40]) + (hue * 7 % 1) * np.array([40, 50, 10])
        turned = np.clip(self.season * 1.7 - 0.25 - 0.5 * (hue * 3 % 1), 0, 1) * ((hue > 0.25) & (hue < 0.92))
        return np.asarray(green * (1 - turned) + autumn * turned, np.float32)

    @property
    def worn(self) -> Float32Array:
        """Wear of the road marks, one of eight patterns that repeat every chunk: float32[640, 640]."""
        return mottle(CHUNK_PX, 5, 900 + self.seed % _WEAR_PATTERNS)

    @cached_property
    def marking_colours(self) -> tuple[Float32Array, Float32Array]:
        """Colour float32[256, 3] and strength float32[256] of each marking group in this view.

        Some groups were worn off, some repainted since the other view; group 0 has no strength.
        """
        group = np.arange(256)
        age = uniform(self.seed + 1, group)
        strength = np.where(age < 0.14, 0.0, 0.45 + 0.55 * age)
        strength[0] = 0
        colour = np.where((group >= FIRST_YELLOW)[:, None], (214, 178, 62), (226, 226, 220))
        changed = uniform(self.seed + 2, group) < 0.06
        colour = np.where(changed[:, None], (226, 226, 220), colour)
        return colour.astype(np.float32), strength.astype(np.float32)


def flight_look(seed: int, *flight: int) -> Look:
    """The look of aerial imagery of one flight (line and leg): summer to early autumn, sun in the south.

    Convention: azimuths lie within 40 degrees of south, as `aerial.shadows` needs.
    """
    rng = generator(seed + 300, *flight)
    tint = 1 + rng.normal(0, 0.025, 3)
    return Look(
        seed=int(rng.integers(2**31)),
        sun_azimuth_deg=float(rng.uniform(140, 220)),
        sun_elevation_deg=float(rng.uniform(36, 56)),
        season=float(rng.uniform(0, 0.5)),
        dryness=float(rng.uniform(0, 0.5)),
        exposure=float(rng.uniform(0.92, 1.12)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        traffic=float(rng.uniform(0.1, 0.45)),
        wear=float(rng.uniform(0.1, 0.5)),
        variety=0.06,
    )


def photo_look(seed: int, *keys: int) -> Look:
    """The look of one street photo: any season, sun, exposure and traffic."""
    rng = generator(seed + 400, *keys)
    warm, green = rng.normal(0, 0.13), rng.normal(0, 0.05)
    tint = np.exp([warm, green, -warm])
    return Look(
        seed=int(rng.integers(2**31)),
        sun_azimuth_deg=float(rng.uniform(90, 270)),
        sun_elevation_deg=float(rng.uniform(12, 60)),
        season=float(rng.uniform(0, 1)),
        dryness=float(rng.uniform(0, 0.9)),
        exposure=float(rng.uniform(0.66, 1.34)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        traffic=float(rng.uniform(0, 0.4)),
        wear=float(rng.uniform(0.1, 0.6)),
        variety=0.2,
        haze=float(rng.uniform(0.15, 0.6)),
    )
