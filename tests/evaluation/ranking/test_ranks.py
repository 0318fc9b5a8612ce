"""Ranks against a plain loop over the whole matrix."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core.errors import InputError
from geoloc.evaluation.ranking import blockwise_scores
from geoloc.evaluation.ranking.ranks import Question, RankCounts, TruthTable, score_ranks
from geoloc.evaluation.ranking.shortlist import shortlist_ranks, similarities
from tests.evaluation.small_sets import float_ranks, hamming_ranks, nearest_codes


def random_truth(rng, queries: int, tiles: int) -> TruthTable:
    pairs = {(int(rng.integers(queries)), int(rng.integers(tiles))) for _ in range(queries)}
    query, tile = zip(*sorted(pairs), strict=True)
    return TruthTable(np.array(query), np.array(tile))


def plain(scores: np.ndarray, truth: TruthTable) -> list[tuple[int, int, int]]:
    out = []
    for query, row in enumerate(scores):
        positives = set(truth.tile[truth.query == query].tolist())
        if not positives:
            out.append((scores.shape[1], 0, 0))
            continue
        best = max(row[p] for p in positives)
        others = [value for tile, value in enumerate(row) if tile not in positives]
        out.append(
            (
                sum(v > best for v in others),
                sum(v == best for v in others),
                sum(row[p] == best for p in positives),
            )
        )
    return out


def shards(gallery: np.ndarray, rng) -> list[np.ndarray]:
    return np.split(gallery, sorted(rng.integers(0, len(gallery) + 1, 2)))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]))
def test_hamming_ranks_are_those_of_a_plain_loop(seed, candidates):
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, 4, (7, candidates, 3), dtype=np.uint8)  # few values: many ties
    gallery = rng.integers(0, 4, (40, 3), dtype=np.uint8)
    truth = random_truth(rng, 7, 40)
    blocks = shards(gallery, rng)
    found = hamming_ranks(queries, lambda: blocks, truth)
    distance = np.bitwise_count(queries[:, :, None] ^ gallery[None, None]).sum(-1).min(1).astype(int)
    assert list(zip(found.better, found.tied, found.positives, strict=True)) == plain(-distance, truth)
    assert found.gallery == 40


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([1, 4]))
def test_float_ranks_are_those_of_a_plain_loop(seed, candidates):
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (6, candidates, 4)).astype(np.float32) / 4  # exact in float16: real ties
    gallery = (rng.integers(-2, 3, (30, 4)) / 4).astype(np.float16)
    truth = random_truth(rng, 6, 30)
    blocks = shards(gallery, rng)
    found = float_ranks(queries, lambda: blocks, truth)
    scores = np.einsum("qrd,nd->qrn", queries, gallery.astype(np.float32)).max(1)
    assert list(zip(found.better, found.tied, found.positives, strict=True)) == plain(scores, truth)


def test_ranks_of_scores_in_memory_are_exact():
    scores = np.array([[3, 1, 2, 1], [1, 2, 1, 1], [5, 5, 5, 5]], np.float32)
    found = score_ranks(scores, np.array([0, 2, 3]))
    assert (found.better.tolist(), found.tied.tolist()) == ([0, 1, 0], [0, 2, 3])
    assert (found.positives.tolist(), found.gallery) == ([1, 1, 1], 4)
    assert found.expected_rank().tolist() == [1.0, 3.0, 2.5]


def test_the_expected_rank_is_the_mean_over_all_orders_of_the_ties():
    for better, tied, positives in itertools.product(range(3), range(4), range(1, 4)):
        orders = itertools.permutations([True] * positives + [False] * tied)
        mean = np.mean([better + 1 + order.index(True) for order in orders])
        one = RankCounts(np.array([better]), np.array([tied]), np.array([positives]), 20)
        assert one.expected_rank()[0] == pytest.approx(mean)
    none = RankCounts(np.array([20]), np.array([0]), np.array([0]), 20)
    assert none.expected_rank().tolist() == [np.inf]


def test_blocks_of_any_size_give_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    queries, gallery = rng.integers(0, 9, (9, 4), dtype=np.uint8), rng.integers(0, 9, (50, 4), dtype=np.uint8)
    truth = random_truth(rng, 9, 50)
    whole = hamming_ranks(queries, lambda: [gallery], truth)
    monkeypatch.setattr(blockwise_scores, "SCORES_BYTES", 4 * 7 * 2)
    monkeypatch.setattr(blockwise_scores, "_GALLERY_BLOCK", 7)
    pieces = hamming_ranks(queries, lambda: [gallery], truth)
    np.testing.assert_array_equal(whole.better, pieces.better)
    np.testing.assert_array_equal(whole.tied, pieces.tied)


def test_a_prefix_compares_its_first_bits_only():
    queries = np.array([[0, 255]], dtype=np.uint8)
    gallery = np.array([[0, 0], [1, 255]], dtype=np.uint8)
    truth = TruthTable(np.array([0]), np.array([0]))
    assert hamming_ranks(queries, lambda: [gallery], truth, bits=8).better.tolist() == [0]
    assert hamming_ranks(queries, lambda: [gallery], truth).better.tolist() == [1]
    for bits in (0, 7, 24):
        with pytest.raises(InputError, match=f"bits is {bits}"):
            hamming_ranks(queries, lambda: [gallery], truth, bits=bits)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_the_shortlist_holds_the_nearest_codes_in_order(seed, keep):
    rng = np.random.default_rng(seed)
    codes, gallery = (
        rng.integers(0, 8, (5, 2, 3), dtype=np.uint8),
        rng.integers(0, 8, (25, 3), dtype=np.uint8),
    )
    found = nearest_codes(codes, lambda: shards(gallery, rng), keep=keep)
    distance = np.bitwise_count(codes[:, :, None] ^ gallery[None, None]).sum(-1).min(1).astype(int)
    for row, wanted in zip(found, distance, strict=True):
        assert row.tolist() == np.argsort(wanted, kind="stable")[:keep].tolist()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_a_shortlist_of_everything_ranks_like_the_floats(seed):
    rng = np.random.default_rng(seed)
    queries, gallery = (
        rng.normal(size=(6, 1, 5)).astype(np.float32),
        rng.normal(size=(20, 5)).astype(np.float32),
    )
    codes, stored = (
        rng.integers(0, 256, (6, 2), dtype=np.uint8),
        rng.integers(0, 256, (20, 2), dtype=np.uint8),
    )
    truth = random_truth(rng, 6, 20)
    rows = nearest_codes(codes, lambda: [stored], keep=20)
    by_codes = hamming_ranks(codes, lambda: [stored], truth)
    found = shortlist_ranks(
        rows, similarities(queries, rows, lambda r: gallery[r]), Question(truth), by_codes
    )
    floats = float_ranks(queries, lambda: [gallery], truth)
    listed = floats.positives > 0
    np.testing.assert_array_equal(found.better[listed], floats.better[listed])
    np.testing.assert_array_equal(found.positives, floats.positives)


@pytest.mark.parametrize("turns", [1, 3])
def test_the_best_pair_of_candidates_of_query_and_item_counts(turns):
    rng = np.random.default_rng(turns)
    queries = rng.normal(size=(4, 2, 5)).astype(np.float32)
    gallery = rng.normal(size=(6, turns, 5)).astype(np.float32)
    rows = np.array([[3, 1, -1], [0, 5, 2], [2, 2, 4], [-1, -1, 0]])
    found = similarities(queries, rows, lambda own: gallery[own])
    for query, own in enumerate(rows):
        for place, row in enumerate(own):
            best = max(float(q @ item) for q in queries[query] for item in gallery[row])
            assert (
                np.isnan(found[query, place])
                if row < 0
                else found[query, place] == pytest.approx(best, abs=1e-5)
            )


def test_a_truth_outside_the_shortlist_stays_behind_it():
    codes = np.array([[0]], dtype=np.uint8)
    stored = np.array([[0], [1], [3], [7]], dtype=np.uint8)
    truth = TruthTable(np.array([0]), np.array([3]))
    by_codes = hamming_ranks(codes, lambda: [stored], truth)
    rows = nearest_codes(codes, lambda: [stored], keep=2)
    found = shortlist_ranks(rows, np.array([[0.1, 0.9]], dtype=np.float32), Question(truth), by_codes)
    assert found.better.tolist() == [3]
    assert found.positives.tolist() == [1]
