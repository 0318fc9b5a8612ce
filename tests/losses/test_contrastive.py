from __future__ import annotations

import math

import pytest
import torch

from geoloc.losses.contrastive import (
    InfoNceLoss,
    make_pair_loss,
    masked,
    near_pairs,
    symmetric_info_nce,
)
from geoloc.losses.triplet import TripletLoss, TripletRecipe
from geoloc.recipe.training import LossRecipe


def by_hand(logits: list[list[float]], smoothing: float, ignored: set[tuple[int, int]]) -> float:
    """The loss term by term, in Python floats."""
    n = len(logits)
    total = 0.0
    for transposed in (False, True):
        for i in range(n):
            row = [logits[j][i] if transposed else logits[i][j] for j in range(n)]
            skip = {j for j in range(n) if ((j, i) if transposed else (i, j)) in ignored}
            kept = [j for j in range(n) if j not in skip]
            norm = math.log(sum(math.exp(row[j]) for j in kept))
            share = {j: row[j] - norm for j in kept}
            spread = sum(share.values()) / len(kept)
            total -= (1 - smoothing) * share[i] + smoothing * spread
    return total / (2 * n)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [set(), {(0, 2), (2, 0)}, {(1, 3)}])
def test_info_nce_is_the_formula(smoothing: float, ignored: set[tuple[int, int]]) -> None:
    g = torch.Generator().manual_seed(1)
    q = torch.nn.functional.normalize(torch.randn(5, 7, generator=g, dtype=torch.float64), dim=1)
    r = torch.nn.functional.normalize(torch.randn(5, 7, generator=g, dtype=torch.float64), dim=1)
    mask = torch.zeros(5, 5, dtype=torch.bool)
    for i, j in ignored:
        mask[i, j] = True
    logits = masked(q @ r.T * 9.0, mask)
    got = symmetric_info_nce(logits, label_smoothing=smoothing, ignored=mask)
    assert got.item() == pytest.approx(by_hand((q @ r.T * 9).tolist(), smoothing, ignored), rel=1e-9)


def test_the_pair_itself_is_never_ignored() -> None:
    eye = torch.eye(3)
    everything = torch.ones(3, 3, dtype=torch.bool)
    loss = symmetric_info_nce(masked(eye @ eye.T * 5.0, everything), ignored=everything)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_gradients() -> None:
    g = torch.Generator().manual_seed(2)
    q = torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    r = torch.randn(4, 3, generator=g, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 1] = True

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return symmetric_info_nce(masked(a @ b.T * 2.0, mask), label_smoothing=0.1, ignored=mask)

    assert torch.autograd.gradcheck(loss, (q, r))


def test_an_ignored_pair_gets_no_gradient() -> None:
    logits = torch.zeros(3, 3, requires_grad=True)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    mask[0, 1] = mask[1, 0] = True
    symmetric_info_nce(logits.masked_fill(mask, -1e4), label_smoothing=0.2, ignored=mask).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad[0, 2] != 0


def test_near_pairs_in_metres() -> None:
    """5 m apart is not nearer than 5 m; the fourth camera is far north only, the fifth nowhere."""
    east = torch.tensor([0.0, 3.0, 100.0, 0.0, float("nan")])
    north = torch.tensor([0.0, 4.0, 0.0, 7.0, 0.0])
    for distance_m, two_are_near in ((5.0, False), (5.1, True)):
        expected = torch.diag(torch.tensor([True, True, True, True, False]))
        expected[0, 1] = expected[1, 0] = two_are_near
        expected[1, 3] = expected[3, 1] = True  # the square root of 18
        assert near_pairs(east, north, distance_m).tolist() == expected.tolist()


@pytest.mark.parametrize("scale", [8.0, 1e4])
def test_the_learned_scale_is_bounded_at_a_temperature_of_a_hundredth(scale: float) -> None:
    loss = make_pair_loss(LossRecipe(temperature=1 / scale, label_smoothing=0.1))
    cosines = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.7, -0.5], [0.4, 0.0, 0.6]])
    ignored = torch.tensor([[False, True, False], [False, True, False], [False, False, False]])
    logits = (cosines * min(scale, math.exp(4.6))).tolist()
    assert loss(cosines, ignored).item() == pytest.approx(by_hand(logits, 0.1, {(0, 1)}), rel=1e-5)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale"]


def test_a_recipe_names_its_pair_loss() -> None:
    assert isinstance(make_pair_loss(LossRecipe()), InfoNceLoss)
    assert isinstance(make_pair_loss(LossRecipe(triplet=TripletRecipe())), TripletLoss)
    assert isinstance(make_pair_loss(LossRecipe(pair_loss=TripletRecipe())), TripletLoss)
