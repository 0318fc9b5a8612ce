from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core.arrays import Float32Array
from geoloc.core.errors import ConfigError
from geoloc.localization.circular import code_distances, refine_peak, turn_scores


def embedded(count: int, channels: int, columns: int, seed: int = 0) -> Float32Array:
    values = np.random.default_rng(seed).standard_normal((count, channels * columns)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def rolled(values: Float32Array, columns: int, turn: int) -> Float32Array:
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
    bits = np.unpackbits(q, axis=-1).reshape(2, -1, columns)
    for turn in range(columns):
        expected = np.packbits(np.roll(bits, turn, axis=-1).reshape(2, -1), axis=-1)
        by_bits = np.bitwise_count(expected[:, None] ^ r[None]).sum(-1)
        np.testing.assert_array_equal(got[..., turn], by_bits)


def wave(columns: int, turn: float, seed: int = 3) -> Float32Array:
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
    height, place = refine_peak(turn_scores(query, reference, 32)[0, 0])
    difference = (float(place) * 360 / 32 - turn * 360 / 32 + 180) % 360 - 180
    assert abs(difference) < 0.05  # degrees, of columns 11.25 degrees wide
    assert float(height) == pytest.approx(1.0, abs=1e-3)


def test_a_heading_is_clockwise() -> None:
    """A reference with one bright column in the east; a photo that looks east has it in its middle."""
    reference = np.zeros((1, 8), dtype=np.float32)
    reference[0, 6] = 1.0  # a quarter of the width to the right of the middle, which is column 4
    query = np.zeros((1, 8), dtype=np.float32)
    query[0, 4] = 1.0
    place = refine_peak(turn_scores(query, reference, 8)[0, 0])[1]
    assert float(place) * 360 / 8 == pytest.approx(90.0, abs=1.0)


def test_flat_scores_have_a_place_too() -> None:
    height, place = refine_peak(np.ones((2, 6)))
    np.testing.assert_allclose(height, 1.0)
    assert ((place >= 0) & (place < 6)).all()


def test_misuse_is_one_sentence() -> None:
    q = embedded(1, 2, 8)
    with pytest.raises(ConfigError, match="16 values do not divide into 5 columns"):
        turn_scores(q, q, 5)
