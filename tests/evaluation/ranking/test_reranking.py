"""Re-ranking against the published formulas written out with sets and loops, on shortlists that are the gallery."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest

from geoloc.evaluation.ranking.rank_all_methods import Methods, neighbours_name, rank_all_methods
from geoloc.evaluation.ranking.ranks import Question, TruthTable
from geoloc.evaluation.ranking.reranking import (
    Reranking,
    graph_scores,
    k_reciprocal_scores,
    reranked_similarities,
)
from tests.evaluation.small_sets import photos, tiles

RERANKINGS = get_args(Reranking)


def places(seed: int, count: int = 12, views: int = 4, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """A query of place 0 [D] and `views` items of each of `count` places [K, D], unit vectors."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 16))
    items = np.repeat(centres, views, axis=0) + noise * rng.normal(size=(count * views, 16))
    query = centres[0] + 1.2 * noise * rng.normal(size=16)
    return query / np.linalg.norm(query), items / np.linalg.norm(items, axis=1, keepdims=True)


def k_reciprocal_by_sets(query: np.ndarray, items: np.ndarray, k1: int, k2: int, share: float) -> list[float]:
    vectors = [query, *items]
    n = len(vectors)
    d = [[max(0.0, 2 - 2 * float(np.dot(a, b))) for b in vectors] for a in vectors]
    d = [[value / max(row) for value in row] for row in d]
    order = [sorted(range(n), key=lambda j, i=i: (d[i][j], j)) for i in range(n)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    def widened(i: int) -> set[int]:
        own = reciprocal(i, k1)
        result = set(own)
        for j in own:
            other = reciprocal(j, round(k1 / 2))
            if len(own & other) > 2 / 3 * len(other):
                result |= other
        return result

    raw = []
    for i in range(n):
        weights = {j: math.exp(-d[i][j]) for j in widened(i)}
        total = sum(weights.values())
        raw.append([weights.get(j, 0.0) / total for j in range(n)])
    mean = [[sum(raw[m][j] for m in order[i][:k2]) / k2 for j in range(n)] for i in range(n)]
    out = []
    for i in range(1, n):
        low = sum(min(a, b) for a, b in zip(mean[0], mean[i], strict=True))
        high = sum(max(a, b) for a, b in zip(mean[0], mean[i], strict=True))
        out.append(-((1 - share) * (1 - low / high) + share * d[0][i]))
    return out


def graph_by_loops(query: np.ndarray, items: np.ndarray, k1: int, k2: int, rounds: int) -> list[float]:
    vectors = [query, *items]
    n = len(vectors)
    s = [[float(np.dot(a, b)) for b in vectors] for a in vectors]
    order = [sorted(range(n), key=lambda j, i=i: (-s[i][j], j)) for i in range(n)]
    a = [[1.0 if j in order[i][:k1] else 0.0 for j in range(n)] for i in range(n)]
    for _ in range(rounds):
        a = [[a[i][j] + a[j][i] for j in range(n)] for i in range(n)]
        a = [[sum(s[i][m] ** 2 * a[m][j] for m in order[i][:k2]) for j in range(n)] for i in range(n)]
        a = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in a]
    return [sum(x * y for x, y in zip(a[0], a[i], strict=True)) for i in range(1, n)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_k_reciprocal_is_its_formula(seed: int) -> None:
    query, items = places(seed)
    got = k_reciprocal_scores(query, items, k1=8, k2=3, own_share=0.3)
    np.testing.assert_allclose(got, k_reciprocal_by_sets(query, items, 8, 3, 0.3), atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_graph_propagation_is_its_formula(seed: int) -> None:
    query, items = places(seed)
    got = graph_scores(query, items, k1=9, k2=4, rounds=2)
    np.testing.assert_allclose(got, graph_by_loops(query, items, 9, 4, 2), atol=1e-9)


@pytest.mark.parametrize("method", RERANKINGS)
def test_neighbours_help_where_a_place_has_several_items(method: str) -> None:
    plain, better = 0.0, 0.0
    for seed in range(40):
        query, items = places(seed, noise=1.0)
        out = reranked_similarities(
            query[None, None].astype(np.float32),
            np.arange(48)[None],
            lambda rows, items=items: items[rows],
            method,  # type: ignore[arg-type]
        )[0]
        plain += np.isin(np.argsort(-(items @ query))[:4], range(4)).sum()
        better += np.isin(np.argsort(-out)[:4], range(4)).sum()
    assert better > plain


@pytest.mark.parametrize("method", RERANKINGS)
def test_gaps_and_candidates(method: str) -> None:
    query, items = places(3)
    rows = np.array([[5, -1, 2, 40], [-1, -1, -1, -1]])
    stray = np.random.default_rng(5).normal(size=(48, 1, 16)) * 0.01
    several = np.concatenate([stray, items[:, None]], axis=1)
    queries = np.stack([[query * 0.01, query], [query, query]]).astype(np.float32)
    out = reranked_similarities(queries, rows, lambda r: several[r], method)  # type: ignore[arg-type]
    assert np.isnan(out[1]).all()
    assert np.isnan(out[0]).tolist() == [False, True, False, False]
    alone = reranked_similarities(
        queries[:1, 1:],
        rows[:1],
        lambda r: items[r],
        method,  # type: ignore[arg-type]
    )
    np.testing.assert_allclose(out[0], alone[0], atol=1e-6)


def test_rankings_by_neighbours_stand_beside_the_others() -> None:
    """All photos of six places against their tiles, one of them junk: the ranks are those of the scores."""
    rng = np.random.default_rng(8)
    centres = rng.normal(size=(6, 12))
    gallery = np.repeat(centres, 5, axis=0) + 0.7 * rng.normal(size=(30, 12))
    queries = centres + 0.7 * rng.normal(size=(6, 12))
    gallery, queries = (
        (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for v in (gallery, queries)
    )
    dropped = np.arange(30) == 2
    right = TruthTable(np.repeat(np.arange(6), 5), np.arange(30)).without_items(dropped)
    codes = np.zeros((36, 1), np.uint8)
    lists = rank_all_methods(
        photos(queries[:, None], codes[:6, None]),
        tiles(gallery, codes[6:], cuts=(11,)),
        [Question(right)],
        Methods((8,), 10, rerankings=RERANKINGS),
        dropped=dropped,
    )
    assert {neighbours_name(method, 10) for method in RERANKINGS} <= set(lists)
    cosines = np.where(dropped, -9.0, queries @ gallery.T)
    for method in RERANKINGS:
        better = []
        for query in range(6):
            shortlist = np.argsort(-cosines[query], kind="stable")[:10]
            score = k_reciprocal_scores if method == "k_reciprocal" else graph_scores
            scores = score(queries[query].astype(float), gallery[shortlist].astype(float)).astype(np.float32)
            own = shortlist // 5 == query
            better.append(int((scores[~own] > scores[own].max()).sum()))
        assert lists[neighbours_name(method, 10)].counts[0].better.tolist() == better
