"""Weather and lens of street and drone photos: clouds, haze, a low sun, and the defects of a cheap camera.

Both are drawn from the look's seed, so that a look determines the picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from geoloc.core.arrays import Float32Array, FloatArray
from geoloc.synthetic.world.noise import generator
from geoloc.synthetic.world.view_conditions import Look, photo_look

_HORIZON = np.array([196, 206, 216.0])
_ZENITH = np.array([98, 142, 196.0])
_GREY = np.array([186, 190, 194.0])


@dataclass(frozen=True)
class Weather:
    """The air of one picture.

    overcast 0..1: how much of the sun is gone; cover 0..1: how much of the sky clouds fill; visibility_m: where haze
    hides half; horizon, zenith, sunlight: float64[3] colours.
    """

    overcast: float
    cover: float
    visibility_m: float
    horizon: FloatArray
    zenith: FloatArray
    sunlight: FloatArray
    seed: int


@dataclass(frozen=True)
class Lens:
    """Effects of a camera: blur in pixels, gamma, saturation, vignetting and noise in grey levels, JPEG quality."""

    blur_px: float
    gamma: float
    saturation: float
    vignette: float
    noise: float
    quality: int


def street_look(seed: int, *keys: int) -> Look:
    """The look of a street photo of limited view: as a panorama's, with the sun anywhere above 9 degrees."""
    look = photo_look(seed + 20, *keys)
    rng = generator(seed + 420, *keys)
    return replace(
        look, sun_azimuth_deg=float(rng.uniform(60, 300)), sun_elevation_deg=float(rng.uniform(9, 60)),
        exposure=float(rng.uniform(0.9, 1.25)), tint=_cast(rng),
    )  # fmt: skip


def drone_look(seed: int, *keys: int) -> Look:
    """The look of a drone photo: flown in daylight of any season."""
    look = photo_look(seed + 40, *keys)
    rng = generator(seed + 440, *keys)
    return replace(
        look, sun_azimuth_deg=float(rng.uniform(90, 270)), sun_elevation_deg=float(rng.uniform(22, 60)),
        exposure=float(rng.uniform(0.92, 1.2)), tint=_cast(rng),
    )  # fmt: skip


def _cast(rng: np.random.Generator) -> tuple[float, float, float]:
    """A mild cast of colour: gains of red, green and blue."""
    red, green, blue = 1 + rng.normal(0, 0.03, 3)
    return float(red), float(green), float(blue)


def weather_of(look: Look) -> Weather:
    """The weather of a look: one in four is overcast, one in six hazy; a low sun is warm."""
    rng = generator(look.seed, 11)
    overcast = float(rng.uniform(0.55, 1)) if rng.random() < 0.26 else float(rng.uniform(0, 0.3))
    hazy = rng.random() < 0.17
    visibility = float(rng.uniform(220, 420) if hazy else rng.uniform(500, 2200))
    low = float(np.clip((24 - look.sun_elevation_deg) / 18, 0, 1)) * (1 - overcast)
    horizon = _HORIZON * (1 - overcast) + _GREY * overcast * 1.04 + low * np.array([26, 4, -26])
    zenith = _ZENITH + rng.normal(0, 7, 3)
    zenith = zenith * (1 - overcast) + _GREY * 0.9 * overcast + hazy * np.array([40, 26, 8])
    return Weather(
        overcast=overcast, cover=float(rng.uniform(0, 0.75)) * (1 - overcast) + overcast, visibility_m=visibility,
        horizon=np.clip(horizon, 0, 250), zenith=np.clip(zenith, 0, 250),
        sunlight=np.array([1.0, 0.97, 0.9]) + low * np.array([0.1, -0.1, -0.3]), seed=int(rng.integers(2**31)),
    )  # fmt: skip


def lens_of(look: Look) -> Lens:
    """The camera of a look, from sharp and clean to soft, noisy and hard pressed."""
    rng = generator(look.seed, 12)
    return Lens(
        blur_px=float(max(0.0, rng.uniform(-0.7, 0.9))), gamma=float(rng.uniform(0.76, 1.08)),
        saturation=float(rng.uniform(0.7, 1.25)), vignette=float(rng.uniform(0, 0.32)),
        noise=float(rng.uniform(0.5, 4.5)), quality=int(rng.integers(55, 94)),
    )  # fmt: skip


def develop_photo(colour: Float32Array, look: Look) -> NDArray[np.uint8]:
    """The picture uint8[H, W, 3] of a look's camera, from the light at its lens, float32[H, W, 3] in 0..255."""
    lens = lens_of(look)
    rows, columns = colour.shape[:2]
    out = np.clip(colour * np.float32(1 / 255), 0, 1) ** np.float32(lens.gamma)
    out *= np.asarray(look.tint, np.float32) * np.float32(255 * look.exposure)
    grey = out.mean(-1, keepdims=True)
    out = grey + (out - grey) * np.float32(lens.saturation)
    y = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / rows) - 1
    x = (np.arange(columns, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / columns) - 1
    out *= (1 - np.float32(lens.vignette / 2) * (x[None, :] ** 2 + y[:, None] ** 2))[..., None]
    picture = np.clip(out, 0, 255).astype(np.uint8)
    if lens.blur_px > 0.25:
        picture = np.asarray(
            Image.fromarray(picture).filter(ImageFilter.GaussianBlur(lens.blur_px)), np.uint8
        )
    noise = generator(look.seed, 13).standard_normal((rows, columns, 3), np.float32)
    return np.asarray(np.clip(picture + noise * np.float32(lens.noise), 0, 255), np.uint8)


def photo_jpeg(picture: NDArray[np.uint8], look: Look) -> bytes:
    """A picture uint8[H, W, 3] as JPEG bytes at the quality of its look's camera."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=lens_of(look).quality)
    return buffer.getvalue()
