"""A protocol applied: which items are right, all rankings, and the figures that the protocol defines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from geoloc.core import geodesy
from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.errors import InputError
from geoloc.evaluation.protocol.protocols import PHOTOS_TO_TILES, Direction, Protocol
from geoloc.evaluation.protocol.truth import (
    is_junk,
    truth_from_pairs,
    truth_from_places,
    truth_within,
    truth_within_projected,
)
from geoloc.evaluation.ranking.method_rows import HIT_RATE, PRECISION, Retrieval
from geoloc.evaluation.ranking.metrics import TIES, hit_probability
from geoloc.evaluation.ranking.photos_and_tiles import Photos, Side, Tiles, mean_photos
from geoloc.evaluation.ranking.rank_all_methods import Retrieved, Wanted, retrieve
from geoloc.evaluation.ranking.ranks import Question, RankCounts, Truth
from geoloc.index.search.matches import Matches

KEPT_ANSWERS = 10  # of each query, for distances and pictures


@dataclass(frozen=True)
class Asked:
    """What a protocol asks in one direction: positions of right pairs, and of those at each distance.

    semi: semi-positives, which the hit rate takes out; None where there is no hit rate. within: by radius in
    metres, empty without coordinates. dropped: bool[N], junk and removed tiles; None where there are none.
    """

    protocol: Protocol
    direction: Direction
    right: Truth
    semi: Truth | None
    within: dict[float, Truth]
    dropped: BoolArray | None

    def questions(self) -> list[Question]:
        """The right pairs, the hit rate's question where there is one, then the distances."""
        hit = [] if self.semi is None else [Question(self.right, self.semi)]
        return [Question(self.right), *hit, *(Question(truth) for truth in self.within.values())]


@dataclass(frozen=True)
class Assessed:
    """Rankings of one direction: by the protocol's truth, and by each distance.

    error_m: float64[Q, k], metres from the query to its k best items by the first method, NaN where unknown.
    multi: the same retrieval with the photos of a place as one query, where the protocol has it.
    """

    asked: Asked
    asking: Side
    gallery: Side
    retrieved: Retrieved
    retrieval: Retrieval
    within: dict[float, Retrieval]
    error_m: FloatArray
    multi: Retrieval | None


def ask(
    protocol: Protocol,
    direction: Direction,
    asking: Side,
    gallery: Side,
    pairs: pa.Table | None,
    *,
    radius_m: float,
    radii_m: Sequence[float] = (),
) -> Asked:
    """What `protocol` asks of these sides; `pairs` (query_id, tile_id, relation) is None where there are none.

    radius_m: what is near where the protocol does not say; `radii_m` are further distances to measure at.
    Raises `InputError` when the protocol needs pairs, places or coordinates that the data do not have.
    """
    right = _right(protocol, direction, asking, gallery, pairs, radius_m)
    semi = None
    if protocol.hit_rate and pairs is not None:
        semi = _from_pairs(direction, asking, gallery, pairs, "semi_positive")
    wanted = sorted({*protocol.radii_m, *radii_m}) if asking.located and gallery.located else []
    within = {
        radius: truth_within(asking.lat, asking.lon, gallery.lat, gallery.lon, radius) for radius in wanted
    }
    dropped = gallery.removed
    if protocol.truth == "place":
        junk = is_junk(gallery.place)
        dropped = junk if dropped is None else dropped | junk
    if dropped is not None:
        right, semi = _left(right, dropped), None if semi is None else _left(semi, dropped)
        within = {radius: _left(truth, dropped) for radius, truth in within.items()}
    return Asked(protocol, direction, right, semi, within, dropped)


def _left(truth: Truth, dropped: BoolArray) -> Truth:
    keep = ~dropped[truth.tile]
    return Truth(truth.query[keep], truth.tile[keep])


def _right(
    protocol: Protocol,
    direction: Direction,
    asking: Side,
    gallery: Side,
    pairs: pa.Table | None,
    radius_m: float,
) -> Truth:
    have_pairs = pairs is not None and pairs.num_rows > 0
    if protocol.truth == "place":
        if not asking.place.null_count < len(asking) or not gallery.place.null_count < len(gallery):
            raise InputError(
                f"Protocol {protocol.id} needs place_id on photos and tiles, and the tables have none; give the ingest "
                "output of that data set, also as --tiles.",
                reason="no_places",
            )
        return truth_from_places(asking.place, gallery.place)
    if have_pairs and protocol.truth != "radius":
        assert pairs is not None
        return _from_pairs(direction, asking, gallery, pairs, "positive")
    if protocol.truth == "pairs":
        raise InputError(
            f"Protocol {protocol.id} needs a pairs table, and there is none beside the queries; give the ingest output "
            "of that data set as --queries.",
            reason="no_pairs",
        )
    if protocol.truth == "radius" and not (asking.located and gallery.located):
        raise InputError(
            f"Protocol {protocol.id} measures metres, and the {gallery.what if asking.located else asking.what} have "
            "no coordinates; use a protocol of pairs or places.",
            reason="no_coordinates",
        )
    sides = asking.lat, asking.lon, gallery.lat, gallery.lon
    if protocol.crs is not None:
        return truth_within_projected(*sides, protocol.radius_m or radius_m, protocol.crs)
    return truth_within(*sides, protocol.radius_m or radius_m)


def _from_pairs(direction: Direction, asking: Side, gallery: Side, pairs: pa.Table, relation: str) -> Truth:
    if direction == PHOTOS_TO_TILES:
        return truth_from_pairs(asking.ids, pairs, gallery.ids, relations=(relation,))
    turned = truth_from_pairs(gallery.ids, pairs, asking.ids, relations=(relation,))
    order = np.lexsort((turned.query, turned.tile))
    return Truth(turned.tile[order], turned.query[order])


def assess(
    asked: Asked,
    asking: Side,
    gallery: Side,
    *,
    lengths: Sequence[int],
    rerank: int,
    served: Sequence[Matches] | None = None,
) -> Assessed:
    """All rankings that the protocol wants in its direction; `served` as in `retrieve`."""
    protocol = asked.protocol
    wanted = Wanted(
        asked.questions(),
        tuple(lengths),
        rerank,
        components=protocol.components,
        precision=protocol.precision,
        dropped=asked.dropped,
        keep=min(KEPT_ANSWERS, len(gallery)),
    )
    found = retrieve(asking, gallery, wanted, served)
    retrieval, within = _retrievals(asked, found, len(asking), len(gallery) - gallery.removed_count)
    return Assessed(
        asked,
        asking,
        gallery,
        found,
        retrieval,
        within,
        errors_of_best(found.rows, asking, gallery),
        _multi_query(asked, asking, gallery) if protocol.multi_query else None,
    )


def _retrievals(
    asked: Asked, found: Retrieved, queries: int, gallery: int
) -> tuple[Retrieval, dict[float, Retrieval]]:
    """The protocol's retrieval with its further figures, and one for each distance."""

    def of(number: int) -> dict[str, RankCounts]:
        return {method: counts[number] for method, counts in found.counts.items()}

    extras = {}
    for method in found.counts:
        own = {}
        if method in found.precision:
            own[PRECISION] = found.precision[method]
        if asked.semi is not None:
            own[HIT_RATE] = {ties: hit_probability(of(1)[method], 1, ties) for ties in TIES}
        if own:
            extras[method] = own
    first = 1 if asked.semi is None else 2
    within = {
        radius: Retrieval(of(first + number), truth, queries, gallery)
        for number, (radius, truth) in enumerate(asked.within.items())
    }
    return Retrieval(of(0), asked.right, queries, gallery, extras, asked.semi), within


def _multi_query(asked: Asked, asking: Side, gallery: Side) -> Retrieval | None:
    """By float embeddings, one query a place; None where photos of unknown heading have no one embedding."""
    assert isinstance(asking, Photos)
    mean = mean_photos(asking)
    if mean is None or not gallery.has_embeddings:
        return None
    right = truth_from_places(mean.place, gallery.place)
    turned = Asked(
        asked.protocol,
        asked.direction,
        right if asked.dropped is None else _left(right, asked.dropped),
        None,
        {},
        asked.dropped,
    )
    wanted = Wanted(turned.questions(), (), 0, precision=asked.protocol.precision, dropped=asked.dropped)
    return _retrievals(
        turned, retrieve(mean, gallery, wanted), len(mean), len(gallery) - gallery.removed_count
    )[0]


def errors_of_best(rows: IntArray, asking: Side, gallery: Side) -> FloatArray:
    """Metres float64[Q, k] from each query to the items of its rows int64[Q, k], NaN where unknown or row -1."""
    lat, lon = gallery.lat[np.maximum(rows, 0)], gallery.lon[np.maximum(rows, 0)]
    true_lat, true_lon = (np.broadcast_to(one[:, None], rows.shape) for one in (asking.lat, asking.lon))
    known = (rows >= 0) & np.isfinite(lat) & np.isfinite(true_lat)
    out = np.full(rows.shape, np.nan)
    out[known] = geodesy.distance_m(true_lat[known], true_lon[known], lat[known], lon[known])
    return out


def sides_of(direction: Direction, photos: Photos, tiles: Tiles) -> tuple[Side, Side]:
    """(asking, gallery) of a direction."""
    return (photos, tiles) if direction == PHOTOS_TO_TILES else (tiles, photos)
