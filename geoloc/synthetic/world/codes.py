"""Hash codes without pictures: the statistics of real codes in a small model, for indexes of any size.

A code is the sign of a latent Gaussian vector. Its thresholds come from how often each bit is set, its covariance
from how the bits go together (for two bits that are both set half of the time the arcsine law gives it exactly:
the correlation of latents is sin(pi / 2 * the correlation of signs); Van Vleck and Middleton, Proc. IEEE 54, 1966),
kept as a few factors and a rest of each bit's own. Codes come in groups of neighbours, whose latents share a part
that is as large as nearest neighbours among the real codes say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from geoloc.core.arrays import Codes, Float32Array, FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.synthetic.world.noise import generator

BLOCK = 4096
GROUP = 4
_FACTORS = 96
_MOST_ROWS = 8192
_LEAST_ROWS = 200
_QUANTILES = 256
_ROUNDS = 4


@dataclass(frozen=True)
class CodeModel:
    """The statistics of real codes.

    threshold: float32[D], a bit is set where its latent exceeds it; factors: float32[K, D] and rest: float32[D],
    the latent's covariance is factors.T @ factors + diag(rest ** 2), of unit diagonal; kinship: float32[Q]
    correlations of neighbours' latents, equally likely.
    """

    threshold: Float32Array
    factors: Float32Array
    rest: Float32Array
    kinship: Float32Array

    @property
    def bits(self) -> int:
        """Length of the codes."""
        return len(self.threshold)


def fit_codes(codes: Codes) -> CodeModel:
    """The model of codes uint8[N, bits // 8]; from a large table it takes evenly spaced rows.

    Raises `InputError` for fewer than 200.
    """
    if len(codes) < _LEAST_ROWS:
        raise InputError(
            f"{len(codes)} codes are too few to learn their statistics from; give a table of at least {_LEAST_ROWS}.",
            reason="too_few",
        )
    step = max(1, len(codes) // _MOST_ROWS)
    signs = np.unpackbits(np.ascontiguousarray(codes[::step]), axis=1).astype(np.float32) * 2 - 1
    share = np.clip((signs.mean(0) + 1) / 2, 0.002, 0.998)
    centred = signs - signs.mean(0)
    scale = np.maximum(centred.std(0), 1e-3)
    correlation = np.sin(np.pi / 2 * np.clip((centred / scale).T @ (centred / scale) / len(signs), -1, 1))
    value, vector = np.linalg.eigh(correlation.astype(np.float64))
    kept = value[-_FACTORS:] > 0
    factors = (vector[:, -_FACTORS:] * np.sqrt(np.maximum(value[-_FACTORS:], 0)))[:, kept].T
    power = (factors**2).sum(0)
    factors /= np.sqrt(np.maximum(power, 1.0))
    rest = np.sqrt(np.maximum(0.0, 1 - (factors**2).sum(0)))
    threshold, kinship = -ndtri(share).astype(np.float32), np.zeros(_QUANTILES, np.float32)
    model = CodeModel(threshold, factors.astype(np.float32), rest.astype(np.float32), kinship)
    return _with_kinship(model, signs)


def nearest_bits(signs: Float32Array) -> IntArray:
    """Hamming distance of each row of signs (-1 or 1) float32[N, D] from its nearest other: int64[N]."""
    nearest = np.empty(len(signs), np.int64)
    for first in range(0, len(signs), 512):
        agree = signs[first : first + 512] @ signs.T
        rows = np.arange(len(agree))
        agree[rows, first + rows] = -np.inf
        nearest[first : first + 512] = np.round((signs.shape[1] - agree.max(1)) / 2)
    return nearest


def _with_kinship(model: CodeModel, signs: Float32Array) -> CodeModel:
    """The model with the kinship whose codes have nearest neighbours as far away as the real ones.

    A first guess takes the nearest for a relative (their latents correlate by cos(pi * share of bits that differ));
    in a few rounds of drawing as many codes, each quantile is moved by what it missed.
    """
    level = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    wanted = np.quantile(nearest_bits(signs), level) / model.bits
    share = wanted.copy()
    for _ in range(_ROUNDS):
        model = replace(model, kinship=np.cos(np.pi * np.clip(share, 0, 0.5)).astype(np.float32))
        drawn = np.concatenate([code_block(model, 0, k) for k in range(-(-len(signs) // BLOCK))])[
            : len(signs)
        ]
        found = nearest_bits(np.unpackbits(drawn, axis=1).astype(np.float32) * 2 - 1)
        share = np.sort(np.clip(share + wanted - np.quantile(found, level) / model.bits, 0, 0.5))
    return replace(model, kinship=np.cos(np.pi * share).astype(np.float32))


def code_block(model: CodeModel, seed: int, block: int) -> Codes:
    """Codes block * 4,096 .. of an endless gallery: uint8[4096, bits // 8], groups of four neighbours in a row."""
    rng = generator(seed + 900, block)
    groups = BLOCK // GROUP
    kin = np.repeat(rng.choice(model.kinship, groups), GROUP)[:, None]
    shared = np.repeat(_latents(model, rng, groups), GROUP, 0)
    own = _latents(model, rng, BLOCK)
    latent = np.sqrt(np.maximum(kin, 0)) * shared + np.sqrt(1 - np.maximum(kin, 0)) * own
    return np.packbits(latent > model.threshold, axis=1)


def _latents(model: CodeModel, rng: np.random.Generator, count: int) -> Float32Array:
    """Independent draws of the latent vector: float32[count, D]."""
    drawn = rng.standard_normal((count, len(model.factors)), np.float32) @ model.factors
    drawn += rng.standard_normal((count, model.bits), np.float32) * model.rest
    return np.asarray(drawn)


def block_places(block: int) -> tuple[FloatArray, FloatArray]:
    """Positions of the codes of a block: x and y float64[4096], groups 24 m apart, their codes 8 m.

    Convention: x east, y north in city metres; blocks of 768 m in rows of 256, southwards from y = -2,048 m.
    """
    row, column = divmod(block, 256)
    group, member = np.divmod(np.arange(BLOCK), GROUP)
    north, east = np.divmod(group, 32)
    x = column * 768.0 + east * 24.0 + (member % 2) * 8.0 + 8.0
    y = -2048.0 - (row + 1) * 768.0 + north * 24.0 + (member // 2) * 8.0 + 8.0
    return x, y
