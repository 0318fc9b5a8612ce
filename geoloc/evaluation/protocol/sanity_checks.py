"""Sanity checks: inputs that make a figure worthless are refused, suspicious ones give a finding beside it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core.arrays import Float32Array
from geoloc.core.errors import InputError
from geoloc.evaluation.ranking.blockwise_scores import gallery_blocks

_CONSTANT = 1e-5
_UNLIKELY = 0.00135  # of chance alone to do as well: three standard deviations


class EmbeddingCheck:
    """Checks embeddings block by block; call `close` after the last block."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = self._bad = 0
        self._shortest, self._longest = np.inf, -np.inf
        self._lowest: Float32Array | None = None
        self._highest: Float32Array | None = None

    def add(self, embeddings: npt.NDArray[np.generic]) -> None:
        """Add a block of embeddings [n, ..., D]."""
        values = np.asarray(embeddings, dtype=np.float32).reshape(-1, embeddings.shape[-1])
        if not len(values):
            return
        self._count += len(values)
        self._bad += int((~np.isfinite(values).all(axis=1)).sum())
        lengths = np.linalg.norm(values, axis=1)
        self._shortest = min(self._shortest, float(lengths.min()))
        self._longest = max(self._longest, float(lengths.max()))
        low, high = values.min(axis=0), values.max(axis=0)
        self._lowest = low if self._lowest is None else np.minimum(self._lowest, low)
        self._highest = high if self._highest is None else np.maximum(self._highest, high)

    def close(self) -> None:
        """Refuse with `InputError` what was not finite, not of length 1, or all the same."""
        if self._bad:
            raise InputError(
                f"{self._bad} of {self._count} embeddings of {self._what} hold NaN or infinity; the model is broken: "
                "train again.",
                reason="embedding_not_finite",
            )
        if self._count and max(abs(self._shortest - 1.0), abs(self._longest - 1.0)) > 0.01:
            raise InputError(
                f"Embeddings of {self._what} have lengths from {self._shortest:.3g} to {self._longest:.3g} instead of "
                "1; encode again with this version.",
                reason="embedding_not_normalised",
            )
        if self._count > 1 and self._spread() < _CONSTANT:
            raise InputError(
                f"All {self._count} embeddings of {self._what} are the same; the model has collapsed: train again.",
                reason="embedding_constant",
            )

    def _spread(self) -> float:
        assert self._lowest is not None
        assert self._highest is not None
        return float((self._highest - self._lowest).max())


def check_embeddings(blocks: Iterable[npt.NDArray[np.generic]], what: str) -> None:
    """Refuse embeddings, blocks of [n, ..., D], that are not finite, not of length 1 or all the same."""
    check = EmbeddingCheck(what)
    for _, piece in gallery_blocks(lambda: blocks):
        check.add(piece)
    check.close()


def check_ids(ids: pa.Array, what: str) -> None:
    """Refuse ids (pa.string [N]) that appear twice: the right one would depend on their order."""
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        name = twice[0].as_py()
        raise InputError(
            f"{len(twice)} ids of {what} appear more than once (such as {name['values']!r}, {name['counts']} times); "
            "give every one an id of its own.",
            reason="duplicate_id",
        )


def check_common(matched: int, queries: int, what: str) -> None:
    """Refuse an evaluation in which no query has a right answer: queries and gallery have no label in common."""
    if queries and not matched:
        raise InputError(
            f"None of {queries} queries has a right answer among the gallery's {what}: their ids or places do not "
            "meet. Evaluate queries and an index of the same data set and split.",
            reason="no_common_labels",
        )


def check_precision(precision: float, recall_at_1: float, what: str) -> None:
    """Refuse an impossible table (percent): with one right answer per query, AP is never below Recall@1."""
    if precision < recall_at_1 - 1e-6:
        raise InputError(
            f"AP {precision:.2f} is below R@1 {recall_at_1:.2f} for {what}, where every query has one right answer: "
            "that cannot be, so queries and gallery are not what the protocol says.",
            reason="precision_below_recall",
        )


def no_better_than_chance(recall_at_1: float, chance_at_1: float, queries: int, what: str) -> list[str]:
    """A finding when chance does as well as R@1 (percent over `queries`) more often than once in 740 times.

    A one-sided binomial test of the hits; queries with different chances are taken at their mean.
    """
    from scipy.stats import binom

    hits = round(recall_at_1 / 100.0 * queries)
    share = min(max(chance_at_1 / 100.0, 0.0), 1.0)
    if binom.sf(hits - 1, queries, share) <= _UNLIKELY:
        return []
    return [
        f"R@1 of {what} is {recall_at_1:.2f} %, no better than chance ({chance_at_1:.2f} %): the model does not know "
        "this area, or photos and tiles do not belong together."
    ]


def without_match(missing: int, queries: int) -> list[str]:
    """A finding about queries without a right gallery item."""
    if not missing:
        return []
    return [
        f"{missing} of {queries} queries have no true tile in the index; they count as misses. Index the area that "
        "the photos were taken in."
    ]


def several_matches(several: int, queries: int, name: str) -> list[str]:
    """A finding about queries with several right items where the protocol has a single right item."""
    if not several:
        return []
    return [
        f"{several} of {queries} queries have more than one right item, and {name} knows one a query: the data are not "
        "that data set's."
    ]


def not_comparable(
    queries: int, gallery: int, published: tuple[int | None, int | None], name: str
) -> list[str]:
    """A finding when the sizes are not those of the published figures (queries, gallery)."""
    wanted = [
        f"{have:,} {what} instead of {want:,}"
        for have, want, what in ((queries, published[0], "queries"), (gallery, published[1], "gallery items"))
        if want is not None and have != want
    ]
    if not wanted:
        return []
    return [f"Not comparable with published figures of {name}: {' and '.join(wanted)}."]


def turned_photos(turned: int, queries: int, headings: int, name: str) -> list[str]:
    """A finding when photos were compared at the best of several headings, which published figures do not do."""
    if not turned:
        return []
    return [
        f"{turned} of {queries} photos have no heading and were compared at the best of {headings} headings: published "
        f"figures of {name} take one embedding a photo; pass --headings 1 for theirs (the photos of a place are one "
        "query only then)."
    ]


def constant_codes(blocks: Iterable[npt.NDArray[np.uint8]], what: str) -> list[str]:
    """A finding when all codes, blocks of uint8[n, B], are the same: then every answer is a tie."""
    first, count = None, 0
    for block in blocks:
        rows = block.reshape(-1, block.shape[-1])
        if len(rows):
            first = rows[0] if first is None else first
            count += len(rows)
            if (rows != first).any():
                return []
    if count < 2:
        return []
    return [
        f"All {count} hash codes of {what} are the same: searches by code find nothing; train the hash head."
    ]
