"""Photos of unknown heading against references, by circular correlation along the azimuth columns.

An embedding of a model that keeps the azimuth is [channels, columns]; turning the camera rolls the columns. All
turns are scored at once by the correlation theorem, on embeddings and on codes laid out by columns. How an index is
searched so: `localization/turning.py` and `index/anyheading.py`.

Convention: azimuth grows to the right. Turn s means the query rolled to the right by s columns; where it is the
best, the query's middle looks along s / columns * 360 degrees, clockwise from the reference's middle (north).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Codes, Float32Array, FloatArray, Int32Array, IntArray
from geoloc.core.errors import ConfigError

_Number = TypeVar("_Number", bound=np.generic)
_Real = TypeVar("_Real", np.float32, np.float64)

_UPSAMPLING = 8  # of the scores' circle before a parabola is laid through the peak
_TOLERANCE = 1e-5  # of float32 products of unit vectors


def turn_scores(
    queries: Float32Array, references: Float32Array, columns: int, *, visible: BoolArray | None = None
) -> Float32Array:
    """Cosine of every query with every reference at every turn, float32[Q, N, columns].

    `queries` [Q, D], `references` [N, D] are unit vectors of [channels, columns]. `visible` bool[Q, columns] are
    the columns that a photo of limited view shows: then only they are compared, and each score is the cosine of
    that part. Raises `ConfigError` when columns do not divide D.
    """
    query, reference = _by_column(queries, columns), _by_column(references, columns)
    if visible is not None:
        query = query * visible[:, None]
    product = _correlate(query, reference)
    if visible is None:
        return product
    energy = np.square(reference).sum(1, keepdims=True)
    covered = _correlate(visible[:, None].astype(np.float32), energy)
    length = np.linalg.norm(query.reshape(len(query), -1), axis=1)[:, None, None]
    norm = length * np.sqrt(np.maximum(covered, 0))
    return np.where(norm > _TOLERANCE, product / np.maximum(norm, _TOLERANCE), 0).astype(np.float32)


def code_distances(queries: Codes, references: Codes, columns: int) -> Int32Array:
    """Hamming distance of every query's code at every turn, int32[Q, N, columns], exact.

    Codes uint8[Q, B], uint8[N, B] of `hash.layout` columns (bit b of column c at b * columns + c). Raises
    `ConfigError` when columns do not divide the bits.
    """
    signs = [
        _by_column(np.unpackbits(codes, axis=-1).astype(np.float32) * 2 - 1, columns)
        for codes in (queries, references)
    ]
    bits = queries.shape[1] * 8
    # float64: sums of up to 4,096 products of +-1 are then integers to far below a half.
    agreeing = _correlate(signs[0].astype(np.float64), signs[1].astype(np.float64))
    distances: Int32Array = np.rint((bits - agreeing) / 2).astype(np.int32)
    return distances


def refine_peak(scores: npt.NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """Height and place in columns of the largest score of [..., columns], between the columns too.

    The scores are interpolated without adding frequencies, then a parabola is laid through the highest sample and
    its neighbours.
    """
    columns = scores.shape[-1]
    spectrum = np.fft.rfft(np.asarray(scores, dtype=np.float64))
    if columns % 2 == 0:
        spectrum[..., -1] /= 2  # the alternation belongs half to its negative, which the finer circle has too
    fine = np.fft.irfft(spectrum, n=columns * _UPSAMPLING) * _UPSAMPLING
    peak = fine.argmax(-1)

    def at(place: IntArray) -> FloatArray:
        return np.take_along_axis(fine, place[..., None] % fine.shape[-1], axis=-1)[..., 0]

    left, top, right = at(peak - 1), at(peak), at(peak + 1)
    bend = left - 2 * top + right
    shift = np.where(bend < 0, (left - right) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    height = top - (left - right) * shift / 4
    return height, (peak + shift) / _UPSAMPLING % columns


def _by_column(values: npt.NDArray[_Number], columns: int) -> npt.NDArray[_Number]:
    """[N, D] as [N, D // columns, columns]."""
    if columns < 1 or values.shape[-1] % columns:
        raise ConfigError(
            f"{values.shape[-1]} values do not divide into {columns} columns; give the model's own."
        )
    return values.reshape(len(values), values.shape[-1] // columns, columns)


def _correlate(queries: npt.NDArray[_Real], references: npt.NDArray[_Real]) -> npt.NDArray[_Real]:
    """Products [Q, N, W] of [Q, C, W] rolled to the right by every number of columns with [N, C, W]."""
    query = np.conj(np.fft.rfft(queries)).transpose(2, 0, 1)
    reference = np.fft.rfft(references).transpose(2, 1, 0)
    product = np.fft.irfft((query @ reference).transpose(1, 2, 0), n=queries.shape[-1])
    return product.astype(queries.dtype, copy=False)
