"""Turned and limited photos against embeddings: loops over all turns, items and columns are the oracle."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoloc.core.arrays import Float32Array
from geoloc.core.errors import ConfigError
from geoloc.geometry.azimuth import (
    TurnedPhoto,
    best_turn_similarity,
    keep_shown,
    refine_peak,
    shown_columns,
    similarity,
    turned_similarity,
)


def embedded(count: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 24, generator=g), dim=1)


@pytest.mark.parametrize("columns", [1, 6, 8, 24])
def test_every_turn_is_the_cosine_of_the_rolled_embedding(columns: int) -> None:
    q, r = embedded(3, 1), embedded(5, 2)
    got = turned_similarity(q, r, columns)
    assert got.shape == (3, 5, columns)
    for turn in range(columns):
        rolled = q.view(3, -1, columns).roll(turn, -1).flatten(1)
        torch.testing.assert_close(got[..., turn], rolled @ r.T, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(best_turn_similarity(q, r, columns), got.max(-1).values)


def test_the_best_turn_is_the_heading() -> None:
    r = embedded(4, 3)
    q = r.view(4, 3, 8).roll(-3, -1).flatten(1)  # the middle looks along 3 / 8 of a circle
    best = turned_similarity(q, r, 8)
    assert best.diagonal().T.argmax(-1).tolist() == [3, 3, 3, 3]
    torch.testing.assert_close(best_turn_similarity(q, r, 8).diagonal(), torch.ones(4))


def test_gradient_of_the_best_turn() -> None:
    q, r = embedded(2, 5).requires_grad_(), embedded(3, 6)
    best_turn_similarity(q, r, 8).sum().backward()
    assert q.grad is not None
    turns = turned_similarity(q.detach(), r, 8).argmax(-1)
    for i in range(2):
        expected = sum(r[j].view(3, 8).roll(-int(turns[i, j]), -1).flatten() for j in range(3))
        torch.testing.assert_close(q.grad[i], expected, atol=1e-5, rtol=1e-4)


def test_of_a_limited_view_only_the_part_it_shows_is_compared() -> None:
    q, r = embedded(3, 7), embedded(5, 8)
    shown = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 0, 0, 0], [1] * 8]).bool()
    got = turned_similarity(q, r, 8, shown)
    for turn in range(8):
        turned = shown.roll(turn, -1)
        rolled = q.view(3, 3, 8).roll(turn, -1)
        for i in range(3):
            part, of = rolled[i][:, turned[i]].flatten(), r.view(5, 3, 8)[:, :, turned[i]].flatten(1)
            expected = torch.nn.functional.cosine_similarity(part[None], of)
            torch.testing.assert_close(got[i, :, turn], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(similarity(q, r, 8, shown), got[..., 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got[2], turned_similarity(q, r, 8)[2], atol=1e-6, rtol=1e-5)


def test_a_view_of_nothing_is_similar_to_nothing() -> None:
    q, r = embedded(2, 9).requires_grad_(), embedded(2, 10)
    nothing = torch.zeros(2, 8, dtype=torch.bool)
    got = turned_similarity(q, r, 8, nothing)
    assert got.abs().max() == 0
    got.sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def scores_of(query: Float32Array, reference: Float32Array, columns: int) -> Float32Array:
    """Scores of one query at all turns."""
    return turned_similarity(torch.from_numpy(query), torch.from_numpy(reference), columns)[0, 0].numpy()


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
    height, place = refine_peak(scores_of(query, reference, 32))
    difference = (float(place) * 360 / 32 - turn * 360 / 32 + 180) % 360 - 180
    assert abs(difference) < 0.05  # degrees, of columns 11.25 degrees wide
    assert float(height) == pytest.approx(1.0, abs=1e-3)


def test_a_heading_is_clockwise() -> None:
    """A reference with one bright column in the east; a photo that looks east has it in its middle."""
    reference = np.zeros((1, 8), dtype=np.float32)
    reference[0, 6] = 1.0  # a quarter of the width to the right of the middle, which is column 4
    query = np.zeros((1, 8), dtype=np.float32)
    query[0, 4] = 1.0
    place = refine_peak(scores_of(query, reference, 8))[1]
    assert float(place) * 360 / 8 == pytest.approx(90.0, abs=1.0)


def test_flat_scores_have_a_place_too() -> None:
    height, place = refine_peak(np.ones((2, 6)))
    np.testing.assert_allclose(height, 1.0)
    assert ((place >= 0) & (place < 6)).all()


def test_misuse_is_one_sentence() -> None:
    q = torch.ones(1, 16)
    with pytest.raises(ConfigError, match="16 values do not divide into 5 columns"):
        turned_similarity(q, q, 5)


def unit(values: npt.NDArray[np.floating]) -> Float32Array:
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / length, dtype=np.float32)


def rolled(one: npt.NDArray[np.floating], columns: int, turn: int) -> npt.NDArray[np.floating]:
    return np.roll(one.reshape(-1, columns), turn, axis=1).ravel()


def seen_cosine(
    photo_columns: npt.NDArray[np.floating], tile: npt.NDArray[np.floating], mask: npt.NDArray[np.bool_]
) -> float:
    """Cosine of [channels, columns] over the columns of a mask, one column after another."""
    product = left = right = 0.0
    for column in np.flatnonzero(mask):
        a, b = photo_columns[:, column], tile[:, column]
        product, left, right = product + float(a @ b), left + float(a @ a), right + float(b @ b)
    return product / math.sqrt(left * right)


@given(
    columns=st.sampled_from([4, 8, 32]),
    candidates=st.sampled_from([2, 4, 8, 16, 64]),
    seed=st.integers(0, 2**16),
    limited=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_every_candidate_rolled_by_every_column(
    columns: int, candidates: int, seed: int, limited: bool
) -> None:
    rng = np.random.default_rng(seed)
    tiles = unit(rng.standard_normal((3, 2 * columns)))
    apart = math.lcm(candidates, columns)
    # Candidates as an encoder makes them: those that are whole columns apart are rolls of one another.
    between = {first: unit(rng.standard_normal(2 * columns)) for first in range(apart // columns)}
    heads = np.stack(
        [
            rolled(between[r % len(between)], columns, (r - r % len(between)) * columns // candidates)
            for r in range(candidates)
        ]
    )
    shown = np.zeros(columns, dtype=bool)
    shown[rng.choice(columns, columns // 2, replace=False)] = True
    got = TurnedPhoto(heads, columns, shown if limited else None).scores(tiles)
    assert got.shape == (3, apart)
    assert got.dtype == np.float32
    for first, one in between.items():
        for roll in range(columns):
            turn = (first * apart // candidates + roll * apart // columns) % apart
            turned = rolled(one, columns, roll).reshape(2, columns)
            mask = np.roll(shown, roll) if limited else np.ones(columns, dtype=bool)
            for row, tile in enumerate(tiles):
                wanted = seen_cosine(turned, tile.reshape(2, columns), mask)
                assert got[row, turn] == pytest.approx(wanted, abs=2e-6)


def test_a_photo_that_shows_nothing_is_like_no_tile() -> None:
    one = unit(np.ones((1, 8)))
    assert not TurnedPhoto(one, 4, np.zeros(4, dtype=bool)).scores(one).any()


@given(turn_deg=st.floats(0.0, 359.99), fov=st.sampled_from([360, 180, 90]), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_headings_between_the_columns_are_found(turn_deg: float, fov: int, seed: int) -> None:
    columns, channels = 32, 16
    rng = np.random.default_rng(seed)
    # A smooth circle: a turn by a part of a column is then a shift of phases.
    spectrum = np.zeros((channels, columns // 2 + 1), dtype=complex)
    spectrum[:, :9] = rng.standard_normal((channels, 9)) + 1j * rng.standard_normal((channels, 9))
    tile = np.fft.irfft(spectrum, n=columns)
    shift = np.exp(2j * np.pi * np.arange(columns // 2 + 1) * turn_deg / 360)
    seen = np.fft.irfft(spectrum * shift, n=columns)  # what lies at turn_deg comes to the middle
    shown = np.zeros(columns, dtype=bool)
    kept = columns * fov // 360
    shown[(columns - kept) // 2 : (columns - kept) // 2 + kept] = True
    heads = unit(np.stack([np.roll(seen * shown, turn, axis=1).ravel() for turn in range(columns)]))
    found = TurnedPhoto(heads, columns, shown).heading_deg(unit(tile.reshape(1, -1)))[0]
    error = abs((found - turn_deg + 180) % 360 - 180)
    assert error < (0.5 if fov == 360 else 4.0)


def test_shown_columns_are_those_of_which_half_is_shown() -> None:
    pixels = torch.zeros(3, 16, dtype=torch.bool)
    pixels[0, 2:9] = True  # a half, a whole and a quarter of columns of four pixels
    pixels[1, 5] = True  # narrower than half a column: the fullest is kept
    pixels[2] = True
    want = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]]).bool()
    assert torch.equal(shown_columns(pixels, 4), want)


@given(columns=st.sampled_from([4, 8, 32]), seed=st.integers(0, 2**16), limited=st.booleans())
@settings(max_examples=25, deadline=None)
def test_both_ways_of_scoring_every_turn_agree(columns: int, seed: int, limited: bool) -> None:
    """The correlation of whole tables and the products of a shortlist are one similarity."""
    rng = np.random.default_rng(seed)
    photo, tiles = unit(rng.standard_normal((1, 3 * columns))), unit(rng.standard_normal((5, 3 * columns)))
    shown = np.ones(columns, dtype=bool)
    shown[rng.choice(columns, columns // 2, replace=False)] = not limited
    by_product = TurnedPhoto(
        np.stack([rolled(photo[0], columns, turn) for turn in range(columns)]), columns, shown
    ).scores(tiles)
    mask = torch.from_numpy(shown)[None]
    by_correlation = turned_similarity(torch.from_numpy(photo), torch.from_numpy(tiles), columns, mask)[0]
    np.testing.assert_allclose(by_product, by_correlation, atol=3e-6)


def test_hidden_columns_become_zero_and_whole_circles_stay() -> None:
    heads = unit(np.random.default_rng(4).standard_normal((2, 4, 24)))
    shown = np.array([[1, 1, 0, 0, 0, 0, 0, 1], [1] * 8], dtype=bool)
    kept, masks = keep_shown(heads, shown)
    np.testing.assert_array_equal(kept[1], heads[1])
    for candidate in range(4):
        mask = np.roll(shown[0], 2 * candidate)  # a quarter of the circle a candidate
        np.testing.assert_array_equal(masks[0, candidate], mask)
        part = heads[0, candidate].reshape(3, 8) * mask
        np.testing.assert_allclose(kept[0, candidate], part.ravel() / np.linalg.norm(part), atol=1e-6)
