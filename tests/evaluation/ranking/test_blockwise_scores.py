"""The scan of blocks: counts and best answers against a full sort, and the memory bound that it promises."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.evaluation.ranking import blockwise_scores
from geoloc.evaluation.ranking.blockwise_scores import (
    Cosine,
    Hamming,
    PartCosine,
    Thresholds,
    pair_scores,
    scan,
)
from geoloc.evaluation.ranking.ranks import Question, TruthTable, rank
from tests.evaluation import oracles


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_a_scan_counts_and_keeps_what_a_full_sort_does(seed, k, heads, item_heads):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (4, heads, 3)).astype(np.float32)
    gallery = rng.integers(-2, 3, (int(rng.integers(1, 12)), item_heads, 3)).astype(np.float16)
    thresholds = Thresholds(rng.integers(0, 4, 6), rng.integers(-6, 7, 6).astype(np.float32))
    dropped = rng.random(len(gallery)) < 0.3
    blocks = np.split(gallery, sorted(rng.integers(0, len(gallery) + 1, 2)))
    found = scan(queries, lambda: blocks, Cosine(), thresholds=thresholds, dropped=dropped, k=k)
    table = [
        [max(oracles.dot(a, b) for a in query.tolist() for b in item.tolist()) for item in gallery]
        for query in queries
    ]
    for query, value, above in zip(thresholds.query, thresholds.value, found.above, strict=True):
        wanted = sum(score > value for score, out in zip(table[query], dropped, strict=True) if not out)
        assert above == wanted
    for row, line in enumerate(table):
        left = [item for item in range(len(gallery)) if not dropped[item]]
        best = sorted(left, key=lambda item: (-line[item], item))[:k]
        assert found.rows[row].tolist() == best + [-1] * (k - len(best))
        assert found.scores[row, : len(best)].tolist() == [line[item] for item in best]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.sampled_from([1, 2]))
def test_code_distances_are_counts_of_differing_bits(seed, code_bytes, heads):
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, 256, (3, heads, code_bytes), dtype=np.uint8)
    gallery = rng.integers(0, 256, (7, code_bytes), dtype=np.uint8)
    query, item = np.divmod(np.arange(21), 7)
    order = np.argsort(item, kind="stable")
    found = pair_scores(queries, lambda: [gallery], Hamming(code_bytes), query[order], item[order])
    scanned = scan(queries, lambda: [gallery], Hamming(code_bytes), pairs=(query[order], item[order]), k=7)
    for place, value, seen in zip(order, found, scanned.pair_scores, strict=True):
        near = min(
            oracles.bits_apart(head.tolist(), gallery[item[place]].tolist()) for head in queries[query[place]]
        )
        assert value == seen == -near


def test_nan_is_never_an_answer():
    gallery = np.array([[1.0], [np.nan], [0.5]], np.float32)
    found = scan(np.ones((1, 1), np.float32), lambda: [gallery], Cosine(), k=3)
    assert found.rows.tolist() == [[0, 2, -1]]


def test_an_empty_side_gives_empty_answers():
    none = np.empty((0, 3), np.float32)
    some = np.ones((2, 3), np.float32)
    assert scan(none, lambda: [some], Cosine(), k=2).rows.shape == (0, 2)
    found = scan(some, lambda: [none], Cosine(), k=2)
    assert found.rows.tolist() == [[-1, -1]] * 2
    assert found.gallery == 0


@pytest.mark.parametrize("codes", [False, True])
def test_memory_stays_bounded_where_the_matrix_would_not_fit(codes):
    """2,000 x 60,000 scores would be 480 MB; blocks, answers and truth together must stay below 40 MB."""
    queries_count, gallery_count, k = 2_000, 60_000, 50
    rng = np.random.default_rng(0)
    if codes:
        queries = rng.integers(0, 256, (queries_count, 4), dtype=np.uint8)
        gallery = rng.integers(0, 256, (gallery_count, 4), dtype=np.uint8)
    else:
        queries = rng.normal(size=(queries_count, 4)).astype(np.float32)
        gallery = rng.normal(size=(gallery_count, 4)).astype(np.float16)
    measure = Hamming(4) if codes else Cosine()
    truth = TruthTable(np.arange(queries_count), rng.integers(0, gallery_count, queries_count))
    rank(
        queries[:2], lambda: [gallery[:9]], measure, [Question(TruthTable(np.array([0]), np.array([3])))], k=2
    )
    tracemalloc.start()
    found = rank(queries, lambda: [gallery], measure, [Question(truth)], k=k, all_positives=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * queries_count * gallery_count == 480_000_000
    assert peak < 40e6
    # And it is right: a few of the queries, the plain way.
    for row in (0, 17, queries_count - 1):
        if codes:
            scores = -np.bitwise_count(queries[row] ^ gallery).sum(axis=1).astype(np.int64)
        else:
            scores = gallery.astype(np.float32) @ queries[row]
        truth_score = scores[truth.tile[row]]
        assert found.counts[0].better[row] == (scores > truth_score + 1e-6).sum()
        assert found.scores[row].tolist() == pytest.approx(np.sort(scores)[::-1][:k].tolist(), rel=1e-6)


def test_blocks_of_scores_have_the_stated_size(monkeypatch):
    sizes = []
    measure = Cosine()

    class Watched:
        tie = measure.tie
        prepare, pairwise = measure.prepare, measure.pairwise

        def scores(self, queries, block):
            out = measure.scores(queries, block)
            sizes.append(out.nbytes)
            return out

    monkeypatch.setattr(blockwise_scores, "SCORES_BYTES", 2**16)
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(50, 3, 2)).astype(np.float32), rng.normal(size=(20_000, 2))
    scan(queries, lambda: [gallery], Watched(), k=1)
    # One query at least: with 3 candidates against a block of 8,192 it is 98,304 bytes.
    assert max(sizes) == 3 * 8192 * 4
    monkeypatch.setattr(blockwise_scores, "SCORES_BYTES", 2**20)
    sizes.clear()
    scan(queries, lambda: [gallery], Watched(), k=1)
    assert 2**19 < max(sizes) <= 2**20


def test_parts_are_compared_by_their_own_length():
    rng = np.random.default_rng(8)
    columns, dim = 4, 12
    seen = rng.random((3, 2, columns)) < 0.6
    seen[..., 0] = True
    parts = rng.standard_normal((3, 2, dim)).reshape(3, 2, -1, columns) * seen[:, :, None]
    queries = parts.reshape(3, 2, dim).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=-1, keepdims=True)
    gallery = rng.standard_normal((5, 1, dim)).astype(np.float32)
    measure = PartCosine(columns)
    left = measure.prepare(np.concatenate([queries, seen], axis=-1), query=True)
    right = measure.prepare(gallery, query=False)
    got = measure.scores(left.reshape(6, -1), right.reshape(5, -1)).reshape(3, 2, 5)
    paired = measure.pairwise(left, right[:3])
    for query in range(3):
        for candidate in range(2):
            for item in range(5):
                part = gallery[item, 0].reshape(-1, columns)[:, seen[query, candidate]].ravel()
                one = queries[query, candidate].reshape(-1, columns)[:, seen[query, candidate]].ravel()
                wanted = float(one @ part) / float(np.linalg.norm(one) * np.linalg.norm(part))
                assert got[query, candidate, item] == pytest.approx(wanted, abs=1e-5)
                if item == query:
                    assert paired[query, candidate, 0] == pytest.approx(wanted, abs=1e-5)
