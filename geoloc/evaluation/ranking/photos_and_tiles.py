"""The two sides of a retrieval, photos and tiles: either may ask and either may be the gallery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core.arrays import AnyArray, BoolArray, FloatArray, IntArray
from geoloc.evaluation.ranking.blockwise_scores import Cosine, Measure, PartCosine
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.evaluation.ranking.gallery import Gallery
from geoloc.geometry.azimuth import shown_of_candidates
from geoloc.localization.locator import EncodedQueries

_ASKING_TILES = 32_768


@dataclass(frozen=True)
class Asking:
    """Queries of one kind: their positions int64[q] on their side, embeddings [q, R, D] and codes [q, R, B].

    shown: bool[q, R, columns], the azimuth columns that are to be compared; None: all.
    """

    rows: IntArray
    embedding: AnyArray | None
    code: npt.NDArray[np.uint8]
    shown: BoolArray | None = None

    def floats(self) -> tuple[AnyArray, Measure]:
        """The embeddings, and what compares them with a gallery's."""
        assert self.embedding is not None
        if self.shown is None:
            return self.embedding, Cosine()
        parts = np.concatenate([self.embedding, self.shown.astype(np.float32)], axis=-1)
        return parts, PartCosine(self.shown.shape[-1])


@dataclass(frozen=True)
class Side:
    """Photos or tiles with what is known about them; positions are those of `ids`.

    lat, lon: float64[N], NaN where unknown; place: pa.string [N], null where unknown.
    """

    what: str
    ids: pa.Array
    lat: FloatArray
    lon: FloatArray
    place: pa.Array

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_embeddings(self) -> bool:
        """Whether there are float embeddings beside the codes."""
        raise TypeError(self.what)

    @property
    def removed(self) -> BoolArray | None:
        """Which are no longer there though they keep their positions, bool[N]; None where all are."""
        return None

    @property
    def removed_count(self) -> int:
        """How many are no longer there."""
        return 0 if self.removed is None else int(self.removed.sum())

    @property
    def located(self) -> bool:
        """Whether any of them has a position."""
        return bool(np.isfinite(self.lat).any())

    def asking(self) -> Iterator[Asking]:
        """All of them as queries, in groups that can be compared at once."""
        raise TypeError(self.what)

    def embeddings(self) -> Iterable[AnyArray]:
        """All of them as a gallery: blocks [n, D] or [n, R, D], in the order of `order`."""
        raise TypeError(self.what)

    def codes(self) -> Iterable[AnyArray]:
        """The same of codes: blocks uint8[n, B] or [n, R, B]."""
        raise TypeError(self.what)

    @property
    def order(self) -> IntArray:
        """Positions int64[N] in the order in which blocks give them."""
        return np.arange(len(self.ids), dtype=np.int64)

    def embeddings_of(self, rows: IntArray) -> AnyArray:
        """Embeddings [K, D] or [K, R, D] of items by their place in the blocks."""
        raise TypeError(self.what)


@dataclass(frozen=True)
class Tiles(Side):
    """The tiles of a snapshot."""

    gallery: Gallery = field(kw_only=True)

    @property
    def has_embeddings(self) -> bool:
        """See `Side`."""
        return next(self.gallery.embeddings(), None) is not None

    @property
    def removed(self) -> BoolArray | None:
        """See `Side`."""
        return self.gallery.removed

    def asking(self) -> Iterator[Asking]:
        """See `Side`: groups of at most `_ASKING_TILES`, so that a large index is never in memory as queries."""
        start, embeddings = 0, iter(self.gallery.embeddings())
        for codes in self.gallery.codes():
            block = next(embeddings, None)
            for first in range(0, len(codes), _ASKING_TILES):
                part = slice(first, min(first + _ASKING_TILES, len(codes)))
                rows = np.arange(start + part.start, start + part.stop, dtype=np.int64)
                own = None if block is None else block[part][:, None]
                yield Asking(rows, own, _bytes(codes[part])[:, None])
            start += len(codes)

    def embeddings(self) -> Iterable[AnyArray]:
        """See `Side`."""
        return self.gallery.embeddings()

    def codes(self) -> Iterable[AnyArray]:
        """See `Side`."""
        return self.gallery.codes()

    def embeddings_of(self, rows: IntArray) -> AnyArray:
        """See `Side`."""
        return self.gallery.embeddings_of(rows)


@dataclass(frozen=True)
class Photos(Side):
    """Encoded photos, by kind of view and heading."""

    groups: list[tuple[IntArray, EncodedQueries]] = field(kw_only=True)
    bits: int = field(kw_only=True)

    @property
    def has_embeddings(self) -> bool:
        """See `Side`."""
        return True

    def asking(self) -> Iterator[Asking]:
        """See `Side`."""
        for rows, queries in self.groups:
            shown = None
            if queries.shown is not None and queries.limited.any():
                shown = shown_of_candidates(queries.shown, queries.embedding.shape[1])
            yield Asking(rows, queries.embedding, self._code(queries), shown)

    def embeddings(self) -> Iterable[AnyArray]:
        """See `Side`."""
        return (queries.embedding for _, queries in self.groups)

    def codes(self) -> Iterable[AnyArray]:
        """See `Side`."""
        return (self._code(queries) for _, queries in self.groups)

    @property
    def order(self) -> IntArray:
        """See `Side`."""
        return np.concatenate([rows for rows, _ in self.groups])

    def embeddings_of(self, rows: IntArray) -> AnyArray:
        """See `Side`; photos of several kinds of heading come with as many candidates as the most have."""
        starts = np.cumsum([0, *(len(own) for own, _ in self.groups)])
        group = np.searchsorted(starts, rows, side="right") - 1
        picked = [
            self.groups[int(number)][1].embedding[int(row - starts[number])]
            for number, row in zip(group, rows, strict=True)
        ]
        most = max(len(one) for one in picked)
        return np.stack([np.concatenate([one, one[:1].repeat(most - len(one), axis=0)]) for one in picked])

    def _code(self, queries: EncodedQueries) -> npt.NDArray[np.uint8]:
        # An index may keep fewer bits than the model gives: the first ones are a code of their own.
        return np.ascontiguousarray(queries.code[..., : self.bits // 8])


def _bytes(codes: AnyArray) -> npt.NDArray[np.uint8]:
    return np.asarray(codes, dtype=np.uint8)


def tiles_side(gallery: Gallery, places: pa.Table | None) -> Tiles:
    """The tiles of a snapshot; `places` (tile_id, place_id) says which place each shows."""
    place = _joined(gallery.tile_ids, places, "tile_id")
    return Tiles("tiles", gallery.tile_ids, gallery.lat, gallery.lon, place, gallery=gallery)


def photos_side(encoded: EncodedTable, places: pa.Table | None, bits: int) -> Photos:
    """Encoded photos, compared with codes of `bits`; `places` (query_id, place_id) says what each shows."""
    return Photos(
        "photos",
        encoded.query_ids,
        encoded.degrees("lat"),
        encoded.degrees("lon"),
        _joined(encoded.query_ids, places, "query_id"),
        groups=encoded.groups(),
        bits=bits,
    )


def mean_photos(photos: Photos) -> Photos | None:
    """One query a place: the mean of its photos' embeddings, of length 1 again.

    None where that has no meaning: photos of unknown heading have no one embedding. Codes are zeros: a mean has
    none of its own.
    """
    known = [(rows, queries) for rows, queries in photos.groups if queries.embedding.shape[1] == 1]
    if len(known) < len(photos.groups):
        return None
    rows = np.concatenate([own for own, _ in known])
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
    one = known[0][1]
    code = np.zeros((count, 1, one.code.shape[-1]), dtype=np.uint8)
    group = EncodedQueries(mean[:, None], code, np.zeros(count), one.view, one.model_id)
    rows = np.arange(count, dtype=np.int64)
    names = codes.dictionary.cast(pa.string())
    return Photos("places", names, nowhere, nowhere, names, groups=[(rows, group)], bits=photos.bits)


def _joined(ids: pa.Array, places: pa.Table | None, key: str) -> pa.Array:
    """The place of each id, pa.string [N], null where there is none."""
    if places is None:
        return pa.nulls(len(ids), pa.string())
    found = pc.index_in(ids.cast(pa.large_string()), places[key].cast(pa.large_string()).combine_chunks())
    return places["place_id"].combine_chunks().cast(pa.string()).take(found)
