"""Randomness that depends on coordinates alone: integer hashes and smooth value noise.

Nothing here keeps a state, so any part of the city can be generated without the rest and in any order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from geoloc.core.arrays import Float32Array, FloatArray, IntArray

Scalar = Any
"""A number in compiled code, of whatever width the caller's is."""

_MASK = 0xFFFFFFFF
_START = 0x6A09E667
_MULTIPLY_KEY = 0x9E3779B1
_MULTIPLY_A = 0x7FEB352D  # the two multipliers of Wellons' low-bias 32-bit mixer
_MULTIPLY_B = 0x846CA68B


def hash_int(seed: int, *keys: int) -> int:
    """A 32-bit hash of integers, for one value; `hash_array` gives the same for arrays."""
    state = (seed * _MULTIPLY_KEY + _START) & _MASK
    for key in keys:
        state ^= ((key & _MASK) * _MULTIPLY_KEY) & _MASK
        state = ((state ^ (state >> 16)) * _MULTIPLY_A) & _MASK
        state = ((state ^ (state >> 15)) * _MULTIPLY_B) & _MASK
        state ^= state >> 16
    return state


@njit(cache=True, nogil=True)
def _mix(state: Scalar, key: Scalar) -> Scalar:
    """One round of `hash_int`; all in 64 bits, cut to 32."""
    state = np.uint64(state) ^ (
        (np.uint64(key) & np.uint64(_MASK)) * np.uint64(_MULTIPLY_KEY) & np.uint64(_MASK)
    )
    state = ((state ^ (state >> np.uint64(16))) * np.uint64(_MULTIPLY_A)) & np.uint64(_MASK)
    state = ((state ^ (state >> np.uint64(15))) * np.uint64(_MULTIPLY_B)) & np.uint64(_MASK)
    return state ^ (state >> np.uint64(16))


@njit(cache=True, nogil=True)
def hash3(seed: Scalar, a: Scalar, b: Scalar, c: Scalar) -> Scalar:
    """`hash_int(seed, a, b, c)` for compiled code; any integers."""
    start = np.uint64(seed) * np.uint64(_MULTIPLY_KEY) + np.uint64(_START)
    state = start & np.uint64(_MASK)
    return np.int64(_mix(_mix(_mix(state, a), b), c))


@njit(cache=True, nogil=True)
def _hash_columns(seed: int, keys: IntArray) -> NDArray[np.uint32]:
    """Hashes of the columns of int64[K, N]: uint32[N]."""
    start = (np.uint64(seed) * np.uint64(_MULTIPLY_KEY) + np.uint64(_START)) & np.uint64(_MASK)
    out = np.empty(keys.shape[1], np.uint32)
    for n in range(keys.shape[1]):
        state: Scalar = start
        for k in range(keys.shape[0]):
            state = _mix(state, keys[k, n])
        out[n] = np.uint32(state)
    return out


def hash_array(seed: int, *keys: ArrayLike) -> NDArray[np.uint32]:
    """A 32-bit hash of integer arrays that broadcast against each other: uint32[...]."""
    shape = np.broadcast_shapes(*(np.shape(key) for key in keys))
    table = np.empty((len(keys), *shape), np.int64)
    for k, key in enumerate(keys):
        table[k, ...] = key
    return np.asarray(_hash_columns(seed, table.reshape(len(keys), -1)).reshape(shape))


def uniform(seed: int, *keys: ArrayLike) -> FloatArray:
    """Numbers in [0, 1) from `hash_array`: float64[...]."""
    return hash_array(seed, *keys).astype(np.float64) / 4294967296.0


def generator(seed: int, *keys: int) -> np.random.Generator:
    """A random generator of its own for one thing of the city (a block, a photo)."""
    return np.random.default_rng([hash_int(seed, *keys), hash_int(seed + 1, *keys)])


def _ease(fraction: FloatArray) -> FloatArray:
    return fraction * fraction * (3.0 - 2.0 * fraction)


def value_noise(x: ArrayLike, y: ArrayLike, scale_m: float, seed: int) -> FloatArray:
    """Smooth noise in [0, 1] at points (metres east, metres north): float64[...]."""
    gx, gy = np.asarray(x, np.float64) / scale_m, np.asarray(y, np.float64) / scale_m
    i, j = np.floor(gx).astype(np.int64), np.floor(gy).astype(np.int64)
    fx, fy = _ease(gx - i), _ease(gy - j)
    south = uniform(seed, i, j) * (1 - fx) + uniform(seed, i + 1, j) * fx
    north = uniform(seed, i, j + 1) * (1 - fx) + uniform(seed, i + 1, j + 1) * fx
    return np.asarray(south * (1 - fy) + north * fy)


def _lattice_places(
    first_m: float, count: int, step_m: float, scale_m: float
) -> tuple[IntArray, IntArray, Float32Array]:
    """Lattice indices, and for `count` pixel centres which is the lower one (from the first) and the share beyond."""
    g = (first_m + (np.arange(count) + 0.5) * step_m) / scale_m
    lower = np.floor(g).astype(np.int64)
    return np.arange(lower[0], lower[-1] + 2), lower - lower[0], _ease(g - lower).astype(np.float32)


@njit(cache=True, nogil=True)
def _interpolate(
    lattice: Float32Array, iy: IntArray, fy: Float32Array, ix: IntArray, fx: Float32Array
) -> Float32Array:
    """Values between lattice points, rows turned from the north down: float32[len(iy), len(ix)]."""
    rows, columns = len(iy), len(ix)
    out = np.empty((rows, columns), np.float32)
    line = np.empty(lattice.shape[1], np.float32)
    for r in range(rows):
        for k in range(len(line)):
            low = lattice[iy[r], k]
            line[k] = low + (lattice[iy[r] + 1, k] - low) * fy[r]
        for c in range(columns):
            low = line[ix[c]]
            out[rows - 1 - r, c] = low + (line[ix[c] + 1] - low) * fx[c]
    return out


def noise_raster(
    west_m: float, south_m: float, size_px: int, step_m: float, scale_m: float, seed: int
) -> Float32Array:
    """`value_noise` at the pixel centres of a square raster: float32[size_px, size_px].

    Convention: row 0 is the northern edge, columns run east.
    """
    kx, ix, fx = _lattice_places(west_m, size_px, step_m, scale_m)
    ky, iy, fy = _lattice_places(south_m, size_px, step_m, scale_m)
    lattice = uniform(seed, kx[None, :], ky[:, None]).astype(np.float32)
    return np.asarray(_interpolate(lattice, iy, fy, ix, fx))


@lru_cache(maxsize=8)
def grain(size_px: int, seed: int) -> Float32Array:
    """White pixel noise in [-0.5, 0.5), the same for every chunk: float32[size_px, size_px], read-only.

    It repeats every chunk on purpose: it is texture without information about the place.
    """
    pixels = np.arange(size_px)
    noise = (uniform(seed, pixels[None, :], pixels[:, None]) - 0.5).astype(np.float32)
    noise.flags.writeable = False
    return noise


@lru_cache(maxsize=32)
def mottle(size_px: int, cell_px: int, seed: int) -> Float32Array:
    """Smooth periodic noise in [-0.5, 0.5] with cells of `cell_px`: float32[size_px, size_px], read-only."""
    cells = size_px // cell_px
    lattice = (uniform(seed, np.arange(cells)[None, :], np.arange(cells)[:, None]) - 0.5).astype(np.float32)
    position = (np.arange(size_px) + 0.5) / cell_px
    lower = np.floor(position).astype(np.int64)
    fraction = _ease(position - lower).astype(np.float32)
    matrix = np.zeros((size_px, cells), np.float32)
    rows = np.arange(size_px)
    np.add.at(matrix, (rows, lower % cells), 1 - fraction)
    np.add.at(matrix, (rows, (lower + 1) % cells), fraction)
    noise = np.ascontiguousarray(matrix @ lattice @ matrix.T, np.float32)
    noise.flags.writeable = False
    return noise
