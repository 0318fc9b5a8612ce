"""Photos as a model sees them: embeddings, codes and what is known of their heading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray, IntArray
from geoloc.core.errors import QueryError
from geoloc.geometry.azimuth import TurnedPhoto
from geoloc.index.search.kernels.weighted_scan import Weights


@dataclass(frozen=True)
class EncodedQueries:
    """Photos as a model sees them, all of one view and one kind of heading.

    embedding: float32[Q, R, D], code: uint8[Q, R, bits // 8], weights: int8[Q, R, bits], how sure each bit is
    (`bit_weights` of its logits; None: not known); R is 1 for a known heading, else the number of
    heading candidates. heading_deg: float64[Q], the known heading or NaN. columns: azimuth columns of the embedding
    that roll as the photo turns, 1 where turning is no rolling; shown: bool[Q, columns], those that show something of
    a photo of limited view (of candidate 0), None where all do: the others are zero in its embedding. sector:
    bool[Q, R], the candidates that a compass leaves in question (at least one each); None: all.
    """

    embedding: Float32Array
    code: npt.NDArray[np.uint8]
    heading_deg: FloatArray
    view: str
    model_id: str
    columns: int = 1
    shown: BoolArray | None = None
    weights: Weights | None = None
    sector: BoolArray | None = None

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
            weights=None if self.weights is None else self.weights[part],
            sector=None if self.sector is None else self.sector[part],
        )

    @property
    def kind(self) -> tuple[object, ...]:
        """What queries have in common that can be joined: model, view, widths, and what is known of them."""
        known = (one is None for one in (self.shown, self.weights, self.sector))
        return (
            self.model_id,
            self.view,
            self.columns,
            self.embedding.shape[1:],
            self.code.shape[1:],
            *known,
        )

    @classmethod
    def joined(cls, parts: Sequence[EncodedQueries]) -> EncodedQueries:
        """Queries of one `kind`, one below the other; `QueryError` for others."""
        if len(parts) == 1:
            return parts[0]
        if len({part.kind for part in parts}) != 1:
            raise QueryError(
                f"{len(parts)} groups of queries are not of one kind; join those of one view and model.",
                reason="mixed_queries",
            )

        def column(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        names = ("embedding", "code", "heading_deg", "shown", "weights", "sector")
        return replace(parts[0], **{name: column(name) for name in names})

    def searched(self) -> IntArray:
        """The candidates whose codes are searched, int64[Q, S]: those of the sector.

        S is the width of the widest sector. A narrower one repeats its first candidate.
        """
        candidates = self.code.shape[1]
        if self.sector is None:
            return np.broadcast_to(np.arange(candidates), (len(self), candidates))
        order = np.argsort(~self.sector, axis=1, kind="stable")
        counts = self.sector.sum(axis=1, keepdims=True)
        order = order[:, : int(counts.max(initial=1))]
        return np.where(np.arange(order.shape[1]) < counts, order, order[:, :1])

    def weights_of(self, query: int) -> Weights:
        """Weights int8[R, bits] of a query that has them; `QueryError` for others."""
        if self.weights is None:
            raise QueryError(
                "These queries came without code logits; encode them again.", reason="wrong_logits"
            )
        weights: Weights = self.weights[query]
        return weights

    def turned(self, query: int) -> TurnedPhoto:
        """One photo at all its turns, to compare with stored embeddings."""
        shown = None if self.shown is None else self.shown[query]
        sector = None if self.sector is None else self.sector[query]
        return TurnedPhoto(self.embedding[query], self.columns, shown, sector)
