from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.errors import ConfigError
from geoloc.localization import circular as module
from geoloc.localization.circular import (
    code_distances,
    pair_headings,
    refine_peak,
    search_any_heading,
    turn_scores,
    turn_spectrum,
    turned_codes,
)

Floats = npt.NDArray[np.float32]


def embedded(count: int, channels: int, columns: int, seed: int = 0) -> Floats:
    values = np.random.default_rng(seed).standard_normal((count, channels * columns)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def rolled(values: Floats, columns: int, turn: int) -> Floats:
    shape = values.shape
    return np.roll(values.reshape(len(values), -1, columns), turn, axis=-1).reshape(shape)


@pytest.mark.parametrize("columns", [1, 5, 8, 32])
def test_every_turn_is_the_product_of_the_rolled_embedding(columns: int) -> None:
    q, r = embedded(3, 4, columns, 1), embedded(7, 4, columns, 2)
    got = turn_scores(q, r, columns)
    assert got.shape == (3, 7, columns)
    assert got.dtype == np.float32
    for turn in range(columns):
        np.testing.assert_allclose(got[..., turn], rolled(q, columns, turn) @ r.T, atol=2e-6)


def test_a_limited_view_is_compared_where_it_sees() -> None:
    q, r = embedded(2, 3, 8, 1), embedded(4, 3, 8, 2)
    visible = np.zeros((2, 8), dtype=bool)
    visible[0, 2:5] = visible[1, [7, 0]] = True
    got = turn_scores(q, r, 8, visible=visible)
    for i in range(2):
        for j in range(4):
            for turn in range(8):
                mask = np.roll(visible[i], turn)
                left = np.roll(q[i].reshape(3, 8), turn, axis=-1)[:, mask].ravel()
                right = r[j].reshape(3, 8)[:, mask].ravel()
                cosine = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
                assert got[i, j, turn] == pytest.approx(float(cosine), abs=1e-5)
    nothing = turn_scores(q, r, 8, visible=np.zeros((2, 8), dtype=bool))
    assert not nothing.any()


@given(
    columns=st.sampled_from([1, 2, 8, 16]),
    bytes_=st.sampled_from([2, 8, 64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_code_distances_are_those_of_rolled_bits(columns: int, bytes_: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 256, (2, bytes_), dtype=np.uint8)
    r = rng.integers(0, 256, (3, bytes_), dtype=np.uint8)
    got = code_distances(q, r, columns)
    turned = turned_codes(q, columns)
    assert turned.shape == (2, columns, bytes_)
    bits = np.unpackbits(q, axis=-1).reshape(2, -1, columns)
    for turn in range(columns):
        expected = np.packbits(np.roll(bits, turn, axis=-1).reshape(2, -1), axis=-1)
        np.testing.assert_array_equal(turned[:, turn], expected)
        by_bits = np.bitwise_count(expected[:, None] ^ r[None]).sum(-1)
        np.testing.assert_array_equal(got[..., turn], by_bits)


@given(columns=st.integers(1, 17), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_spectra_bound_the_score_of_every_turn(columns: int, seed: int) -> None:
    q, r = embedded(3, 2, columns, seed), embedded(4, 2, columns, seed + 1)
    bound = turn_spectrum(q, columns) @ turn_spectrum(r, columns).T
    assert (turn_scores(q, r, columns).max(-1) <= bound + 1e-5).all()
    np.testing.assert_allclose(np.linalg.norm(turn_spectrum(q, columns), axis=1), 1.0, atol=1e-5)
    for turn in range(columns):
        np.testing.assert_allclose(
            turn_spectrum(rolled(q, columns, turn), columns), turn_spectrum(q, columns), atol=1e-5
        )


def wave(columns: int, turn: float, seed: int = 3) -> Floats:
    """A band-limited embedding of five channels, turned to the right by any number of columns."""
    rng = np.random.default_rng(seed)
    place = np.arange(columns) - turn
    values = np.zeros((5, columns))
    for frequency in range(columns // 4):
        phase = rng.uniform(0, 2 * np.pi, (5, 1))
        values += rng.uniform(0, 1, (5, 1)) * np.cos(2 * np.pi * frequency * place / columns + phase)
    flat = values.ravel().astype(np.float32)
    return (flat / np.linalg.norm(flat))[None]


@pytest.mark.parametrize("turn", [0.0, 0.3, 7.5, 30.9, 31.8])
def test_headings_are_found_between_the_columns(turn: float) -> None:
    reference = wave(32, 0.0)
    query = wave(32, -turn)  # rolled to the right by `turn` it is the reference
    heading = pair_headings(query, reference, 32)
    difference = (heading[0] - turn * 360 / 32 + 180) % 360 - 180
    assert abs(difference) < 0.05  # degrees, of columns 11.25 degrees wide
    height, place = refine_peak(turn_scores(query, reference, 32)[0, 0])
    assert float(height) == pytest.approx(1.0, abs=1e-3)
    assert float(place) * 360 / 32 == pytest.approx(heading[0], abs=1e-3)


def test_a_heading_is_clockwise() -> None:
    """A reference with one bright column in the east; a photo that looks east has it in its middle."""
    reference = np.zeros((1, 8), dtype=np.float32)
    reference[0, 6] = 1.0  # a quarter of the width to the right of the middle, which is column 4
    query = np.zeros((1, 8), dtype=np.float32)
    query[0, 4] = 1.0
    assert pair_headings(query, reference, 8)[0] == pytest.approx(90.0, abs=1.0)


def test_flat_scores_have_a_place_too() -> None:
    height, place = refine_peak(np.ones((2, 6)))
    np.testing.assert_allclose(height, 1.0)
    assert ((place >= 0) & (place < 6)).all()


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_the_search_is_the_exhaustive_one_where_it_is_certain(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rng = np.random.default_rng(0)
    references = embedded(300, 4, 16, 5)
    truth = rng.integers(0, 300, 40)
    turns = rng.integers(0, 16, 40)
    queries = np.concatenate(
        [rolled(references[t : t + 1], 16, -turn) for t, turn in zip(truth, turns, strict=True)]
    )
    queries = queries + 0.04 * rng.standard_normal(queries.shape).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exhaustive = turn_scores(queries, references, 16).max(-1)
    order = np.argsort(-exhaustive, axis=1, kind="stable")[:, :3]
    found = search_any_heading(queries, references, 16, k=3, shortlist=60)
    np.testing.assert_array_equal(found.rows[found.certain], order[found.certain])
    np.testing.assert_array_equal(found.rows[:, 0], truth)
    error = (found.heading_deg[:, 0] - turns * 22.5 + 180) % 360 - 180
    assert np.abs(error).max() < 5
    whole = search_any_heading(queries, references, 16, k=3, shortlist=1000)
    assert whole.certain.all()
    np.testing.assert_array_equal(whole.rows, order)
    np.testing.assert_allclose(whole.score, np.take_along_axis(exhaustive, order, 1), atol=1e-6)
    first = search_any_heading(queries, references, 16, k=1, shortlist=60)
    assert first.certain.mean() > 0.5  # a clear winner is known to be one


def test_a_limited_view_is_searched_but_never_certain() -> None:
    references = embedded(50, 6, 16, 7)
    visible = np.zeros((10, 16), dtype=bool)
    visible[:, 4:12] = True
    seen = references[:10].reshape(10, 6, 16)
    queries = np.roll(seen, -5, axis=-1) * visible[:, None]
    queries = queries.reshape(10, -1) / np.linalg.norm(queries.reshape(10, -1), axis=1, keepdims=True)
    found = search_any_heading(queries, references, 16, k=2, shortlist=50, visible=visible)
    assert found.rows[:, 0].tolist() == list(range(10))
    np.testing.assert_allclose(found.score[:, 0], 1.0, atol=1e-5)
    assert not found.certain.any()


def test_misuse_is_one_sentence() -> None:
    q = embedded(1, 2, 8)
    with pytest.raises(ConfigError, match="16 values do not divide into 5 columns"):
        turn_scores(q, q, 5)
    with pytest.raises(ConfigError, match="k is 5 and the shortlist 4"):
        search_any_heading(q, q, 8, k=5, shortlist=4)
    empty = search_any_heading(q[:0], q, 8, k=1)
    assert empty.rows.shape[0] == 0
