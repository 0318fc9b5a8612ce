from __future__ import annotations

import pytest
import torch

from geoloc.losses.circular import best_turn_similarity, part_similarity, turned_similarity


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
    visible = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 1, 0, 0, 0], [1] * 8]).bool()
    got = turned_similarity(q, r, 8, visible)
    for turn in range(8):
        shown = visible.roll(turn, -1)
        rolled = q.view(3, 3, 8).roll(turn, -1)
        for i in range(3):
            part, of = rolled[i][:, shown[i]].flatten(), r.view(5, 3, 8)[:, :, shown[i]].flatten(1)
            expected = torch.nn.functional.cosine_similarity(part[None], of)
            torch.testing.assert_close(got[i, :, turn], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(part_similarity(q, r, 8, visible), got[..., 0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(got[2], turned_similarity(q, r, 8)[2], atol=1e-6, rtol=1e-5)


def test_a_view_of_nothing_is_similar_to_nothing() -> None:
    q, r = embedded(2, 9).requires_grad_(), embedded(2, 10)
    nothing = torch.zeros(2, 8, dtype=torch.bool)
    got = turned_similarity(q, r, 8, nothing)
    assert got.abs().max() == 0
    got.sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()
