"""The tiles of a snapshot as evaluation needs them: blocks of codes and embeddings, ids and coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.index.format.shard import Shard
from geoloc.index.search.snapshot import Snapshot


class Gallery:
    """All tiles of a snapshot in the order of its rows; codes and embeddings stay mapped from its files.

    removed: bool[N], the rows that are no tiles any more; None where all are.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._shards = snapshot.shards
        self.bits = snapshot.bits
        ids, lat, lon = zip(*(shard.tiles() for shard in self._shards), strict=True)
        self.tile_ids: pa.Array = pa.concat_arrays(ids)
        self.lat: FloatArray = np.concatenate(lat)
        self.lon: FloatArray = np.concatenate(lon)
        self.removed: BoolArray | None = _removed(self._shards)
        self._starts = np.array([shard.first_row for shard in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.tile_ids)

    def codes(self) -> Iterator[npt.NDArray[np.generic]]:
        """Codes uint8[n, bits // 8], a block a shard."""
        for shard in self._shards:
            yield shard.codes

    def embeddings(self) -> Iterator[npt.NDArray[np.generic]]:
        """Embeddings float16[n, D], a block a shard; nothing for an index without."""
        for shard in self._shards:
            if shard.embeddings is not None:
                yield shard.embeddings

    def embeddings_of(self, rows: IntArray) -> npt.NDArray[np.generic]:
        """Embeddings float16[K, D] of rows of the snapshot."""
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        pieces = [self._embedding(int(number), int(row)) for number, row in zip(shard, rows, strict=True)]
        return np.stack(pieces)

    def _embedding(self, shard: int, row: int) -> npt.NDArray[np.generic]:
        embeddings = self._shards[shard].embeddings
        assert embeddings is not None
        return np.asarray(embeddings[row - self._starts[shard]])


def _removed(shards: Sequence[Shard]) -> BoolArray | None:
    if all(shard.live_rows is None for shard in shards):
        return None
    marks = [
        np.zeros(len(shard), np.bool_) if shard.live_rows is None else ~shard.live_rows for shard in shards
    ]
    return np.concatenate(marks)
