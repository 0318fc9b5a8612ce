"""All rankings of one side against the other: by floats, components, codes of each length, re-ranked codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array, FloatArray, IntArray
from geoloc.evaluation.ranking.average_precision import average_precision
from geoloc.evaluation.ranking.blockwise_scores import Blocks, Cosine, Hamming, Measure
from geoloc.evaluation.ranking.method_rows import FLOATS, codes_name, projected_name, rerank_name
from geoloc.evaluation.ranking.metrics import TIES, Ties
from geoloc.evaluation.ranking.pca import ProjectedDistance, fit_projection
from geoloc.evaluation.ranking.photos_and_tiles import Asking, Side
from geoloc.evaluation.ranking.ranks import Question, RankCounts, Ranking, Truth, rank
from geoloc.evaluation.ranking.shortlist import shortlist_ranks, similarities
from geoloc.index.search.matches import Matches


@dataclass(frozen=True)
class Wanted:
    """What is asked and by which methods.

    questions: all answered; `precision` is of the first one's positives. dropped: junk of the gallery, bool[N].
    lengths: code lengths in bits, ascending; rerank: codes to re-rank, 0 for none. components: also by so many
    principal components of the gallery. keep: best answers to keep of the first method.
    """

    questions: Sequence[Question]
    lengths: Sequence[int]
    rerank: int
    components: int | None = None
    precision: bool = False
    dropped: BoolArray | None = None
    keep: int = 0


@dataclass(frozen=True)
class Retrieved:
    """Answers of Q queries in the order of their side.

    counts: by method, one for each question; precision: by method and treatment of ties, float64[Q].
    rows, scores: int64[Q, k] and float32[Q, k], positions on the gallery's side, -1 where there are fewer.
    """

    counts: dict[str, list[RankCounts]]
    precision: dict[str, dict[Ties, FloatArray]]
    rows: IntArray
    scores: Float32Array


def retrieve(
    asking: Side, gallery: Side, wanted: Wanted, served: Sequence[Matches] | None = None
) -> Retrieved:
    """Rank the gallery for all that ask, by every method; an index without embeddings has only rows of codes.

    `served` are the matches that a search with this re-ranking gave to each group of `asking`: they are what the
    row of the whole code is made of. Memory: see `scan`.
    """
    out = _Merged(len(asking), wanted, len(gallery) - gallery.removed_count)
    order = gallery.order
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    floats: dict[str, Measure] = {}
    if asking.has_embeddings and gallery.has_embeddings:
        if wanted.components:
            fitted = fit_projection(gallery.embeddings, wanted.components)
            floats[projected_name(fitted.dimensions)] = ProjectedDistance(fitted)
        floats[FLOATS] = Cosine()
    for number, group in enumerate(asking.asking()):
        questions = [_of_group(question, group.rows, len(asking), place) for question in wanted.questions]
        walks = _Walks(gallery, group, questions, wanted, order)
        for name, measure in floats.items():
            assert group.embedding is not None
            keep = wanted.keep if name == next(iter(floats)) else 0
            asked = group.floats() if name == FLOATS else (group.embedding, measure)
            found = walks.walk(asked[0], gallery.embeddings, asked[1], keep)
            out.put(name, group.rows, found, measure.tie, order if keep else None)
        for bits in wanted.lengths:
            whole = bits == wanted.lengths[-1]
            keep = max(wanted.keep if whole and not floats else 0, wanted.rerank if floats else 0)
            by_codes = walks.walk(group.code, gallery.codes, Hamming(group.code.shape[-1], bits), keep)
            first = order if whole and not floats and keep else None
            out.put(codes_name(bits), group.rows, by_codes, 0.0, first)
            if floats and wanted.rerank:
                found = walks.reranked(by_codes, served[number] if served and whole else None)
                out.put(rerank_name(bits, wanted.rerank), group.rows, found, None, None)
    return out.done()


def _of_group(question: Question, rows: IntArray, queries: int, place: IntArray) -> Question:
    """The question about some of the queries, renumbered from 0, and about the gallery in the order of its blocks."""
    number = np.full(queries, -1, dtype=np.int64)
    number[rows] = np.arange(len(rows))

    def renumbered(truth: Truth) -> Truth:
        inside = number[truth.query] >= 0
        return Truth(number[truth.query[inside]], place[truth.tile[inside]])

    return Question(renumbered(question.positives), renumbered(question.ignored))


class _Walks:
    """Walks of one group of queries."""

    def __init__(
        self, gallery: Side, group: Asking, questions: list[Question], wanted: Wanted, order: IntArray
    ) -> None:
        self._gallery, self._group, self._questions, self._wanted = gallery, group, questions, wanted
        self._dropped = None if wanted.dropped is None else wanted.dropped[order]

    def walk(self, queries: AnyArray, blocks: Blocks, measure: Measure, keep: int) -> Ranking:
        return rank(
            queries,
            blocks,
            measure,
            self._questions,
            dropped=self._dropped,
            k=min(keep, len(self._gallery)),
            every=self._wanted.precision,
        )

    def reranked(self, by_codes: Ranking, served: Matches | None) -> Ranking:
        if served is not None and self._dropped is None:
            rows, scores = served.rows, served.similarity
        else:
            rows = by_codes.rows[:, : self._wanted.rerank]
            embedding, measure = self._group.floats()
            wide = np.asarray(embedding, dtype=np.float32)
            scores = similarities(wide, rows, self._gallery.embeddings_of, measure)
        counts = [
            shortlist_ranks(rows, scores, question, known)
            for question, known in zip(self._questions, by_codes.counts, strict=True)
        ]
        return Ranking(counts, None, rows, scores)


class _Merged:
    """Answers of groups of queries put together."""

    def __init__(self, queries: int, wanted: Wanted, gallery: int) -> None:
        self._queries, self._wanted, self._gallery = queries, wanted, gallery
        self._counts: dict[str, list[RankCounts]] = {}
        self._precision: dict[str, dict[Ties, FloatArray]] = {}
        self._rows = np.full((queries, wanted.keep), -1, dtype=np.int64)
        self._scores = np.full((queries, wanted.keep), -np.inf, dtype=np.float32)

    def put(
        self, method: str, rows: IntArray, found: Ranking, tie: float | None, best: IntArray | None
    ) -> None:
        whole = self._counts.setdefault(method, [_empty(self._queries, self._gallery) for _ in found.counts])
        for into, part in zip(whole, found.counts, strict=True):
            into.better[rows] = part.better
            into.tied[rows] = part.tied
            into.positives[rows] = part.positives
        if found.every is not None and tie is not None:
            into_precision = self._precision.setdefault(
                method, {ties: np.zeros(self._queries) for ties in TIES}
            )
            for ties in TIES:
                into_precision[ties][rows] = average_precision(found.every, ties, tie=tie)
        if best is not None:
            width = min(self._wanted.keep, found.rows.shape[1])
            there = found.rows[:, :width]
            self._rows[rows, :width] = np.where(there >= 0, best[np.maximum(there, 0)], -1)
            self._scores[rows, :width] = found.scores[:, :width]

    def done(self) -> Retrieved:
        return Retrieved(self._counts, self._precision, self._rows, self._scores)


def _empty(queries: int, gallery: int) -> RankCounts:
    zeros = [np.zeros(queries, dtype=np.int64) for _ in range(3)]
    return RankCounts(zeros[0], zeros[1], zeros[2], gallery)
