"""The street camera: its geometry, exposure, blur, noise and JPEG compression."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from geoloc.core.arrays import Float32Array, FloatArray, IntArray
from geoloc.synthetic.world.noise import Scalar, generator
from geoloc.synthetic.world.pixels import to_byte
from geoloc.synthetic.world.style import PIXEL_M, VIEW_RANGE_M

_FILM_SIZE = 1 << 18
_LEVELS = (np.arange(256) / 255).astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """A 360-degree camera.

    Convention: equirectangular; row 0 looks up at `top_deg`, the last row down at `bottom_deg` (elevations above
    the horizon); azimuth grows to the right and the centre column looks along the heading.
    """

    height_px: int = 64
    width_px: int = 256
    top_deg: float = 32.0
    bottom_deg: float = -42.0
    camera_m: float = 2.0
    supersampling: int = 2


@dataclass(frozen=True)
class Rays:
    """The rays that all pictures of a camera share.

    azimuth: float64[C] relative to the heading; tangent: float32[R] of each row's elevation, lowest row first;
    distance_m: float32[S] of the march's steps; base_row: int64[S], the first row above the ground there.
    """

    azimuth: FloatArray
    tangent: Float32Array
    distance_m: Float32Array
    base_row: IntArray
    low: float
    step: float

    def row_of(self, tangent: Float32Array) -> IntArray:
        """Number of rows that look lower than a tangent of elevation: int64[...]."""
        rows = np.ceil((np.arctan(tangent) - self.low) / self.step - 0.5)
        return np.clip(rows, 0, len(self.tangent)).astype(np.int64)


@lru_cache(maxsize=4)
def rays(camera: Camera) -> Rays:
    """The rays of a camera; steps grow with distance beyond 36 m."""
    columns, rows = camera.width_px * camera.supersampling, camera.height_px * camera.supersampling
    azimuth = np.radians((np.arange(columns) + 0.5) / columns * 360 - 180)
    low, high = np.radians([camera.bottom_deg, camera.top_deg])
    step = float(high - low) / rows
    tangent = np.tan(low + (np.arange(rows) + 0.5) * step).astype(np.float32)
    distances = [1.2]
    while distances[-1] < VIEW_RANGE_M - 2:
        distances.append(distances[-1] + max(PIXEL_M, distances[-1] * 0.011))
    distance = np.array(distances, np.float32)
    made = Rays(azimuth, tangent, distance, np.zeros(0, np.int64), float(low), step)
    base = made.row_of(np.asarray(-camera.camera_m / distance, np.float32))
    return Rays(azimuth, tangent, distance, base, float(low), step)


@lru_cache(maxsize=1)
def _film() -> Float32Array:
    """Normal noise that pictures start reading at a place of their own: float32[2^18], read-only."""
    noise = np.random.default_rng(20_000).standard_normal(_FILM_SIZE, np.float32)
    noise.flags.writeable = False
    return noise


@njit(cache=True, nogil=True)
def _expose(
    picture: NDArray[np.uint8],
    levels: Float32Array,
    saturation: Scalar,
    film: Float32Array,
    start: int,
    noise: Scalar,
) -> NDArray[np.uint8]:
    """Levels float32[3, 256] by channel, then saturation, then noise: uint8[H, W, 3]."""
    out = np.empty_like(picture)
    at, last = start, len(film) - 3
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            red = levels[0, picture[row, column, 0]]
            green = levels[1, picture[row, column, 1]]
            blue = levels[2, picture[row, column, 2]]
            grey = (red + green + blue) * np.float32(1 / 3)
            out[row, column, 0] = to_byte(grey + (red - grey) * saturation + film[at] * noise)
            out[row, column, 1] = to_byte(grey + (green - grey) * saturation + film[at + 1] * noise)
            out[row, column, 2] = to_byte(grey + (blue - grey) * saturation + film[at + 2] * noise)
            at = at + 3 if at + 3 < last else 0
    return out


def expose(
    picture: NDArray[np.uint8], gamma: float, gain: ArrayLike, saturation: float, noise: float, start: int
) -> NDArray[np.uint8]:
    """Tone curve, gains float[3] of the channels, saturation and noise of a standard deviation: uint8[H, W, 3].

    start: where on the film to begin, 0 .. 2^18.
    """
    curve = _LEVELS**gamma * np.float32(255)
    levels = np.asarray(gain, np.float32)[:, None] * curve
    at = min(start // 3 * 3, _FILM_SIZE - 6)
    return np.asarray(_expose(picture, levels, np.float32(saturation), _film(), at, np.float32(noise)))


def develop(
    picture: NDArray[np.uint8], seed: int, exposure: float, tint: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """The picture as one camera saw it: tone curve, exposure, colours, blur and noise: uint8[H, W, 3]."""
    rng = generator(seed, 1)
    blur, gamma = rng.uniform(0, 0.9), rng.uniform(0.72, 1.4)
    saturation, noise = rng.uniform(0.4, 1.4), rng.uniform(1, 6)
    if blur > 0.3:
        wide = np.concatenate([picture[:, -4:], picture, picture[:, :4]], 1)  # the panorama closes on itself
        picture = np.asarray(Image.fromarray(wide).filter(ImageFilter.GaussianBlur(blur)), np.uint8)[:, 4:-4]
    gain = exposure * np.asarray(tint)
    return expose(picture, gamma, gain, saturation, noise, int(rng.integers(_FILM_SIZE)))


def jpeg(picture: NDArray[np.uint8], quality: int) -> bytes:
    """A picture uint8[H, W, 3] as JPEG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def jpeg_quality(seed: int) -> int:
    """The compression of one photo, 50 to 92."""
    return int(generator(seed, 2).integers(50, 93))
