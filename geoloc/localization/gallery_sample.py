"""A sample of an index's tiles: how similar a photo is to tiles that are not its own, and how far apart tiles lie."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from geoloc.core import geodesy
from geoloc.core.arrays import Float32Array, FloatArray
from geoloc.index.search.kernels.weighted_scan import similarities, weighted_distances
from geoloc.index.search.matches import Comparison
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization.encoded_queries import EncodedQueries

SAMPLE = 256
_RUN = 2048  # neighbouring rows of a shard, which lie close together on the ground
_RUNS = 8


class GallerySample:
    """Tiles of a snapshot, evenly taken; the same ones for the same snapshot."""

    def __init__(self, snapshot: Snapshot, count: int = SAMPLE) -> None:
        self._snapshot = snapshot
        rows = np.unique(
            np.linspace(0, max(snapshot.rows - 1, 0), min(count, snapshot.rows)).astype(np.int64)
        )
        embeddings, codes = [], []
        for shard in snapshot.shards:
            own = rows[(rows >= shard.first_row) & (rows < shard.first_row + len(shard))] - shard.first_row
            codes.append(np.asarray(shard.codes[own]))
            if shard.embeddings is not None:
                embeddings.append(np.asarray(shard.embeddings[own], dtype=np.float32))
        self._codes = np.concatenate(codes) if codes else np.zeros((0, snapshot.bits // 8), np.uint8)
        self._embeddings: Float32Array | None = np.concatenate(embeddings) if embeddings else None

    def similarities(self, queries: EncodedQueries, by: Comparison) -> FloatArray:
        """Similarities float64[Q, S] of queries to the sample, as a search measures them that ordered its matches `by`.

        The best over heading candidates and, where the embedding rolls, over all turns.
        """
        if by == "logits":
            return self._by_logits(queries)
        if by == "codes" or self._embeddings is None:
            return self._by_codes(queries)
        stored = self._embeddings
        if queries.columns > 1 and (not queries.heading_known or queries.limited.any()):
            return np.stack([queries.turned(one).best(stored) for one in range(len(queries))]).astype(
                np.float64
            )
        return np.stack([(one @ stored.T).max(axis=0) for one in queries.embedding]).astype(np.float64)

    def _by_logits(self, queries: EncodedQueries) -> FloatArray:
        bits, found = self._snapshot.bits, []
        for query in range(len(queries)):
            weights = np.ascontiguousarray(queries.weights_of(query)[:, :bits])
            found.append(similarities(weighted_distances(weights, self._codes), weights).max(axis=0))
        return np.stack(found).astype(np.float64)

    def _by_codes(self, queries: EncodedQueries) -> FloatArray:
        bits = self._snapshot.bits
        found = []
        for codes in queries.code[..., : bits // 8]:
            away = np.bitwise_count(codes[:, None] ^ self._codes[None]).sum(axis=-1, dtype=np.int64)
            found.append(np.cos(np.pi * away.min(axis=0) / bits))
        return np.stack(found)

    @cached_property
    def spacing_m(self) -> float | None:
        """Median distance in metres of a tile to its nearest neighbour; None without coordinates or with one tile.

        Measured in runs of neighbouring rows, which lie together on the ground.
        """
        nearest: list[FloatArray] = []
        for shard in self._snapshot.shards:
            if not self._snapshot.located or len(shard) < 2:
                continue
            starts = np.unique(np.linspace(0, max(len(shard) - _RUN, 0), _RUNS).astype(int))
            for start in starts:
                lat = np.asarray(shard.lat[start : start + _RUN], dtype=np.float64)
                lon = np.asarray(shard.lon[start : start + _RUN], dtype=np.float64)
                nearest.append(_nearest_m(lat, lon))
        return float(np.median(np.concatenate(nearest))) if nearest else None


def _nearest_m(lat: FloatArray, lon: FloatArray) -> FloatArray:
    """Metres from each point [N] to the nearest other one.

    Convention: a plane about the mean latitude, which is true enough for neighbours.
    """
    from scipy.spatial import cKDTree

    scale = geodesy.EQUATOR_M / 360.0
    east = ((lon - lon[0] + 180.0) % 360.0 - 180.0) * scale * np.cos(np.radians(lat.mean()))
    points = np.stack([east, lat * scale], axis=1)
    distance, _ = cKDTree(points).query(points, k=2)
    return np.asarray(distance, dtype=np.float64)[:, 1]
