"""The questions of a protocol in one direction: queries, gallery, right items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.errors import InputError
from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES, Direction, Protocol
from geoloc.evaluation.protocol.truth import (
    is_junk,
    truth_from_pairs,
    truth_from_places,
    truth_within,
    truth_within_projected,
)
from geoloc.evaluation.ranking.photos_and_tiles import ItemSet, PhotoSet, mean_photos
from geoloc.evaluation.ranking.ranks import Question, TruthTable


@dataclass(frozen=True)
class Questions:
    """Queries, gallery and truth tables of one direction of a protocol.

    semi: semi-positives, which the hit rate takes out; None where there is no hit rate. within: truth by radius in
    metres, empty without coordinates. dropped: bool[N], junk and removed tiles; None where there are none.
    """

    protocol: Protocol
    direction: Direction
    queries: ItemSet
    gallery: ItemSet
    right: TruthTable
    semi: TruthTable | None
    within: dict[float, TruthTable]
    dropped: BoolArray | None

    def to_rank(self) -> list[Question]:
        """The question of the right items, that of the hit rate where there is one, then one for each radius."""
        hit = [] if self.semi is None else [Question(self.right, self.semi)]
        return [Question(self.right), *hit, *(Question(truth) for truth in self.within.values())]

    @property
    def gallery_size(self) -> int:
        """Gallery items without removed ones; junk is included."""
        return len(self.gallery) - self.gallery.removed_count

    @property
    def without_match(self) -> int:
        """Queries without a right item."""
        return int((self.right.counts(len(self.queries)) == 0).sum())

    def of_places(self) -> Questions | None:
        """The same questions with the photos of a place as one query; None where photos have unknown headings."""
        assert isinstance(self.queries, PhotoSet)
        mean = mean_photos(self.queries)
        if mean is None or not self.gallery.has_embeddings:
            return None
        right = truth_from_places(mean.place, self.gallery.place)
        if self.dropped is not None:
            right = right.without_items(self.dropped)
        return Questions(self.protocol, self.direction, mean, self.gallery, right, None, {}, self.dropped)


def build_questions(
    protocol: Protocol,
    direction: Direction,
    photos: PhotoSet,
    tiles: ItemSet,
    pairs: pa.Table | None,
    *,
    radius_m: float,
    radii_m: Sequence[float] = (),
) -> Questions:
    """The questions of `protocol` about these photos and tiles; `pairs` (query_id, tile_id, relation) may be None.

    radius_m: the radius of right tiles where the protocol has none; `radii_m` are further radii to measure at.
    Raises `InputError` when the protocol needs pairs, places or coordinates that the data do not have.
    """
    queries: ItemSet = photos if direction == PHOTOS_TO_TILES else tiles
    gallery: ItemSet = tiles if direction == PHOTOS_TO_TILES else photos
    right = _right(protocol, direction, queries, gallery, pairs, radius_m)
    semi = None
    if protocol.hit_rate and pairs is not None:
        semi = _from_pairs(direction, queries, gallery, pairs, "semi_positive")
    radii = sorted({*protocol.radii_m, *radii_m}) if photos.located and tiles.located else []
    within = {radius: truth_within(*_degrees(queries, gallery), radius) for radius in radii}
    dropped = gallery.removed
    if protocol.truth == "place":
        junk = is_junk(gallery.place)
        dropped = junk if dropped is None else dropped | junk
    if dropped is not None:
        right = right.without_items(dropped)
        semi = None if semi is None else semi.without_items(dropped)
        within = {radius: truth.without_items(dropped) for radius, truth in within.items()}
    return Questions(protocol, direction, queries, gallery, right, semi, within, dropped)


def _right(
    protocol: Protocol,
    direction: Direction,
    queries: ItemSet,
    gallery: ItemSet,
    pairs: pa.Table | None,
    radius_m: float,
) -> TruthTable:
    if protocol.truth == "place":
        if not (queries.has_places and gallery.has_places):
            raise InputError(
                f"Protocol {protocol.id} needs place_id on photos and tiles, and the tables have none; give the ingest "
                "output of that data set, also as --tiles.",
                reason="no_places",
            )
        return truth_from_places(queries.place, gallery.place)
    if pairs is not None and pairs.num_rows > 0 and protocol.truth != "radius":
        return _from_pairs(direction, queries, gallery, pairs, "positive")
    if protocol.truth == "pairs":
        raise InputError(
            f"Protocol {protocol.id} needs a pairs table, and there is none beside the queries; give the ingest output "
            "of that data set as --queries.",
            reason="no_pairs",
        )
    if protocol.truth == "radius" and not (queries.located and gallery.located):
        raise InputError(
            f"Protocol {protocol.id} measures metres, and the {gallery.what if queries.located else queries.what} have "
            "no coordinates; use a protocol of pairs or places.",
            reason="no_coordinates",
        )
    if protocol.crs is not None:
        return truth_within_projected(
            *_degrees(queries, gallery), protocol.radius_m or radius_m, protocol.crs
        )
    return truth_within(*_degrees(queries, gallery), protocol.radius_m or radius_m)


def _degrees(queries: ItemSet, gallery: ItemSet) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    return queries.lat, queries.lon, gallery.lat, gallery.lon


def _from_pairs(
    direction: Direction, queries: ItemSet, gallery: ItemSet, pairs: pa.Table, relation: str
) -> TruthTable:
    if direction == PHOTOS_TO_TILES:
        return truth_from_pairs(
            queries.ids, pairs, gallery.ids, relations=(relation,), removed=gallery.removed
        )
    reverse = truth_from_pairs(
        gallery.ids, pairs, queries.ids, relations=(relation,), removed=queries.removed
    )
    order = np.lexsort((reverse.query, reverse.tile))
    return TruthTable(reverse.tile[order], reverse.query[order])
