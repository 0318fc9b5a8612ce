"""Rotation invariant codes: one scan finds the tiles of photos of unknown heading; optional.

The embedding is [channels, columns] and a turn of the photo rolls the columns. A turn multiplies the spectrum X_c(f) by
a phase that is the same for all channels c. The products X_c(f) conj X_d(f) of channels are therefore invariant, and
they keep the phases between channels, which magnitudes lose. For photos x and y these products have the inner product
|<x(f), y(f)>|^2, and the sum of |<x(f), y(f)>| bounds the correlation at the best turn from above. A bit is the sign of
a random projection of all products of the lower half of the frequencies. The projections are of rank one,
Re(a.X(f) conj(b.X(f))) with random signs in a and b, so each frequency costs two matrix products.

    any-heading.npy   uint8[N, bits // 8], beside the codes of a shard and in their order

A photo that shows only a part of the circle has other products; it is searched by its codes at all headings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Codes, FloatArray, HalfArray
from geoloc.core.errors import ConfigError
from geoloc.index.format.manifest import ANY_HEADING_NAME
from geoloc.index.format.shard import save_array

_SEED = 2023
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class AnyHeadingCoder:
    """Codes of `bits` bits of embeddings with `columns` azimuth columns; `ConfigError` for fewer than 2 columns."""

    bits: int
    columns: int

    def __post_init__(self) -> None:
        if self.bits < 8 or self.bits % 8 or self.columns < 2:
            raise ConfigError(
                f"any_heading_bits is {self.bits} and the model's embedding has {self.columns} azimuth columns that "
                "turn with the photo; give a multiple of 8 and a model that keeps its columns."
            )

    def codes(self, embeddings: npt.NDArray[np.floating]) -> Codes:
        """Codes uint8[N, bits // 8] of embeddings [N, D], the same for every roll of the columns.

        Sums are float64; where one lies within rounding of zero, machines may differ in that bit.
        """
        out = np.empty((len(embeddings), self.bits // 8), np.uint8)
        for start in range(0, len(embeddings), _BLOCK_ROWS):
            block = embeddings[start : start + _BLOCK_ROWS].astype(np.float64)
            out[start : start + _BLOCK_ROWS] = self._block(block)
        return out

    def _block(self, embeddings: FloatArray) -> Codes:
        if embeddings.shape[1] % self.columns:
            raise ConfigError(
                f"Embeddings of dimension {embeddings.shape[1]} have no {self.columns} columns; build the index with "
                "the model that made them."
            )
        by_column = embeddings.reshape(len(embeddings), -1, self.columns)
        spectrum = np.fft.rfft(by_column)[..., : self.columns // 4 + 1]
        projected = np.zeros((len(embeddings), self.bits))
        for frequency, (left, right) in enumerate(_signs(self.bits, *spectrum.shape[1:])):
            one = spectrum[:, :, frequency]
            product = ((one @ left) * np.conj(one @ right)).real
            projected += product if frequency else product / np.sqrt(2)  # the mean has no negative frequency
        return np.packbits(projected > 0, axis=1)


@lru_cache(maxsize=4)
def _signs(
    bits: int, channels: int, frequencies: int
) -> list[tuple[npt.NDArray[np.complex128], npt.NDArray[np.complex128]]]:
    """Random a and b of every frequency, each [channels, bits] of +-1 +-i: of a fixed seed, so of the format."""
    rng = np.random.default_rng(_SEED)
    drawn = []
    for _ in range(frequencies):
        signs = rng.integers(0, 2, (4, channels, bits)) * 2.0 - 1.0
        drawn.append((signs[0] + 1j * signs[1], signs[2] + 1j * signs[3]))
    return drawn


def write_any_heading(directory: Path, coder: AnyHeadingCoder, embeddings: HalfArray) -> None:
    """Write the codes of a shard's embeddings float16[N, D] beside its files."""
    save_array(directory / ANY_HEADING_NAME, coder.codes(embeddings))
