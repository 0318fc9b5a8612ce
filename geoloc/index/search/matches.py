"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Float32Array, FloatArray, Int32Array, IntArray


class Match(NamedTuple):
    """One tile that was found; lat and lon are None without coordinates, the measures where not computed."""

    tile_id: str
    lat: float | None
    lon: float | None
    distance_bits: int | None
    similarity: float | None
    row: int


@dataclass(frozen=True)
class Matches:
    """The best tiles of Q queries, best first, K columns; where fewer were found the rest is padding.

    rows: int64[Q, K], the row of the tile in its snapshot (-1: padding). tile_ids: object[Q, K] (str, None for
    padding). lat, lon: float64[Q, K] degrees (NaN without coordinates). distance_bits: int32[Q, K] Hamming
    distance (-1 where no codes were compared). similarity: float32[Q, K] dot product of the float embeddings
    (NaN where none was taken).
    """

    snapshot_id: str
    rows: IntArray
    tile_ids: npt.NDArray[np.object_]
    lat: FloatArray
    lon: FloatArray
    distance_bits: Int32Array
    similarity: Float32Array

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def counts(self) -> IntArray:
        """How many tiles each query found: int64[Q]."""
        return np.asarray((self.rows >= 0).sum(axis=1), dtype=np.int64)

    def of(self, query: int) -> list[Match]:
        """The tiles of one query, best first, without padding."""
        return [self._match(query, column) for column in range(int((self.rows[query] >= 0).sum()))]

    def _match(self, query: int, column: int) -> Match:
        lat, lon = float(self.lat[query, column]), float(self.lon[query, column])
        similarity, bits = float(self.similarity[query, column]), int(self.distance_bits[query, column])
        located = np.isfinite(lat) and np.isfinite(lon)
        return Match(
            tile_id=str(self.tile_ids[query, column]),
            lat=lat if located else None,
            lon=lon if located else None,
            distance_bits=bits if bits >= 0 else None,
            similarity=similarity if np.isfinite(similarity) else None,
            row=int(self.rows[query, column]),
        )
