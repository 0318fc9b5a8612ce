"""What a search found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import Float32Array, FloatArray, Int32Array, IntArray

Comparison = Literal["embeddings", "logits", "codes"]
"""What ordered matches: stored embeddings, the photo's real numbers against the tiles' bits, or bits against bits."""


class TileMatch(NamedTuple):
    """One tile of a list of matches. Lat and lon are None without coordinates, measures where not computed."""

    tile_id: str
    lat: float | None
    lon: float | None
    distance_bits: int | None
    similarity: float | None
    row: int


_PADDING: dict[str, Any] = {
    "rows": -1,
    "tile_ids": None,
    "lat": np.nan,
    "lon": np.nan,
    "distance_bits": -1,
    "similarity": np.nan,
}


@dataclass(frozen=True)
class Matches:
    """The best tiles of Q queries, best first, K columns; where fewer were found the rest is padding.

    rows: int64[Q, K], the row of the tile in its snapshot (-1: padding). tile_ids: object[Q, K] (str, None for
    padding). lat, lon: float64[Q, K] degrees (NaN without coordinates). distance_bits: int32[Q, K] Hamming
    distance (-1 where no codes were compared). similarity: float32[Q, K] by `ordered_by`: the dot product of the float
    embeddings, or of logits the estimate of it (`weighted_scan.similarities`), or NaN for codes.
    """

    snapshot_id: str
    rows: IntArray
    tile_ids: npt.NDArray[np.object_]
    lat: FloatArray
    lon: FloatArray
    distance_bits: Int32Array
    similarity: Float32Array
    ordered_by: Comparison = "codes"

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    @property
    def counts(self) -> IntArray:
        """How many tiles each query found: int64[Q]."""
        return np.asarray((self.rows >= 0).sum(axis=1), dtype=np.int64)

    @property
    def width(self) -> int:
        """Columns K, padding included."""
        return int(self.rows.shape[1])

    def scores(self, bits: int) -> FloatArray:
        """What matches are compared by, float64[Q, K]; NaN for padding.

        The cosine of the embeddings, or its estimate from logits, where it was computed. Else the cosine estimated from
        the Hamming distance of codes of `bits` bits, cos(pi d / bits), which is exact in the mean for random
        hyperplanes.
        """
        estimate = np.cos(np.pi * self.distance_bits / bits)
        scores = np.where(np.isfinite(self.similarity), self.similarity, estimate).astype(np.float64)
        return np.where(self.rows >= 0, scores, np.nan)

    def take(self, columns: IntArray) -> Matches:
        """The given columns int64[Q, k] of each query; column -1 gives padding."""
        taken: dict[str, Any] = {
            name: np.take_along_axis(getattr(self, name), np.maximum(columns, 0), axis=1) for name in _PADDING
        }
        for name, empty in _PADDING.items():
            taken[name][columns < 0] = empty
        return replace(self, **taken)

    def grouped(self, size: int) -> Matches:
        """Every `size` consecutive lists as one: Q // size queries with size * K columns."""
        shape = (len(self) // size, size * self.width)
        arrays: dict[str, Any] = {name: getattr(self, name).reshape(shape) for name in _PADDING}
        return replace(self, **arrays)

    @classmethod
    def joined(cls, parts: Sequence[Matches]) -> Matches:
        """The lists of several results of one snapshot, one below the other, padded to the widest."""
        width = max(part.width for part in parts)
        arrays: dict[str, Any] = {}
        for name, empty in _PADDING.items():
            columns = [getattr(part, name) for part in parts]
            arrays[name] = np.concatenate(
                [
                    np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=empty)
                    for part in columns
                ]
            )
        return replace(parts[0], **arrays)

    def reordered(self, order: IntArray) -> Matches:
        """The lists of the queries `order` int64[q]."""
        arrays: dict[str, Any] = {name: getattr(self, name)[order] for name in _PADDING}
        return replace(self, **arrays)

    def of(self, query: int, most: int | None = None) -> list[TileMatch]:
        """The tiles of one query, `most` at most (None: all), best first, without padding."""
        found = int((self.rows[query] >= 0).sum())
        return [self._match(query, column) for column in range(found if most is None else min(found, most))]

    def _match(self, query: int, column: int) -> TileMatch:
        lat, lon = float(self.lat[query, column]), float(self.lon[query, column])
        similarity, bits = float(self.similarity[query, column]), int(self.distance_bits[query, column])
        located = np.isfinite(lat) and np.isfinite(lon)
        return TileMatch(
            tile_id=str(self.tile_ids[query, column]),
            lat=lat if located else None,
            lon=lon if located else None,
            distance_bits=bits if bits >= 0 else None,
            similarity=similarity if np.isfinite(similarity) else None,
            row=int(self.rows[query, column]),
        )
