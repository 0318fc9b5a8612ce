"""Shard by shard gives what one scan of the whole gallery gives: counts, ties, best items, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.evaluation.ranking import shard_scores
from geoloc.evaluation.ranking.blockwise_scores import Cosine, Hamming, PartCosine, Similarity
from geoloc.evaluation.ranking.ranks import Question, TruthTable, rank
from geoloc.evaluation.ranking.shard_scores import ShardedScanner


def coarse(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Vectors of few values: many scores are equal, and sums of them are exact."""
    return rng.integers(-2, 3, shape).astype(np.float32)


def sides(kind: str, rng: np.random.Generator, queries: int, items: int) -> tuple[Any, Any, Similarity]:
    heads = int(rng.integers(1, 4))
    if kind == "codes":
        codes = [rng.integers(0, 4, (n, h, 8)).astype(np.uint8) for n, h in ((queries, heads), (items, 1))]
        return codes[0], codes[1][:, 0], Hamming(8, 24)
    vectors, gallery = coarse(rng, queries, heads, 8), coarse(rng, items, 8).astype(np.float16)
    if kind == "floats":
        return vectors, gallery, Cosine()
    shown = (rng.random((queries, heads, 4)) < 0.7).astype(np.float32)
    return np.concatenate([vectors, shown], axis=-1), gallery, PartCosine(4)


def question(rng: np.random.Generator, queries: int, items: int) -> Question:
    def truth(count: int) -> TruthTable:
        pairs = np.unique(
            np.stack([rng.integers(0, queries, count), rng.integers(0, items, count)], 1), axis=0
        )
        return TruthTable(pairs[:, 0], pairs[:, 1])

    return Question(truth(2 * queries), truth(queries // 2))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(["floats", "codes", "parts"]), st.integers(1, 5))
def test_shards_give_what_one_scan_gives(seed: int, kind: str, shards: int) -> None:
    rng = np.random.default_rng(seed)
    count, items, k = int(rng.integers(1, 40)), int(rng.integers(1, 60)), int(rng.integers(0, 12))
    queries, gallery, similarity = sides(kind, rng, count, items)
    questions = [question(rng, count, items), question(rng, count, items)]
    dropped = rng.random(items) < 0.2 if rng.random() < 0.5 else None
    blocks = np.split(gallery, np.sort(rng.integers(0, items + 1, shards - 1)))
    wanted: dict[str, Any] = {"dropped": dropped, "k": k, "all_positives": bool(rng.random() < 0.5)}
    whole = rank(queries, lambda: blocks, similarity, questions, **wanted)
    scanner = ShardedScanner(
        [len(block) for block in blocks],
        lambda tasks: (task.result(lambda block=blocks[task.shard]: [block]) for task in tasks),
        at_once=int(rng.integers(1, 9)),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_scores, "CHUNK_BYTES", int(rng.integers(1, 4000)))
        patch.setattr(shard_scores, "_CHUNK_STEP", 4)
        found = rank(queries, scanner, similarity, questions, **wanted)
    for ours, theirs in zip(found.counts, whole.counts, strict=True):
        assert ours.gallery == theirs.gallery
        for name in ("better", "tied", "positives"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    np.testing.assert_array_equal(found.rows, whole.rows)
    np.testing.assert_array_equal(found.scores, whole.scores)
    assert (found.positives is None) == (whole.positives is None)
    if found.positives is not None and whole.positives is not None:
        for name in ("query", "better", "tied", "score"):
            np.testing.assert_array_equal(getattr(found.positives, name), getattr(whole.positives, name))


def test_chunks_bound_what_is_sent_at_a_time() -> None:
    sent: list[int] = []

    def run(tasks: Any) -> Any:
        for task in tasks:
            sent.append(task.queries.nbytes)
            yield task.result(lambda: [np.ones((5, 16), np.float16)])

    queries = np.ones((3000, 16, 16), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_scores, "CHUNK_BYTES", 200_000)
        found = ShardedScanner([5, 5], run).scan(queries, Cosine(), k=3)
    assert max(sent) <= 200_000
    assert sum(sent) == 2 * queries.nbytes
    assert (found.rows == [0, 1, 2]).all()
