"""Sides of a retrieval from arrays, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from geoloc.evaluation.ranking.photos_and_tiles import Asking, Photos, Side
from geoloc.localization.locator import EncodedQueries


@dataclass(frozen=True)
class Arrays(Side):
    """Tiles whose embeddings [N, D] and codes [N, B] are in memory, in blocks of uneven size."""

    vectors: np.ndarray
    bytes_: np.ndarray
    cuts: tuple[int, ...] = ()
    gone: np.ndarray | None = None

    @property
    def has_embeddings(self) -> bool:
        return True

    @property
    def removed(self) -> np.ndarray | None:
        return self.gone

    def asking(self):
        for rows in np.split(np.arange(len(self)), self.cuts):
            yield Asking(rows, self.vectors[rows][:, None], self.bytes_[rows][:, None])

    def embeddings(self):
        return np.split(self.vectors, self.cuts)

    def codes(self):
        return np.split(self.bytes_, self.cuts)

    def embeddings_of(self, rows):
        return self.vectors[rows]


def tiles(vectors, codes, *, lat=None, lon=None, place=None, cuts=(), gone=None) -> Arrays:
    count = len(vectors)
    nowhere = np.full(count, np.nan)
    return Arrays(
        "tiles",
        pa.array([f"t{row}" for row in range(count)], pa.large_string()),
        nowhere if lat is None else np.asarray(lat, float),
        nowhere if lon is None else np.asarray(lon, float),
        pa.array([None] * count if place is None else place, pa.string()),
        vectors,
        codes,
        tuple(cuts),
        gone,
    )


def photos(vectors, codes, *, lat=None, lon=None, place=None, groups=None) -> Photos:
    """Photos with embeddings [Q, R, D] and codes [Q, R, B], in groups of positions (one of all by default)."""
    count = len(vectors)
    nowhere = np.full(count, np.nan)
    rows = [np.arange(count)] if groups is None else groups
    encoded = [
        (own, EncodedQueries(vectors[own], codes[own], np.zeros(len(own)), "panorama", "m")) for own in rows
    ]
    return Photos(
        "photos",
        pa.array([f"q{row}" for row in range(count)]),
        nowhere if lat is None else np.asarray(lat, float),
        nowhere if lon is None else np.asarray(lon, float),
        pa.array([None] * count if place is None else place, pa.string()),
        groups=encoded,
        bits=8 * codes.shape[-1],
    )
