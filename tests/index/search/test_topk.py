from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoloc.index.search import topk

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 40), elements=floats))
def test_scores_of_floats_sort_them_descending_and_tell_them_apart(values: np.ndarray) -> None:
    scores = topk.descending(values).astype(np.int64)
    assert (values[np.argsort(scores, kind="stable")] == np.sort(values)[::-1]).all()
    assert len(np.unique(scores)) == len(np.unique(values))


def test_zero_and_minus_zero_score_the_same() -> None:
    assert len(set(topk.descending(np.array([0.0, -0.0], np.float32)).tolist())) == 1


@settings(deadline=None)
@given(
    hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(0, 30)), elements=st.integers(-3, 3)),
    st.integers(0, 40),
)
def test_the_smallest_keys_are_the_first_by_score_and_row(scores: np.ndarray, k: int) -> None:
    rows = np.arange(scores.shape[1])
    got_scores, got_rows = topk.unpack(topk.smallest(topk.pack(scores, rows), k))
    assert got_scores.shape == (len(scores), k)
    for query, line in enumerate(scores):
        wanted = sorted(zip(line.tolist(), rows.tolist(), strict=True))[:k]
        found = list(zip(got_scores[query].tolist(), got_rows[query].tolist(), strict=True))
        assert found[: len(wanted)] == wanted
        assert found[len(wanted) :] == [(topk.PADDING_SCORE, -1)] * (k - len(wanted))


def test_padding_has_no_row() -> None:
    keys = topk.pack(np.array([5, 5]), np.array([-1, 2**32 - 1]))
    _, rows = topk.unpack(keys)
    assert rows.tolist() == [-1, 2**32 - 1]
