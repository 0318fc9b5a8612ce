"""Codes of several encoders and lengths tried on a user's own photos and tiles: what they find, keep and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core.arrays import AnyArray, Codes, Float32Array, IntArray
from geoloc.evaluation.ranking.blockwise_scores import Asymmetric, Cosine, Hamming, scan
from geoloc.evaluation.ranking.ranks import TruthTable
from geoloc.evaluation.ranking.shortlist import similarities
from geoloc.index.search.kernels.dot_products import quantize
from geoloc.index.search.kernels.scan_kernel import default_kernel
from geoloc.index.search.kernels.weighted_scan import WeightedKernel, bit_weights

LIST = 100
KS = (1, 5, 10)
_TIMED_QUERIES = 20
_ROUNDS = 3


class CodeTrial(BaseModel):
    """One way of comparing: recalls in percent, bytes and time; of codes or of FAISS's own."""

    model_config = ConfigDict(frozen=True)

    encoder: str
    bits: int
    method: str = Field(
        description="codes, asymmetric, asymmetric + re-rank by float16, int8 or PQ, or FAISS's own."
    )
    recall: dict[str, float]
    float_best_in_100: float = Field(
        description="Photos whose best tile by floats is among the 100 nearest, percent."
    )
    bytes_per_tile: float = Field(description="What is compared; ids and places come on top.")
    scan_ms: float | None = Field(description="Milliseconds of a query on one core for a million tiles.")


@dataclass(frozen=True)
class TrialData:
    """Photos float32[Q, D] and tiles float16[N, D], unit vectors, with the right tiles; rows are in the order of ids.

    best: int64[Q], the row of the best tile by floats.
    """

    photos: Float32Array
    tiles: AnyArray
    truth: TruthTable
    best: IntArray

    @classmethod
    def of(cls, photos: Float32Array, tiles: AnyArray, truth: TruthTable) -> TrialData:
        """The data with the best tile of each photo: photos float32[Q, D], tiles float16[N, D]."""
        found = scan(photos, lambda: [tiles], Cosine(), k=1)
        return cls(photos, tiles, truth, found.rows[:, 0])

    def trial(
        self, name: str, bits: int, method: str, rows: IntArray, each: float, scan_ms: float | None
    ) -> CodeTrial:
        """What lists of rows int64[Q, K] found, at `each` bytes a tile."""
        keys = np.sort(self.truth.query * len(self.tiles) + self.truth.tile)
        right = np.isin(np.arange(len(rows))[:, None] * len(self.tiles) + rows, keys) & (rows >= 0)
        recall = {f"R@{k}": 100.0 * float(right[:, :k].any(axis=1).mean()) for k in KS}
        kept = 100.0 * float((rows[:, :LIST] == self.best[:, None]).any(axis=1).mean())
        return CodeTrial(
            encoder=name,
            bits=bits,
            method=method,
            recall=recall,
            float_best_in_100=kept,
            bytes_per_tile=each,
            scan_ms=scan_ms,
        )

    def reranked(self, rows: IntArray, gather: Callable[[IntArray], AnyArray]) -> IntArray:
        """Lists int64[Q, K] in the order of the cosine with what `gather` gives for rows; ties in order of rows."""
        scores = similarities(self.photos, rows, gather)
        order = np.lexsort((rows, -np.nan_to_num(scores, nan=-np.inf)), axis=1)
        return np.asarray(np.take_along_axis(rows, order, axis=1))


def floats(data: TrialData) -> CodeTrial:
    """Comparing all embeddings, float16 as an index stores them."""
    found = scan(data.photos, lambda: [data.tiles], Cosine(), k=LIST)
    dim = data.photos.shape[1]
    return data.trial("-", 0, "floats", found.rows, 2.0 * dim, None)


def try_codes(
    data: TrialData,
    name: str,
    logits: Float32Array,
    codes: Codes,
    reranks: Sequence[str] = ("float16", "int8", "PQ"),
) -> list[CodeTrial]:
    """Trials of one encoder and length: logits float32[Q, bits] of the photos, codes uint8[N, bits / 8] of the tiles.

    `reranks`: float16, int8 and PQ (8 times fewer bytes than float16 a tile) order the 100 nearest anew.
    """
    bits = logits.shape[1]
    queries, weights = np.packbits(logits > 0, axis=1), bit_weights(logits)
    by_code = scan(queries, lambda: [codes], Hamming(bits // 8), k=LIST).rows
    by_logits = scan(weights[:, None], lambda: [codes[:, None]], Asymmetric(bits // 8), k=LIST).rows
    size = bits / 8
    plain_ms = _scan_ms(lambda query: default_kernel().nearest(codes, queries[query], LIST), len(codes), data)
    weighed_ms = _scan_ms(
        lambda query: WeightedKernel().nearest(codes, weights[query], LIST), len(codes), data
    )
    trials = [
        data.trial(name, bits, "codes", by_code, size, plain_ms),
        data.trial(name, bits, "asymmetric", by_logits, size, weighed_ms),
    ]
    stored = _stored(data, reranks)
    for kind, (gather, more) in stored.items():
        rows = data.reranked(by_logits, gather)
        trials.append(data.trial(name, bits, f"asymmetric + {kind}", rows, size + more, None))
    return trials


def _stored(data: TrialData, kinds: Sequence[str]) -> dict[str, tuple[Callable[[IntArray], AnyArray], float]]:
    """(embeddings of rows, bytes a tile) by kind of storage."""
    dim = data.tiles.shape[1]
    found: dict[str, tuple[Callable[[IntArray], AnyArray], float]] = {}
    if "float16" in kinds:
        found["float16"] = (lambda rows: data.tiles[rows], 2.0 * dim)
    if "int8" in kinds:
        rounded = quantize(np.asarray(data.tiles, np.float32))
        found["int8"] = (lambda rows: rounded[rows], dim + 4.0)
    if "PQ" in kinds and dim % 4 == 0 and len(data.tiles) >= 256:
        index: Any = faiss.IndexPQ(dim, dim // 4, 8)
        wide = np.asarray(data.tiles, np.float32)
        index.train(wide[:: max(1, len(wide) // 20_000)])
        codes = index.sa_encode(wide)
        found["PQ"] = (lambda rows: index.sa_decode(np.ascontiguousarray(codes[rows])), dim / 4)
    return found


def try_faiss(data: TrialData, bits: int) -> list[CodeTrial]:
    """FAISS's product quantizer and RaBitQ (of principal components) of the same bytes, with inner products.

    RaBitQ adds 8 bytes of factors to a tile. A kind that the tiles are too few for is left out.
    """
    dim, count = data.tiles.shape[1], len(data.tiles)
    wide, size = np.asarray(data.tiles, np.float32), bits // 8
    sample = np.ascontiguousarray(wide[:: max(1, count // 20_000)])
    metric, trials = faiss.METRIC_INNER_PRODUCT, []
    if dim % size == 0 and count >= 256:
        quantizer: Any = faiss.IndexPQ(dim, size, 8, metric)
        quantizer.train(sample)
        quantizer.add(wide)
        rows = quantizer.search(data.photos, LIST)[1]
        trials.append(data.trial("FAISS", bits, "PQ", rows, size, None))
    if bits <= dim and count >= bits:
        reduced: Any = faiss.PCAMatrix(dim, bits, 0, True)
        reduced.train(sample)
        rabitq: Any = faiss.IndexRaBitQ(bits, metric)
        tiles, photos = reduced.apply(wide), reduced.apply(np.ascontiguousarray(data.photos))
        rabitq.train(tiles)
        rabitq.add(tiles)
        rows = rabitq.search(photos, LIST)[1]
        trials.append(data.trial("FAISS", bits, "RaBitQ", rows, float(rabitq.code_size), None))
    return trials


def _scan_ms(search: Callable[[slice], Any], count: int, data: TrialData) -> float:
    """Milliseconds of a query for a million tiles, the quickest of a few rounds over some queries."""
    queries = min(_TIMED_QUERIES, len(data.photos))
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for query in range(queries):
            search(slice(query, query + 1))
        best = min(best, time.perf_counter() - began)
    return 1e3 * best / max(1, queries) / max(1, count) * 1e6
