"""Pictures of no place, made by code: what a calibration must learn to decline."""

from __future__ import annotations

import numpy as np

from geoloc.core.arrays import FloatArray, Pixels

KINDS = ("noise", "clouds", "gradient", "stripes", "checks", "blobs")


def no_place_picture(number: int, height_px: int, width_px: int, *, seed: int = 0) -> Pixels:
    """Picture `number` of a series, uint8[height_px, width_px, 3]; the kinds of `KINDS` follow one another.

    Colours, sizes and directions are drawn anew for each. A little noise lies on all of them, as a camera adds it, so
    that none is a plain surface.
    """
    rng = np.random.default_rng([seed, number])
    shape = _SHAPES[KINDS[number % len(KINDS)]](rng, height_px, width_px)
    low, high = np.sort(rng.uniform(0, 255, (2, 3)), axis=0)
    picture = low + (high - low) * shape[..., None] + rng.normal(0, rng.uniform(2, 12), (*shape.shape, 3))
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)


def _noise(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    return np.asarray(rng.uniform(0, 1, (height, width)))


def _clouds(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Noise of several scales, the coarse ones strongest."""
    total = np.zeros((height, width))
    for octave in range(1, 6):
        cells = rng.uniform(0, 1, (min(height, 2**octave), min(width, 2 ** (octave + 1))))
        total += _stretched(cells, height, width) / 2**octave
    return _unit(total)


def _gradient(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    return _unit(_along(rng, height, width) ** rng.uniform(0.5, 2.0))


def _stripes(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    wave = np.sin(2 * np.pi * rng.uniform(2, 40) * _along(rng, height, width))
    bend = np.sin(2 * np.pi * rng.uniform(0.5, 3) * _along(rng, height, width))
    return _unit(np.tanh(rng.uniform(0.5, 8) * (wave + rng.uniform(0.1, 0.6) * bend)))


def _checks(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    down, across = np.mgrid[0:height, 0:width]
    cell = rng.uniform(4, max(5.0, height / 3))
    return np.asarray(((down // cell + across // (cell * rng.uniform(0.5, 2))) % 2).astype(np.float64))


def _blobs(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    down, across = np.mgrid[0:height, 0:width]
    total = np.zeros((height, width))
    for _ in range(int(rng.integers(3, 20))):
        size = rng.uniform(0.02, 0.2) * width
        middle = rng.uniform(0, height), rng.uniform(0, width)
        total += rng.normal() * np.exp(-((down - middle[0]) ** 2 + (across - middle[1]) ** 2) / size**2)
    return _unit(total)


_SHAPES = {
    "noise": _noise,
    "clouds": _clouds,
    "gradient": _gradient,
    "stripes": _stripes,
    "checks": _checks,
    "blobs": _blobs,
}


def _along(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Distance along a direction drawn at random, 0 to 1 over the picture."""
    down, across = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * np.pi)
    return _unit(np.cos(angle) * across / width + np.sin(angle) * down / height)


def _stretched(cells: FloatArray, height: int, width: int) -> FloatArray:
    """Cells [h, w] at height x width, bilinear."""
    down = np.linspace(0, cells.shape[0] - 1, height)
    across = np.linspace(0, cells.shape[1] - 1, width)
    rows = np.stack([np.interp(across, np.arange(cells.shape[1]), row) for row in cells])
    columns = [np.interp(down, np.arange(cells.shape[0]), column) for column in rows.T]
    return np.stack(columns, axis=1)


def _unit(values: FloatArray) -> FloatArray:
    low, high = float(values.min()), float(values.max())
    return np.asarray((values - low) / max(high - low, 1e-9))
