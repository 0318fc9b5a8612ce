"""The losses of the two-stage encoder against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geoloc.models.hash_encoders.two_stage_losses import CodeBank, contrastive_loss, ranking_loss


def codes(seed: int, *shape: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)


def test_contrastive_loss_by_formula() -> None:
    f, signs = codes(0, 3, 8), codes(1, 3, 5, 8).sign()
    total = 0.0
    for row in range(3):
        logits = np.array([signs[row, k].numpy() @ f[row].numpy() for k in range(5)]) / (0.9 * 8**0.5)
        total -= logits[0] - np.log(np.exp(logits).sum())
    assert contrastive_loss(f, signs, 0.9).item() == pytest.approx(total / 3, rel=1e-12)


def test_ranking_loss_by_formula() -> None:
    s = torch.tensor([[0.5, 0.4, -0.9], [0.1, 0.3, 0.29], [0.7, -0.2, 0.6]], dtype=torch.float64)

    def one_way(m: np.ndarray) -> float:
        rows = []
        for i in range(3):
            kept = [value if value >= m[i, i] - 0.2 else value - 0.01 for value in m[i]]
            rows.append(-m[i, i] + np.log(np.exp(kept).sum()) + 0.2)
        return float(np.mean(rows))

    expected = one_way(s.numpy()) + one_way(s.numpy().T)
    assert ranking_loss(s, margin=0.2, shift=0.01).item() == pytest.approx(expected, rel=1e-12)
    assert ranking_loss(s, margin=0.2, shift=1.0).item() < expected


def test_gradients() -> None:
    f = codes(2, 3, 8).requires_grad_()
    signs = codes(3, 3, 4, 8).sign()
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, signs, 0.9), (f,))
    g = codes(4, 3, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: ranking_loss(x @ y.T, margin=0.2, shift=0.01), (f, g))


def bank(count: int = 12, negatives: int = 6) -> CodeBank:
    return CodeBank(
        count,
        8,
        negatives=negatives,
        temperature=0.9,
        momentum=0.4,
        generator=torch.Generator().manual_seed(0),
    )


def test_a_bank_starts_with_signs_and_moves_towards_the_mean_of_a_pair() -> None:
    one = bank()
    torch.testing.assert_close(one.codes.abs(), torch.full((12, 8), 8**-0.5))
    start = one.codes.clone()
    rows, a, b = torch.tensor([3, 7]), codes(5, 2, 8).float(), codes(6, 2, 8).float()
    one(a, b, rows, warm_up=False)
    mean = F.normalize((a + b) / 2, dim=1)
    torch.testing.assert_close(one.codes[rows], F.normalize(0.4 * start[rows] + 0.6 * mean, dim=1))
    others = [row for row in range(12) if row not in (3, 7)]
    assert torch.equal(one.codes[others], start[others])


def test_in_warm_up_a_pair_is_compared_with_its_own_mean_at_once() -> None:
    one = bank(negatives=0)
    rows, a = torch.tensor([1]), codes(7, 1, 8).float()
    assert one(a, a, rows, warm_up=True).item() == pytest.approx(0.0)  # nothing else in the softmax
    torch.testing.assert_close(one.codes[rows], a)


def test_the_own_code_of_the_bank_is_the_target() -> None:
    one = bank(count=40, negatives=40)
    rows = torch.arange(4)
    own = one.codes[rows].clone()
    near = one(own, own, rows, warm_up=False).item()
    far = bank(count=40, negatives=40)(-own, -own, rows, warm_up=False).item()
    assert near < far
