"""From encoded photos to fixes on one snapshot: search, cluster, calibrated radius and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.core.errors import ModelMismatch, QueryError
from geoloc.index.search.kernels.weighted_scan import Weights
from geoloc.index.search.matches import Matches
from geoloc.index.search.region import Region
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization import fix as reasons
from geoloc.localization.calibration import (
    Calibration,
    KindCalibration,
    OldCalibration,
    load_calibration,
    query_kind,
)
from geoloc.localization.cluster import Cluster, ClusterSettings, find_cluster
from geoloc.localization.encoded_queries import EncodedQueries as EncodedQueries
from geoloc.localization.evidence import Compared, PlaceEvidence, evidence_of
from geoloc.localization.fix import Fix, Hypothesis, Match
from geoloc.localization.gallery_sample import GallerySample
from geoloc.localization.hypotheses import Places, find_places
from geoloc.localization.judgement import REFIT, JudgedAnswers, judge_places, shipped_calibration, stale_notes
from geoloc.localization.merge_headings import candidate_heading_deg, merge_candidates

MAX_K = 1000
TURNED_SHORTLIST = 5  # times as many tiles where each has many turns to be near at by chance
_MAX_SEARCH_ROWS = 4096  # heading candidates multiply queries; this bounds what one search holds


@dataclass(frozen=True)
class SearchResult:
    """Matches [Q, K] of queries, best first, and the heading of each in degrees, float64[Q, K] (NaN unknown)."""

    matches: Matches
    heading_deg: FloatArray

    @classmethod
    def joined(cls, parts: Sequence[SearchResult]) -> SearchResult:
        """Results one below the other, padded to the widest."""
        matches = Matches.joined([part.matches for part in parts])
        heading = np.full(matches.rows.shape, np.nan)
        first = 0
        for part in parts:
            heading[first : first + len(part.matches), : part.matches.width] = part.heading_deg
            first += len(part.matches)
        return cls(matches, heading)


@dataclass(frozen=True)
class LocatedPlaces:
    """The cluster of each query's answer, the places that come into question, and what speaks for each of them."""

    cluster: Cluster
    places: Places
    evidence: PlaceEvidence


class Locator:
    """Answers encoded queries from one snapshot; safe to use from several threads.

    `notes` are sentences about the calibration that every calibrated answer repeats: what changed since its fit.
    `asymmetric`: compare the real numbers behind a photo's code with the tiles' bits; else bits with bits.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        calibration: Calibration | None = None,
        settings: ClusterSettings | None = None,
        *,
        notes: Sequence[str] = (),
        asymmetric: bool = True,
    ) -> None:
        self.snapshot = snapshot
        self.asymmetric = asymmetric
        self.calibration = calibration
        self.sample = GallerySample(snapshot)
        self.notes = tuple(notes)
        if calibration is not None:
            self.notes += stale_notes(
                calibration, snapshot.snapshot_id, snapshot.manifest, self.sample.spacing_m
            )
        self._settings = settings

    @classmethod
    def open(
        cls,
        index_uri: str,
        snapshot_id: str | None = None,
        *,
        cache_dir: str | None = None,
        skip_broken: bool = False,
        asymmetric: bool = True,
    ) -> Locator:
        """The locator of a snapshot (None: the current snapshot), with its calibration, else that of its model.

        `skip_broken` is that of `Snapshot.open`. A calibration of an earlier format is refused: then nothing is
        calibrated, and the answers' notes say why.
        """
        snapshot = Snapshot.open(index_uri, snapshot_id, cache_dir=cache_dir, skip_broken=skip_broken)
        try:
            calibration = load_calibration(index_uri, snapshot.snapshot_id)
            calibration = calibration or shipped_calibration(snapshot.index_uri, snapshot.manifest)
        except OldCalibration as error:
            return cls(snapshot, notes=[str(error)], asymmetric=asymmetric)
        return cls(snapshot, calibration, asymmetric=asymmetric)

    def fit_for(self, kind: str, rerank: int) -> KindCalibration | None:
        """The calibration of a kind of query; None where it has none that holds for this kind of search."""
        calibration = self.calibration
        if calibration is None or calibration.model_id != self.snapshot.manifest.model.model_id:
            return None
        by_floats = self.reranked(rerank) > 0
        if (calibration.rerank > 0) != by_floats:
            return None  # similarities of embeddings and of codes are different numbers
        if not by_floats and calibration.asymmetric != self.asymmetric:
            return None  # and so are those of real numbers with bits
        return calibration.query_kinds.get(kind)

    def settings_for(self, kind: str) -> ClusterSettings:
        """How matches of this kind of query become a position: as calibrated, else the defaults."""
        if self._settings is not None:
            return self._settings
        fit = self.calibration.query_kinds.get(kind) if self.calibration else None
        return fit.settings() if fit else ClusterSettings()

    def reranked(self, rerank: int) -> int:
        """How many codes a search with this `rerank` orders by float embeddings: none of an index without."""
        return rerank if self.snapshot.embedding_dim is not None else 0

    def search(
        self, queries: EncodedQueries, *, k: int, region: Region | None = None, rerank: int = 100
    ) -> SearchResult:
        """The best k tiles of each query; heading candidates are all searched and the best of each tile kept.

        Tiles are compared by the photo's real numbers where `asymmetric` and the queries have them, else by bits; the
        matches say which. The `rerank` nearest are ordered by float embeddings (0, or an index without: not).

        An embedding may roll with its photo. If the heading is then unknown or the view limited, the embeddings of
        `rerank` * `TURNED_SHORTLIST` tiles are compared: those with the nearest codes, at every turn, and where the
        photo shows something (`TurnedPhoto`).

        Raises `QueryError` for k or rerank out of range and `ModelMismatch` for an index of another model.
        """
        _check_k(k)
        if rerank < 0 or rerank > 100 * MAX_K:
            raise QueryError(
                f"rerank is {rerank}; give 0 (codes only) or more.", reason="rerank_out_of_range"
            )
        if queries.model_id != self.snapshot.manifest.model.model_id:
            raise ModelMismatch(
                f"The photos were encoded by model {queries.model_id}, snapshot {self.snapshot.snapshot_id} was made "
                f"by {self.snapshot.manifest.model.model_id}; use the model that lies in the index."
            )
        rerank = self.reranked(rerank)
        limited = queries.limited
        turned = np.full(len(queries), bool(rerank) and queries.columns > 1)
        turned &= limited | (not queries.heading_known)
        step = max(1, _MAX_SEARCH_ROWS // queries.code.shape[1])
        found, order = [], []
        # Rotation invariant codes hold for whole circles only, so limited views are searched apart.
        for search, chosen in (
            (self._search_turned, turned & limited),
            (self._search_turned, turned & ~limited),
            (self._search, ~turned),
        ):
            rows = np.flatnonzero(chosen)
            for start in range(0, len(rows), step):
                order.append(rows[start : start + step])
                found.append(search(queries.rows(order[-1]), k, region, rerank))
        if not found:
            return self._search(queries, k, region, rerank)
        return found[0] if len(found) == 1 else in_order(found, np.concatenate(order))

    def _search(self, queries: EncodedQueries, k: int, region: Region | None, rerank: int) -> SearchResult:
        count, candidates = queries.code.shape[:2]
        searched = queries.searched()
        embeddings = np.take_along_axis(queries.embedding, searched[..., None], axis=1) if rerank else None
        matches = self.snapshot.search(
            self._codes(queries, searched).reshape(searched.size, -1),
            k=k,
            region=region,
            embeddings=None if embeddings is None else embeddings.reshape(searched.size, -1),
            rerank=rerank,
            weights=self._weights(queries, searched),
        )
        if candidates == 1:
            return SearchResult(matches, np.repeat(queries.heading_deg[:, None], matches.width, axis=1))
        merged, places = merge_candidates(matches, searched.shape[1], k, self.snapshot.bits)
        chosen = searched[np.arange(count)[:, None], places]
        headings = candidate_heading_deg(1, candidates) * chosen.astype(np.float64)
        return SearchResult(merged, np.where(merged.rows >= 0, headings, np.nan))

    def _search_turned(
        self, queries: EncodedQueries, k: int, region: Region | None, rerank: int
    ) -> SearchResult:
        """Codes give a shortlist of tiles, whose embeddings are compared at every turn.

        The codes are those of the heading candidates in question. For photos of the whole circle whose heading nothing
        is known of, it is the rotation invariant code, where the index has such codes.
        """
        photos = [queries.turned(number) for number in range(len(queries))]
        any_heading, bits = None, self.snapshot.any_heading_bits
        unknown = not queries.heading_known and queries.sector is None
        if bits and unknown and not queries.limited.any():
            any_heading = AnyHeadingCoder(bits, queries.columns).codes(queries.embedding[:, 0])
        matches = self.snapshot.search_scored(
            self._codes(queries, queries.searched()),
            lambda query, embeddings: photos[query].best(embeddings),
            k=k,
            shortlist=rerank * TURNED_SHORTLIST,
            region=region,
            any_heading=any_heading,
        )
        headings = np.repeat(queries.heading_deg[:, None], matches.width, axis=1)
        for query, own in enumerate(matches.rows) if not queries.heading_known else ():
            there = own >= 0
            if there.any():
                headings[query, there] = photos[query].heading_deg(self.snapshot.embeddings_of(own[there]))
        return SearchResult(matches, headings)

    def _codes(self, queries: EncodedQueries, searched: IntArray) -> npt.NDArray[np.uint8]:
        """Codes uint8[Q, S, bytes] of the candidates int64[Q, S]: the first bits of a code are a shorter code."""
        codes = np.take_along_axis(queries.code, searched[..., None], axis=1)
        return np.ascontiguousarray(codes[..., : self.snapshot.bits // 8])

    def _weights(self, queries: EncodedQueries, searched: IntArray) -> Weights | None:
        """Weights int8[Q * S, bits] of the index's bits; None where bits are compared with bits."""
        if not self.asymmetric or queries.weights is None:
            return None
        weights = np.take_along_axis(queries.weights, searched[..., None], axis=1)
        chosen = weights[..., : self.snapshot.bits]
        return np.ascontiguousarray(chosen.reshape(-1, self.snapshot.bits))

    def cluster(self, found: SearchResult, settings: ClusterSettings) -> Cluster:
        """Positions of the queries from their matches."""
        matches = found.matches
        return find_cluster(matches.lat, matches.lon, matches.scores(self.snapshot.bits), settings)

    def places(
        self, found: SearchResult, queries: EncodedQueries, settings: ClusterSettings, rerank: int
    ) -> LocatedPlaces:
        """The places that come into question, from as many matches as a calibration with this `rerank` compares."""
        width, bits = max(settings.members, self.reranked(rerank)), self.snapshot.bits
        matches = found.matches
        similarity, lat, lon = matches.scores(bits)[:, :width], matches.lat[:, :width], matches.lon[:, :width]
        distance = matches.distance_bits[:, :width].astype(np.float64)
        compared = Compared(
            similarity,
            lat,
            lon,
            found.heading_deg[:, :width],
            np.where(distance >= 0, distance, np.nan) / bits,
            self.sample.similarities(queries, matches.ordered_by),
        )
        cluster = self.cluster(found, settings)
        places = find_places(lat, lon, similarity, settings, cluster)
        return LocatedPlaces(cluster, places, evidence_of(compared, places, settings))

    def locate(
        self,
        queries: EncodedQueries,
        *,
        k: int = 10,
        region: Region | None = None,
        rerank: int = 100,
        min_confidence: float = 0.0,
        uncalibrated: bool = False,
    ) -> list[Fix]:
        """A fix for each query; see `fixes`."""
        _check_k(k)
        found = self.search(queries, k=self.compared(queries, k, rerank), region=region, rerank=rerank)
        return self.fixes(
            found,
            queries,
            k=k,
            region=region,
            rerank=rerank,
            min_confidence=min_confidence,
            uncalibrated=uncalibrated,
        )

    def compared(self, queries: EncodedQueries, k: int, rerank: int) -> int:
        """How many matches an answer rests on: as many as its calibration did, however few the caller wants to see."""
        settings = self.settings_for(query_kind(queries.view, queries.heading_known))
        return min(MAX_K, max(k, settings.members, rerank))

    def fixes(
        self,
        found: SearchResult,
        queries: EncodedQueries,
        *,
        k: int,
        region: Region | None = None,
        rerank: int = 100,
        min_confidence: float = 0.0,
        uncalibrated: bool = False,
    ) -> list[Fix]:
        """Fixes with the k best matches each; `rerank` is that of the search.

        A photo is not located, and its fix has the reason: when no tile was found; when tiles have no coordinates; when
        nothing can be promised for the best place; when its confidence is below `min_confidence`. Without a
        calibration of this kind of query it is located only where the caller wants `uncalibrated` positions.
        """
        kind = query_kind(queries.view, queries.heading_known)
        fit = self.fit_for(kind, rerank)
        located = self.places(found, queries, self.settings_for(kind), rerank)
        judged = judge_places(fit, located.places, located.evidence) if fit else None
        notes = (*self.notes, *self._settings_notes(rerank)) if self.calibration or self.notes else ()
        fixes = []
        for query in range(len(queries)):
            problem = self._problem(found.matches, query, region)
            if problem is None and judged is None and not uncalibrated:
                problem = _uncalibrated(kind)
            if problem is None and judged is not None:
                problem = _unsure(judged, query, min_confidence)
            promised = problem is None and judged is not None
            heading = float(found.heading_deg[query, 0]) if found.heading_deg.shape[1] else np.nan
            fixes.append(
                Fix(
                    located=problem is None,
                    reason=problem[0] if problem else None,
                    detail=problem[1] if problem else None,
                    lat=float(located.cluster.lat[query]) if problem is None else None,
                    lon=float(located.cluster.lon[query]) if problem is None else None,
                    radius_m=float(judged.radius_m[query, 0]) if promised and judged else None,
                    confidence=float(judged.weight[query, 0]) if promised and judged else None,
                    calibrated=fit is not None,
                    notes=notes,
                    hypotheses=_hypotheses(located.places, judged, found, query),
                    heading_deg=heading if np.isfinite(heading) else None,
                    snapshot_id=self.snapshot.snapshot_id,
                    ordered_by=found.matches.ordered_by,
                    matches=_answer_matches(found.matches, located.cluster, query, k),
                )
            )
        return fixes

    def _settings_notes(self, rerank: int) -> tuple[str, ...]:
        rerank = self.reranked(rerank)
        fitted = self.calibration.rerank if self.calibration else rerank
        if fitted == rerank:
            return ()
        return (f"The calibration was fitted with rerank {fitted}, this search has {rerank}; {REFIT}",)

    def _problem(self, matches: Matches, query: int, region: Region | None) -> tuple[str, str] | None:
        if self.snapshot.count == 0:
            return reasons.EMPTY_INDEX, "The index holds no tiles."
        if not self.snapshot.located:
            return (
                reasons.NO_COORDINATES,
                "The tiles of this index have no coordinates: it finds what looks alike, it cannot locate.",
            )
        if matches.width == 0 or matches.rows[query, 0] < 0:
            where = "the given region" if region is not None else "the index"
            return reasons.NO_TILE_IN_REGION, f"No tile lies in {where}; widen it or index that area."
        return None


def _check_k(k: int) -> None:
    if not 1 <= k <= MAX_K:
        raise QueryError(f"k is {k}; give 1 to {MAX_K}.", reason="k_out_of_range")


def _unsure(judged: JudgedAnswers, query: int, min_confidence: float) -> tuple[str, str] | None:
    """Why nothing is promised for the first place of a query; None where something is."""
    sure, radius = float(judged.weight[query, 0]), float(judged.radius_m[query, 0])
    if judged.located[query] and sure >= min_confidence:
        return None
    limit = f", below {min_confidence:.2f}" if judged.located[query] else ""
    return (
        reasons.AMBIGUOUS,
        f"The truth lies within {radius:.0f} m of the best place with probability {sure:.2f} only{limit}: the photo "
        "may show a place that is not in the index, or places that look alike.",
    )


def _uncalibrated(kind: str) -> tuple[str, str]:
    return (
        reasons.UNCALIBRATED,
        f"No calibration of this index covers {kind}, so nothing can be promised; run `geoloc calibrate`, or choose "
        "uncalibrated positions.",
    )


def _hypotheses(
    places: Places, judged: JudgedAnswers | None, found: SearchResult, query: int
) -> tuple[Hypothesis, ...]:
    """The places of a query, the answer's own first; without a calibration weights are shares of the evidence."""
    one = []
    for number in range(places.width):
        column = int(places.best[query, number])
        if column < 0 or not np.isfinite(places.lat[query, number]):
            continue
        heading = float(found.heading_deg[query, column])
        one.append(
            Hypothesis(
                lat=float(places.lat[query, number]),
                lon=float(places.lon[query, number]),
                radius_m=float(judged.radius_m[query, number]) if judged else None,
                weight=float((judged.weight if judged else places.share)[query, number]),
                heading_deg=heading if np.isfinite(heading) else None,
                tiles=int(places.tiles[query, number]),
            )
        )
    return (*one[:1], *sorted(one[1:], key=lambda place: -place.weight))


def _answer_matches(matches: Matches, cluster: Cluster, query: int, k: int) -> tuple[Match, ...]:
    return tuple(
        Match(
            tile_id=match.tile_id,
            lat=match.lat,
            lon=match.lon,
            distance_bits=match.distance_bits,
            similarity=match.similarity,
            in_cluster=bool(cluster.in_cluster[query, column]),
        )
        for column, match in enumerate(matches.of(query, k))
    )


def in_order(parts: Sequence[SearchResult], places: IntArray) -> SearchResult:
    """Results put together and padded to the widest; row i of them goes to places[i]."""
    order, joined = np.argsort(places), SearchResult.joined(parts)
    return SearchResult(joined.matches.reordered(order), joined.heading_deg[order])
