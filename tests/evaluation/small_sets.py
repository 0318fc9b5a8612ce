"""Photos and tiles from arrays, and rankings of one method, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from geoloc.evaluation.ranking.blockwise_scores import Cosine, Hamming, scan
from geoloc.evaluation.ranking.photos_and_tiles import ItemSet, PhotoSet, QueryGroup
from geoloc.evaluation.ranking.ranks import Question, RankCounts, TruthTable, rank
from geoloc.localization.locator import EncodedQueries


@dataclass(frozen=True)
class Arrays(ItemSet):
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

    def queries(self):
        for rows in np.split(np.arange(len(self)), self.cuts):
            yield QueryGroup(rows, self.vectors[rows][:, None], self.bytes_[rows][:, None])

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


def photos(vectors, codes, *, lat=None, lon=None, place=None, groups=None) -> PhotoSet:
    """Photos with embeddings [Q, R, D] and codes [Q, R, B], in groups of positions (one of all by default)."""
    count = len(vectors)
    nowhere = np.full(count, np.nan)
    rows = [np.arange(count)] if groups is None else groups
    encoded = [
        (own, EncodedQueries(vectors[own], codes[own], np.zeros(len(own)), "panorama", "m")) for own in rows
    ]
    return PhotoSet(
        "photos",
        pa.array([f"q{row}" for row in range(count)]),
        nowhere if lat is None else np.asarray(lat, float),
        nowhere if lon is None else np.asarray(lon, float),
        pa.array([None] * count if place is None else place, pa.string()),
        groups=encoded,
        bits=8 * codes.shape[-1],
    )


def float_ranks(queries, gallery, truth: TruthTable) -> RankCounts:
    """Ranks by cosine of embeddings [Q, D] or [Q, R, D] against gallery blocks [n, D]."""
    return rank(queries, gallery, Cosine(), [Question(truth)]).counts[0]


def hamming_ranks(queries, gallery, truth: TruthTable, *, bits=None) -> RankCounts:
    """Ranks by Hamming distance of codes uint8[Q, B] or [Q, R, B] against gallery blocks uint8[n, B]."""
    return rank(queries, gallery, Hamming(queries.shape[-1], bits), [Question(truth)]).counts[0]


def nearest_codes(codes, gallery, *, keep: int) -> np.ndarray:
    """Rows int64[Q, <= keep] of the nearest gallery codes, ties in order of rows."""
    found = scan(codes, gallery, Hamming(codes.shape[-1]), k=keep)
    return found.rows[:, : min(keep, found.gallery)]
