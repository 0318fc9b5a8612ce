"""From encoded photos to fixes on one snapshot: search, cluster, calibrated radius and confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray, IntArray
from geoloc.core.errors import ModelMismatch, QueryError
from geoloc.geometry.azimuth import TurnedPhoto
from geoloc.index.search.matches import Matches
from geoloc.index.search.region import Region
from geoloc.index.search.rotation_invariant_codes import AnyHeadingCoder
from geoloc.index.search.snapshot import Snapshot
from geoloc.localization import fix as reasons
from geoloc.localization.calibration import Calibration, load_calibration, query_kind
from geoloc.localization.cluster import Cluster, ClusterSettings, find_cluster
from geoloc.localization.fix import Fix, Match
from geoloc.localization.merge_headings import candidate_heading_deg, merge_candidates

MAX_K = 1000
TURNED_SHORTLIST = 5  # times as many tiles where each has many turns to be near at by chance
_MAX_SEARCH_ROWS = 4096  # heading candidates multiply queries; this bounds what one search holds


@dataclass(frozen=True)
class EncodedQueries:
    """Photos as a model sees them, all of one view and one kind of heading.

    embedding: float32[Q, R, D], code: uint8[Q, R, bits // 8]; R is 1 for a known heading, else the number of
    heading candidates. heading_deg: float64[Q], the known heading or NaN. columns: azimuth columns of the embedding
    that roll as the photo turns, 1 where turning is no rolling; shown: bool[Q, columns], those that show something of
    a photo of limited view (of candidate 0), None where all do: the others are zero in its embedding.
    """

    embedding: Float32Array
    code: npt.NDArray[np.uint8]
    heading_deg: FloatArray
    view: str
    model_id: str
    columns: int = 1
    shown: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.code)

    @property
    def heading_known(self) -> bool:
        """Whether the heading is known; else all candidates are searched."""
        return bool(self.code.shape[1] == 1)

    @property
    def limited(self) -> BoolArray:
        """Which photos show part of the circle, bool[Q]."""
        if self.shown is None or self.columns == 1:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(~self.shown.all(axis=1))

    def rows(self, part: slice | IntArray) -> EncodedQueries:
        """The queries at positions int64[q]."""
        return replace(
            self,
            embedding=self.embedding[part],
            code=self.code[part],
            heading_deg=self.heading_deg[part],
            shown=None if self.shown is None else self.shown[part],
        )

    def turned(self, query: int) -> TurnedPhoto:
        """One photo at all its turns, to compare with stored embeddings."""
        shown = None if self.shown is None else self.shown[query]
        return TurnedPhoto(self.embedding[query], self.columns, shown)


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


class Locator:
    """Answers encoded queries from one snapshot; safe to use from several threads."""

    def __init__(
        self,
        snapshot: Snapshot,
        calibration: Calibration | None = None,
        settings: ClusterSettings | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.calibration = calibration
        self._settings = settings

    @classmethod
    def open(
        cls,
        index_uri: str,
        snapshot_id: str | None = None,
        *,
        cache_dir: str | None = None,
        skip_broken: bool = False,
    ) -> Locator:
        """The locator of a snapshot (None: the current snapshot), with its calibration where it has been calibrated.

        `skip_broken` is that of `Snapshot.open`.
        """
        snapshot = Snapshot.open(index_uri, snapshot_id, cache_dir=cache_dir, skip_broken=skip_broken)
        return cls(snapshot, load_calibration(index_uri, snapshot.snapshot_id))

    def settings_for(self, kind: str) -> ClusterSettings:
        """How matches of this kind of query become a position: as calibrated, else the defaults."""
        if self._settings is not None:
            return self._settings
        fit = self.calibration.query_kinds.get(kind) if self.calibration else None
        return fit.settings() if fit else ClusterSettings()

    def search(
        self, queries: EncodedQueries, *, k: int, region: Region | None = None, rerank: int = 100
    ) -> SearchResult:
        """The best k tiles of each query; heading candidates are all searched and the best of each tile kept.

        `rerank` nearest codes are ordered by float embeddings (0: codes only). Where the embedding rolls with its
        photo and the heading is unknown or the view limited, those of the `rerank` * `TURNED_SHORTLIST` tiles with the
        nearest codes are compared at every turn and where the photo shows something (`TurnedPhoto`). Raises
        `QueryError` for k or rerank out of range and `ModelMismatch` for an index of another model.
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
        if self.snapshot.embedding_dim is None:
            rerank = 0
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
        return found[0] if len(found) == 1 else _in_order(found, np.concatenate(order))

    def _search(self, queries: EncodedQueries, k: int, region: Region | None, rerank: int) -> SearchResult:
        count, candidates = queries.code.shape[:2]
        matches = self.snapshot.search(
            self._codes(queries).reshape(count * candidates, -1),
            k=k,
            region=region,
            embeddings=queries.embedding.reshape(count * candidates, -1) if rerank else None,
            rerank=rerank,
        )
        if candidates == 1:
            return SearchResult(matches, np.repeat(queries.heading_deg[:, None], matches.width, axis=1))
        merged, chosen = merge_candidates(matches, candidates, k, self.snapshot.bits)
        headings = candidate_heading_deg(1, candidates) * chosen.astype(np.float64)
        return SearchResult(merged, np.where(merged.rows >= 0, headings, np.nan))

    def _search_turned(
        self, queries: EncodedQueries, k: int, region: Region | None, rerank: int
    ) -> SearchResult:
        """Codes give a shortlist of tiles, whose embeddings are compared at every turn.

        The codes are those of all heading candidates. For photos of the whole circle it is the rotation invariant
        code, where the index has such codes.
        """
        photos = [queries.turned(number) for number in range(len(queries))]
        any_heading, bits = None, self.snapshot.any_heading_bits
        if bits and not queries.heading_known and not queries.limited.any():
            any_heading = AnyHeadingCoder(bits, queries.columns).codes(queries.embedding[:, 0])
        matches = self.snapshot.search_scored(
            self._codes(queries),
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

    def _codes(self, queries: EncodedQueries) -> npt.NDArray[np.uint8]:
        """Codes uint8[Q, R, bytes] of the index's length: the first bits of a code are a shorter code."""
        return np.ascontiguousarray(queries.code[..., : self.snapshot.bits // 8])

    def cluster(self, found: SearchResult, settings: ClusterSettings) -> Cluster:
        """Positions of the queries from their matches."""
        matches = found.matches
        return find_cluster(matches.lat, matches.lon, matches.scores(self.snapshot.bits), settings)

    def locate(
        self,
        queries: EncodedQueries,
        *,
        k: int = 10,
        region: Region | None = None,
        rerank: int = 100,
        min_confidence: float = 0.0,
    ) -> list[Fix]:
        """A fix for each query; see `fixes`."""
        _check_k(k)
        # The position rests on as many tiles as its calibration did, however few the caller wants to see.
        settings = self.settings_for(query_kind(queries.view, queries.heading_known))
        found = self.search(queries, k=max(k, settings.members), region=region, rerank=rerank)
        return self.fixes(found, queries, k=k, region=region, min_confidence=min_confidence)

    def fixes(
        self,
        found: SearchResult,
        queries: EncodedQueries,
        *,
        k: int,
        region: Region | None = None,
        min_confidence: float = 0.0,
    ) -> list[Fix]:
        """Fixes with the k best matches each.

        `located` is false, with the reason, when no tile was found, when tiles have no coordinates, or when the
        calibrated confidence is below `min_confidence` (the matches then cannot be told apart).
        """
        kind = query_kind(queries.view, queries.heading_known)
        cluster = self.cluster(found, self.settings_for(kind))
        fit = self.calibration.query_kinds.get(kind) if self.calibration else None
        radius, confidence = fit.apply(cluster.features) if fit else (None, None)
        fixes = []
        for query in range(len(queries)):
            matches = _answer_matches(found.matches, cluster, query, k)
            problem = self._problem(found.matches, query, region)
            heading = float(found.heading_deg[query, 0]) if found.heading_deg.shape[1] else np.nan
            sure = None if confidence is None else float(confidence[query])
            if problem is None and sure is not None and sure < min_confidence:
                problem = _ambiguous(sure, min_confidence, float(cluster.features[query, 1]))
            fixes.append(
                Fix(
                    located=problem is None,
                    reason=problem[0] if problem else None,
                    detail=problem[1] if problem else None,
                    lat=float(cluster.lat[query]) if problem is None else None,
                    lon=float(cluster.lon[query]) if problem is None else None,
                    radius_m=float(radius[query]) if radius is not None and problem is None else None,
                    confidence=sure if problem is None or problem[0] == reasons.AMBIGUOUS else None,
                    heading_deg=heading if np.isfinite(heading) else None,
                    snapshot_id=self.snapshot.snapshot_id,
                    matches=matches,
                )
            )
        return fixes

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


def _ambiguous(confidence: float, limit: float, margin: float) -> tuple[str, str]:
    return (
        reasons.AMBIGUOUS,
        f"The best matches look nearly alike (margin {margin:.3f}): confidence {confidence:.2f} is below {limit:.2f}.",
    )


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
        for column, match in enumerate(matches.of(query)[:k])
    )


def _in_order(parts: Sequence[SearchResult], places: IntArray) -> SearchResult:
    """Results put together and padded to the widest; row i of them goes to places[i]."""
    order, joined = np.argsort(places), SearchResult.joined(parts)
    return SearchResult(joined.matches.reordered(order), joined.heading_deg[order])
