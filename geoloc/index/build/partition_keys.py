"""Hashes of tile ids, partition keys and their histogram: how a build divides tiles into shards.

A partition key orders all tiles of a build. With coordinates it is the tile's cell followed by some bits of the hash
of its id, so that a crowded cell can be divided too. Without coordinates it is the hash alone. A key depends on the
tile only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from geoloc.core import geodesy
from geoloc.core.arrays import FloatArray, IntArray

KeyArray = npt.NDArray[np.uint64]


Partition = Literal["space", "even"]

KEY_BITS = 60
_CELL_BITS = 2 * geodesy.CELL_LEVEL
_HASH_BITS = KEY_BITS - _CELL_BITS
# Buckets of a histogram: a shard's border is exact to total / 2**18 tiles at worst.
HISTOGRAM_BUCKETS = 2**18


def _id_buffers(ids: pa.LargeStringArray) -> tuple[IntArray, npt.NDArray[np.uint8]]:
    """Offsets int64[N + 1] and UTF-8 bytes uint8[...] of strings, without a copy."""
    _, offsets, data = ids.buffers()
    bounds = (
        np.frombuffer(offsets, np.int64, len(ids) + 1, ids.offset * 8) if offsets else np.zeros(1, np.int64)
    )
    return bounds, np.frombuffer(data, np.uint8) if data and data.size else np.zeros(0, np.uint8)


def hash_ids(ids: pa.LargeStringArray) -> KeyArray:
    """64-bit hashes uint64[N] of ids: FNV-1a over the UTF-8 bytes, then the finaliser of splitmix64.

    Source: Fowler, Noll, Vo, "FNV hash", 64-bit parameters; Steele, Lea, Flood, "Fast splittable pseudorandom
    number generators", OOPSLA 2014, figure 17.
    """
    offsets, data = _id_buffers(ids)
    hashes: KeyArray = _hash(offsets, data)
    return hashes


@njit(cache=True, nogil=True)
def _hash(offsets: IntArray, data: npt.NDArray[np.uint8]) -> KeyArray:
    """FNV-1a and splitmix64 of each string."""
    out = np.empty(len(offsets) - 1, np.uint64)
    for row in range(len(out)):
        value = np.uint64(0xCBF29CE484222325)
        for place in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[row] = value ^ (value >> np.uint64(31))
    return out


def partition_keys(hashes: KeyArray, lat: FloatArray, lon: FloatArray, partition: Partition) -> KeyArray:
    """Keys uint64[N] below 2**60 of tiles; NaN coordinates or "even" leave the hashes."""
    if partition == "even" or np.isnan(lat).any():
        return hashes >> np.uint64(64 - KEY_BITS)
    cells = geodesy.cells(lat, lon).astype(np.uint64)
    return (cells << np.uint64(_HASH_BITS)) | (hashes >> np.uint64(64 - _HASH_BITS))


@dataclass(frozen=True)
class Histogram:
    """How many keys fall into each bucket: `keys >> shift` ascending uint64[K], counts int64[K].

    The shift is the smallest with which all buckets fit `HISTOGRAM_BUCKETS`, so it does not depend on the order
    in which histograms were merged.
    """

    shift: int
    buckets: KeyArray
    counts: IntArray

    @classmethod
    def of(cls, keys: KeyArray, limit: int = HISTOGRAM_BUCKETS) -> Histogram:
        """The histogram of keys uint64[N]."""
        buckets, counts = np.unique(keys, return_counts=True)
        return cls(0, buckets, counts.astype(np.int64))._fitting(limit)

    @classmethod
    def merged(cls, histograms: Iterable[Histogram], limit: int = HISTOGRAM_BUCKETS) -> Histogram:
        """The sum of histograms."""
        total = cls(0, np.empty(0, np.uint64), np.empty(0, np.int64))
        for other in histograms:
            shift = max(total.shift, other.shift)
            pair = (total._coarser(shift), other._coarser(shift))
            keys, counts = np.concatenate([each.buckets for each in pair]), [each.counts for each in pair]
            total = _summed(shift, keys, np.concatenate(counts))._fitting(limit)
        return total

    def _coarser(self, shift: int) -> Histogram:
        if shift == self.shift:
            return self
        return _summed(shift, self.buckets >> np.uint64(shift - self.shift), self.counts)

    def _fitting(self, limit: int) -> Histogram:
        fitting = self
        while len(fitting.buckets) > limit:
            fitting = fitting._coarser(fitting.shift + 1)
        return fitting

    def cuts(self, pieces: int) -> tuple[list[int], list[int]]:
        """(borders, counts): keys at which to cut so that all pieces have nearly the same number of keys.

        Piece i holds keys from borders[i] up to and without borders[i + 1]. Pieces that would be empty are left
        out, so there may be fewer.
        """
        cumulative = np.cumsum(self.counts)
        total = int(cumulative[-1]) if len(cumulative) else 0
        ends = [int(np.searchsorted(cumulative * pieces, part * total)) for part in range(1, pieces)]
        last = sorted({end for end in ends if end < len(cumulative) - 1})
        borders = [0, *((int(self.buckets[end]) + 1) << self.shift for end in last), 2**KEY_BITS]
        sums = [0, *(int(cumulative[end]) for end in last), total]
        return borders, [int(count) for count in np.diff(sums)]


def _summed(shift: int, buckets: KeyArray, counts: IntArray) -> Histogram:
    found, places = np.unique(buckets, return_inverse=True)
    return Histogram(shift, found, np.bincount(places, counts, len(found)).astype(np.int64))
