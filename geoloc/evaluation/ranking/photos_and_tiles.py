"""Photos and tiles of an evaluation: either may be the queries and either may be the gallery."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core.arrays import AnyArray, BoolArray, Codes, FloatArray, IntArray
from geoloc.core.scratch import scratch_array
from geoloc.evaluation.ranking.blockwise_scores import BlockScanner, Cosine, PartCosine, Scanner, Similarity
from geoloc.evaluation.ranking.encoded_queries import MEMORY_LIMIT_BYTES, EncodedTable
from geoloc.geometry.azimuth import shown_of_candidates
from geoloc.index.format.shard import Shard
from geoloc.index.search import multi_code
from geoloc.index.search.kernels.weighted_scan import Weights
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization.locator import EncodedQueries

ScannedKind = Literal["embeddings", "codes"]

_GROUP_TILES = 32_768
_POSITIONS_BYTES = 64 * 2**20  # of a gallery; those of a larger one lie in a file


@dataclass(frozen=True)
class QueryGroup:
    """Queries that can be compared at once: positions int64[q], embeddings [q, R, D] and codes uint8[q, R, B].

    shown: bool[q, R, columns], the azimuth columns that are to be compared; None: all. weights: int8[q, R, bits], how
    sure each bit is (`bit_weights`); None where it is not known.
    """

    rows: IntArray
    embedding: AnyArray | None
    code: Codes
    shown: BoolArray | None = None
    weights: Weights | None = None

    def floats(self) -> tuple[AnyArray, Similarity]:
        """Rows [q, R, E] as `Similarity.prepare` takes them, and the similarity to compare them by."""
        assert self.embedding is not None
        if self.shown is None:
            return self.embedding, Cosine()
        dim, columns = self.embedding.shape[-1], self.shown.shape[-1]
        shape = (*self.embedding.shape[:-1], dim + columns)
        parts = np.asarray(scratch_array(shape, np.float32, MEMORY_LIMIT_BYTES))
        for first in range(0, len(parts), _GROUP_TILES):
            part = slice(first, first + _GROUP_TILES)
            parts[part, ..., :dim], parts[part, ..., dim:] = self.embedding[part], self.shown[part]
        return parts, PartCosine(columns)


@dataclass(frozen=True)
class ItemSet(ABC):
    """Photos or tiles, as queries or as a gallery; positions are those of `ids`, pa.string[N] (in chunks of tiles).

    lat, lon: float64[N], NaN where unknown; place: pa.string[N] (maybe in chunks), null where unknown.
    """

    what: str
    ids: pa.Array | pa.ChunkedArray
    lat: FloatArray
    lon: FloatArray
    place: pa.Array | pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def removed(self) -> BoolArray | None:
        """Items that keep their positions but were removed, bool[N]; None where there are none."""
        return None

    @property
    def removed_count(self) -> int:
        """Number of removed items."""
        return 0 if self.removed is None else int(self.removed.sum())

    @property
    def located(self) -> bool:
        """Whether any item has coordinates."""
        return bool(np.isfinite(self.lat).any())

    @property
    def has_places(self) -> bool:
        """Whether any item has a place."""
        return bool(self.place.null_count < len(self))

    @property
    def order(self) -> IntArray | None:
        """Positions int64[N] in the order of the blocks; None where the blocks have the order of the positions."""
        return None

    @property
    @abstractmethod
    def has_embeddings(self) -> bool:
        """Whether there are float embeddings beside the codes."""

    @abstractmethod
    def queries(self) -> Iterator[QueryGroup]:
        """All items as queries, in groups."""

    @abstractmethod
    def embeddings(self) -> Iterable[AnyArray]:
        """All items as a gallery: blocks [n, D] or [n, R, D], in the order of `order`."""

    @abstractmethod
    def codes(self) -> Iterable[AnyArray]:
        """All items as a gallery: blocks of codes uint8[n, B] or [n, R, B], in the order of `order`."""

    def scanner(self, kind: ScannedKind) -> Scanner:
        """All items as a gallery to be compared with, by embeddings or by codes."""
        return BlockScanner(self.embeddings if kind == "embeddings" else self.codes)

    @abstractmethod
    def embeddings_of(self, rows: IntArray) -> AnyArray:
        """Embeddings [K, D] or [K, R, D] of items int64[K] by their place in the blocks."""


@dataclass(frozen=True)
class TileSet(ItemSet):
    """The tiles of a snapshot in the order of its rows; codes and embeddings stay mapped from its files.

    `scanners` compares them elsewhere than in this process.
    """

    shards: Sequence[Shard] = field(kw_only=True)
    scanners: Callable[[ScannedKind], Scanner] | None = field(kw_only=True, default=None)

    def scanner(self, kind: ScannedKind) -> Scanner:
        """See `ItemSet`."""
        return super().scanner(kind) if self.scanners is None else self.scanners(kind)

    @property
    def has_embeddings(self) -> bool:
        """See `ItemSet`."""
        return next(iter(self.embeddings()), None) is not None

    @property
    def removed(self) -> BoolArray | None:
        """Deleted tiles, bool[N]."""
        if all(shard.live_rows is None for shard in self.shards):
            return None
        live = ((len(shard), shard.live_rows) for shard in self.shards)
        return np.concatenate([np.zeros(count, np.bool_) if rows is None else ~rows for count, rows in live])

    def queries(self) -> Iterator[QueryGroup]:
        """See `ItemSet`: groups of at most `_GROUP_TILES`, so that a large index is never in memory as queries."""
        start, embeddings = 0, iter(self.embeddings())
        for codes in self.codes():
            block = next(embeddings, None)
            for first in range(0, len(codes), _GROUP_TILES):
                part = slice(first, min(first + _GROUP_TILES, len(codes)))
                rows = np.arange(start + part.start, start + part.stop, dtype=np.int64)
                vectors = None if block is None else block[part][:, None]
                yield QueryGroup(rows, vectors, np.asarray(codes[part], dtype=np.uint8)[:, None])
            start += len(codes)

    def embeddings(self) -> Iterable[AnyArray]:
        """See `ItemSet`: a block float16[n, D] for each shard; none for an index without embeddings."""
        return (shard.embeddings for shard in self.shards if shard.embeddings is not None)

    def codes(self) -> Iterable[AnyArray]:
        """A block uint8[n, B] for each shard."""
        return (shard.codes for shard in self.shards)

    def embeddings_of(self, rows: IntArray) -> AnyArray:
        """Embeddings float16[K, D] of tiles int64[K]."""
        return multi_code.embeddings_of(self.shards, rows)


@dataclass(frozen=True)
class PhotoSet(ItemSet):
    """Encoded photos, by kind of view and heading."""

    groups: list[tuple[IntArray, EncodedQueries]] = field(kw_only=True)
    bits: int = field(kw_only=True)

    @property
    def has_embeddings(self) -> bool:
        """See `ItemSet`."""
        return True

    @property
    def order(self) -> IntArray:
        """Positions int64[N], group by group."""
        return np.concatenate([rows for rows, _ in self.groups])

    def queries(self) -> Iterator[QueryGroup]:
        """See `ItemSet`."""
        for rows, queries in self.groups:
            shown = None
            if queries.shown is not None and queries.limited.any():
                shown = shown_of_candidates(queries.shown, queries.embedding.shape[1])
            weights = None if queries.weights is None else queries.weights[..., : self.bits]
            yield QueryGroup(rows, queries.embedding, self._code(queries), shown, weights)

    def embeddings(self) -> Iterable[AnyArray]:
        """A block float32[n, R, D] for each group."""
        return (queries.embedding for _, queries in self.groups)

    def codes(self) -> Iterable[AnyArray]:
        """A block uint8[n, R, B] for each group."""
        return (self._code(queries) for _, queries in self.groups)

    def embeddings_of(self, rows: IntArray) -> AnyArray:
        """Embeddings float32[K, R, D]; candidates are repeated up to the largest number among these photos."""
        starts = np.cumsum([0, *(len(positions) for positions, _ in self.groups)])
        numbers = np.searchsorted(starts, rows, side="right") - 1
        vectors = [
            self.groups[int(number)][1].embedding[int(row - starts[number])]
            for number, row in zip(numbers, rows, strict=True)
        ]
        most = max(map(len, vectors))
        return np.stack(
            [np.concatenate([each, each[:1].repeat(most - len(each), axis=0)]) for each in vectors]
        )

    def _code(self, queries: EncodedQueries) -> Codes:
        # An index may keep fewer bits than the model gives: the first ones are a complete shorter code.
        return np.ascontiguousarray(queries.code[..., : self.bits // 8])


def tile_set(
    snapshot: Snapshot,
    places: pa.Table | None,
    scanners: Callable[[ScannedKind], Scanner] | None = None,
) -> TileSet:
    """The tiles of a snapshot; `places` (tile_id, place_id) gives the place of each, `scanners` compares them."""
    ids = pa.chunked_array([shard.tile_ids for shard in snapshot.shards], pa.large_string())
    degrees = scratch_array((2, len(ids)), np.float64, _POSITIONS_BYTES)
    for shard in snapshot.shards:
        part = slice(shard.first_row, shard.first_row + len(shard))
        degrees[0, part], degrees[1, part] = shard.lat, shard.lon
    lat, lon = np.asarray(degrees)
    place = _places_of(ids, places, "tile_id")
    return TileSet("tiles", ids, lat, lon, place, shards=snapshot.shards, scanners=scanners)


def photo_set(encoded: EncodedTable, places: pa.Table | None, bits: int) -> PhotoSet:
    """Encoded photos, compared with codes of `bits`; `places` (query_id, place_id) gives the place of each."""
    return PhotoSet(
        "photos",
        encoded.query_ids,
        encoded.degrees("lat"),
        encoded.degrees("lon"),
        _places_of(encoded.query_ids, places, "query_id"),
        groups=encoded.groups(),
        bits=bits,
    )


def mean_photos(photos: PhotoSet) -> PhotoSet | None:
    """One query for each place: the mean of its photos' embeddings, scaled to length 1. Its codes are zeros.

    None where photos have unknown headings: they have several embeddings each.
    """
    known = [(rows, queries) for rows, queries in photos.groups if queries.embedding.shape[1] == 1]
    if len(known) < len(photos.groups):
        return None
    rows = np.concatenate([positions for positions, _ in known])
    place = photos.place.take(pa.array(rows))
    named = np.flatnonzero(np.asarray(place.is_valid().to_numpy(zero_copy_only=False)))
    codes = place.take(pa.array(named)).dictionary_encode()
    if not len(named):
        return None
    number = np.asarray(codes.indices.to_numpy(), dtype=np.int64)
    embeddings = np.concatenate([queries.embedding[:, 0] for _, queries in known])[named]
    total = np.zeros((len(codes.dictionary), embeddings.shape[1]), dtype=np.float64)
    np.add.at(total, number, embeddings)
    mean = (total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    count, nowhere = len(mean), np.full(len(mean), np.nan)
    first = known[0][1]
    code = np.zeros((count, 1, first.code.shape[-1]), dtype=np.uint8)
    group = EncodedQueries(mean[:, None], code, np.zeros(count), first.view, first.model_id)
    rows = np.arange(count, dtype=np.int64)
    names = codes.dictionary.cast(pa.string())
    return PhotoSet("places", names, nowhere, nowhere, names, groups=[(rows, group)], bits=photos.bits)


def _places_of(
    ids: pa.Array | pa.ChunkedArray, places: pa.Table | None, key: str
) -> pa.Array | pa.ChunkedArray:
    """The place of each id, pa.string [N], null where there is none."""
    if places is None:
        piece = pa.nulls(_GROUP_TILES, pa.string())  # one in memory, however many tiles
        whole, rest = divmod(len(ids), _GROUP_TILES)
        return pa.chunked_array([*[piece] * whole, piece.slice(0, rest)])
    found = pc.index_in(ids.cast(pa.large_string()), places[key].cast(pa.large_string()).combine_chunks())
    taken = places["place_id"].combine_chunks().cast(pa.string()).take(found)
    return taken.combine_chunks() if isinstance(taken, pa.ChunkedArray) else taken
