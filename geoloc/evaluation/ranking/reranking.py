"""Re-ranking of a shortlist by the neighbours that its items have among themselves.

Both methods see a query and the K items of its shortlist, and nothing else of the gallery: the work does not depend on
the gallery's size, and where the shortlist is the whole gallery they are the published methods for one query.
Memory: (K + 1)^2 numbers for one query at a time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from geoloc.core.arrays import AnyArray, Float32Array, FloatArray, IntArray
from geoloc.evaluation.ranking.blockwise_scores import candidates
from geoloc.evaluation.ranking.shortlist import Gather

Reranking = Literal["k_reciprocal", "graph"]


def reranked_similarities(
    queries: Float32Array, rows: IntArray, gather: Gather, method: Reranking
) -> Float32Array:
    """Scores float32[Q, K], larger is better, of queries [Q, R, D] with their shortlists, rows int64[Q, K]; NaN for -1.

    `gather` gives the embeddings [k, D] or [k, S, D] of rows int64[k]. Of several candidates of a query or an item
    those count that are most alike.
    """
    score = k_reciprocal_scores if method == "k_reciprocal" else graph_scores
    out = np.full(rows.shape, np.nan, dtype=np.float32)
    for query, shortlist in enumerate(rows):
        there = shortlist >= 0
        if there.any():
            out[query, there] = score(*_most_alike(queries[query], gather(shortlist[there])))
    return out


def _most_alike(query: AnyArray, items: AnyArray) -> tuple[FloatArray, FloatArray]:
    """One vector [D] of a query's candidates [R, D], and one of each item's [K, S, D]: [K, D]."""
    query, items = np.asarray(query, dtype=np.float64), candidates(np.asarray(items, dtype=np.float64))
    cosines = np.einsum("rd,ksd->rks", query, items)
    best = cosines.max(axis=2).max(axis=1).argmax()
    return query[best], items[np.arange(len(items)), cosines[best].argmax(axis=1)]


def k_reciprocal_scores(
    query: FloatArray, items: FloatArray, *, k1: int = 20, k2: int = 6, own_share: float = 0.3
) -> FloatArray:
    """Minus the distance of a query [D] from items [K, D] after k-reciprocal encoding, float64[K]; unit vectors.

    Neighbours that have each other among their k1 first are reciprocal; sets are widened by those of reciprocal
    neighbours (k1 / 2) that share two thirds with them; each set is a vector of weights exp(-d), averaged over the k2
    first neighbours. The distance is (1 - own_share) Jaccard + own_share d, d = 2 - 2 cosine divided by its largest
    value from the same item. Source: Zhong et al., CVPR 2017, equations 3 to 12, with the authors' constants.
    """
    vectors = np.concatenate([query[None], items])
    distance = np.clip(2 - 2 * vectors @ vectors.T, 0, None)
    distance = (distance / np.maximum(distance.max(axis=1, keepdims=True), 1e-12)).astype(np.float64)
    order = np.argsort(distance, axis=1, kind="stable")
    whole, half = _reciprocal(order, k1), _reciprocal(order, max(1, round(k1 / 2)))
    weights = np.zeros_like(distance)
    for row, own in enumerate(whole):
        members = set(own)
        for neighbour in own:
            others = half[neighbour]
            if len(np.intersect1d(others, own)) > 2 / 3 * len(others):
                members.update(others.tolist())
        wide = np.array(sorted(members))
        weight = np.exp(-distance[row, wide])
        weights[row, wide] = weight / weight.sum()
    if k2 > 1:
        weights = weights[order[:, :k2]].mean(axis=1)
    smaller = np.minimum(weights[:1], weights[1:]).sum(axis=1)
    jaccard = 1 - smaller / (2 - smaller)  # rows sum to 1, so the larger ones sum to 2 minus the smaller ones
    return np.asarray(-((1 - own_share) * jaccard + own_share * distance[0, 1:]))


def _reciprocal(order: IntArray, k: int) -> list[IntArray]:
    """For every row of an order int64[n, n] the neighbours among its first k + 1 that have it among theirs."""
    first = order[:, : k + 1]
    near = np.zeros(order.shape, dtype=np.bool_)
    np.put_along_axis(near, first, values=True, axis=1)
    mutual = near & near.T
    return [np.flatnonzero(row) for row in mutual]


def graph_scores(
    query: FloatArray, items: FloatArray, *, k1: int = 26, k2: int = 7, rounds: int = 2
) -> FloatArray:
    """Cosine of a query [D] and items [K, D] after propagation over their neighbours, float64[K]; unit vectors.

    Every item is the row of its k1 nearest neighbours in the adjacency matrix. In each round the matrix is made
    symmetric, and each row becomes the sum of the rows of its k2 nearest neighbours, weighted by their squared
    cosines and scaled to length 1. Source: Zhang et al., Understanding Image Retrieval Re-Ranking: A Graph Neural
    Network Perspective (2020), with the constants that University-1652's baseline uses.
    """
    vectors = np.concatenate([query[None], items])
    similarity = vectors @ vectors.T
    order = np.argsort(-similarity, axis=1, kind="stable")
    adjacency = np.zeros_like(similarity)
    np.put_along_axis(adjacency, order[:, :k1], values=1.0, axis=1)
    near = order[:, :k2]
    weight = np.take_along_axis(similarity, near, axis=1) ** 2
    for _ in range(rounds if k2 > 1 else 0):
        adjacency = adjacency + adjacency.T
        adjacency = np.einsum("nk,nkm->nm", weight, adjacency[near])
        adjacency /= np.maximum(np.linalg.norm(adjacency, axis=1, keepdims=True), 1e-12)
    adjacency /= np.maximum(np.linalg.norm(adjacency, axis=1, keepdims=True), 1e-12)
    return np.asarray(adjacency[1:] @ adjacency[0])
