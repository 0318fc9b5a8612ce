"""All rankings of a gallery for a set of queries: by floats, components, codes of each length, re-ranked codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, FloatArray, IntArray
from geoloc.evaluation.ranking.average_precision import average_precision
from geoloc.evaluation.ranking.blockwise_scores import Asymmetric, Cosine, Hamming, Similarity
from geoloc.evaluation.ranking.metrics import TIES, Ties
from geoloc.evaluation.ranking.pca import ProjectedDistance, fit_projection
from geoloc.evaluation.ranking.photos_and_tiles import ItemSet, QueryGroup, ScannedKind
from geoloc.evaluation.ranking.ranks import GroupRanks, Question, RankCounts, TruthTable, rank
from geoloc.evaluation.ranking.reranking import Reranking, reranked_similarities
from geoloc.evaluation.ranking.shortlist import shortlist_ranks, similarities
from geoloc.index.search.matches import Matches

FLOATS = "floats"


def codes_name(bits: int) -> str:
    """Method name of codes alone."""
    return f"codes {bits}"


def asymmetric_name(bits: int) -> str:
    """Method name of the query's real numbers against codes."""
    return f"codes {bits}, asymmetric"


def rerank_name(bits: int, rerank: int) -> str:
    """Method name of re-ranked codes."""
    return f"codes {bits} + re-rank {rerank}"


def projected_name(components: int) -> str:
    """Method name of embeddings reduced to principal components."""
    return f"floats, {components} components"


def neighbours_name(method: Reranking, rerank: int) -> str:
    """Method name of the nearest floats, ordered again by their neighbours."""
    return f"floats + {method.replace('_', '-')} {rerank}"


@dataclass(frozen=True)
class Methods:
    """The methods to rank by, and what to keep of their rankings.

    lengths: code lengths in bits, ascending; rerank: codes to re-rank, 0 for none. components: principal components
    of the gallery to compare by as well. precision: average precision of the first question's positives.
    rerankings: orders of the `rerank` nearest floats by their neighbours. keep: best items to keep of the first method.
    asymmetric: where queries have weights, rank by them too, and re-rank the nearest by them.
    """

    lengths: Sequence[int]
    rerank: int
    components: int | None = None
    precision: bool = False
    keep: int = 0
    rerankings: Sequence[Reranking] = ()
    asymmetric: bool = True


@dataclass(frozen=True)
class RankedList:
    """The ranking of a gallery for Q queries by one method.

    counts: ranks of the right items, for each question. precision: float64[Q] by treatment of ties, empty without
    `Methods.precision`. rows, scores: int64[Q, k] and float32[Q, k], the best items as positions of the gallery, -1
    where there are fewer; k is 0 where they are not kept.
    """

    counts: list[RankCounts]
    rows: IntArray
    scores: Float32Array
    precision: dict[Ties, FloatArray] = field(default_factory=dict)


def rank_all_methods(
    queries: ItemSet,
    gallery: ItemSet,
    questions: Sequence[Question],
    methods: Methods,
    *,
    dropped: BoolArray | None = None,
    served: Sequence[Matches] | None = None,
) -> dict[str, RankedList]:
    """Rank the gallery for all queries by every method; without embeddings there are only methods of codes.

    `dropped` (bool[N]) are items taken out of every ranking. `served` are the matches that a search with this
    re-ranking gave for each query group: they are the re-ranked list of the whole code. Memory: see
    `blockwise_scores`.
    """
    order = gallery.order
    place = None
    if order is not None:
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
    lists = _RankedLists(len(queries), len(gallery) - gallery.removed_count, len(questions), order)
    floats: dict[str, Similarity] = {}
    if queries.has_embeddings and gallery.has_embeddings:
        if methods.components:
            fitted = fit_projection(gallery.embeddings, methods.components)
            floats[projected_name(fitted.dimensions)] = ProjectedDistance(fitted)
        floats[FLOATS] = Cosine()
    in_blocks = dropped if dropped is None or order is None else dropped[order]
    for number, group in enumerate(queries.queries()):
        of_group = [_of_group(question, group.rows, len(queries), place) for question in questions]
        ranker = _GroupRanker(gallery, group, of_group, methods, in_blocks)
        for name, similarity in floats.items():
            assert group.embedding is not None
            keep = methods.keep if name == next(iter(floats)) else 0
            vectors, compared = group.floats() if name == FLOATS else (group.embedding, similarity)
            again = methods.rerankings if name == FLOATS and methods.rerank else ()
            ranks = ranker.rank(vectors, "embeddings", compared, max(keep, methods.rerank) if again else keep)
            lists.put(name, group.rows, ranks, keep, similarity.tie)
            for method in again:
                lists.put(
                    neighbours_name(method, methods.rerank),
                    group.rows,
                    ranker.rerank_by_neighbours(ranks, method),
                    0,
                    0.0,
                )
        for bits in methods.lengths:
            whole = bits == methods.lengths[-1]
            keep = methods.keep if whole and not floats else 0
            nearest = None
            for name, rows, compared in _code_methods(group, bits, asymmetric=methods.asymmetric):
                wide = max(keep, methods.rerank if floats else 0)
                ranks = ranker.rank(rows, "codes", compared, wide)
                lists.put(name, group.rows, ranks, keep, compared.tie)
                nearest, keep = nearest or ranks, 0
            if floats and methods.rerank and nearest is not None:
                ranks = ranker.rerank(nearest, served[number] if served and whole else None)
                lists.put(rerank_name(bits, methods.rerank), group.rows, ranks, 0, 0.0)
    return lists.by_method


def _code_methods(
    group: QueryGroup, bits: int, *, asymmetric: bool
) -> Iterator[tuple[str, AnyArray, Similarity]]:
    """(name, rows to compare, similarity) of the methods of codes, first the one that a search uses."""
    if asymmetric and group.weights is not None:
        yield asymmetric_name(bits), group.weights, Asymmetric(group.code.shape[-1], bits)
    yield codes_name(bits), group.code, Hamming(group.code.shape[-1], bits)


def _of_group(question: Question, rows: IntArray, queries: int, place: IntArray | None) -> Question:
    """The question about some of the queries, renumbered from 0, and about the gallery in the order of its blocks."""
    number = np.full(queries, -1, dtype=np.int64)
    number[rows] = np.arange(len(rows))

    def renumbered(truth: TruthTable) -> TruthTable:
        inside = number[truth.query] >= 0
        tile = truth.tile[inside]
        return TruthTable(number[truth.query[inside]], tile if place is None else place[tile])

    return Question(renumbered(question.positives), renumbered(question.ignored))


class _GroupRanker:
    """Ranks a gallery for one group of queries."""

    def __init__(
        self,
        gallery: ItemSet,
        group: QueryGroup,
        questions: list[Question],
        methods: Methods,
        dropped: BoolArray | None,
    ) -> None:
        self._gallery, self._group, self._questions, self._methods = gallery, group, questions, methods
        self._dropped = dropped

    def rank(self, queries: AnyArray, kind: ScannedKind, similarity: Similarity, keep: int) -> GroupRanks:
        return rank(
            queries,
            self._gallery.scanner(kind),
            similarity,
            self._questions,
            dropped=self._dropped,
            k=min(keep, len(self._gallery)),
            all_positives=self._methods.precision,
        )

    def rerank(self, by_codes: GroupRanks, served: Matches | None) -> GroupRanks:
        if served is not None and self._dropped is None:
            rows, scores = served.rows, served.similarity
        else:
            rows = by_codes.rows[:, : self._methods.rerank]
            embedding, similarity = self._group.floats()
            wide = np.asarray(embedding, dtype=np.float32)
            scores = similarities(wide, rows, self._gallery.embeddings_of, similarity)
        return self._of_shortlist(rows, scores, by_codes)

    def rerank_by_neighbours(self, by_floats: GroupRanks, method: Reranking) -> GroupRanks:
        rows = by_floats.rows[:, : self._methods.rerank]
        queries = np.asarray(self._group.embedding, dtype=np.float32)
        scores = reranked_similarities(queries, rows, self._gallery.embeddings_of, method)
        return self._of_shortlist(rows, scores, by_floats)

    def _of_shortlist(self, rows: IntArray, scores: Float32Array, before: GroupRanks) -> GroupRanks:
        counts = [
            shortlist_ranks(rows, scores, question, known)
            for question, known in zip(self._questions, before.counts, strict=True)
        ]
        return GroupRanks(counts, None, rows, scores)


class _RankedLists:
    """Ranked lists that are filled group by group."""

    def __init__(self, queries: int, gallery: int, questions: int, order: IntArray | None) -> None:
        self._queries, self._gallery, self._questions, self._order = queries, gallery, questions, order
        self.by_method: dict[str, RankedList] = {}

    def put(self, method: str, rows: IntArray, ranks: GroupRanks, keep: int, tie: float) -> None:
        into = self.by_method.get(method) or self.by_method.setdefault(method, self._empty(keep))
        for whole, part in zip(into.counts, ranks.counts, strict=True):
            whole.better[rows], whole.tied[rows], whole.positives[rows] = (
                part.better,
                part.tied,
                part.positives,
            )
        if ranks.positives is not None:
            for ties in TIES:
                values = into.precision.setdefault(ties, np.zeros(self._queries))
                values[rows] = average_precision(ranks.positives, ties, tie=tie)
        width = min(keep, ranks.rows.shape[1])
        best = ranks.rows[:, :width]
        if self._order is not None:
            best = np.where(best >= 0, self._order[np.maximum(best, 0)], -1)
        into.rows[rows, :width] = best
        into.scores[rows, :width] = ranks.scores[:, :width]

    def _empty(self, keep: int) -> RankedList:
        def zeros() -> IntArray:
            return np.zeros(self._queries, dtype=np.int64)

        counts = [RankCounts(zeros(), zeros(), zeros(), self._gallery) for _ in range(self._questions)]
        rows = np.full((self._queries, keep), -1, dtype=np.int64)
        return RankedList(counts, rows, np.full((self._queries, keep), -np.inf, dtype=np.float32))
