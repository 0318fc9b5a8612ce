from __future__ import annotations

import math

import pytest
import torch

from geoloc.losses.triplet import (
    TripletLoss,
    TripletRecipe,
    guidance_loss,
    hardest_share,
    triplet_of_similarity,
)

STN_SCHEDULE = ((1, 1.0), (21, 0.1), (41, 0.05), (61, 0.01))


def embedded(count: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 7, generator=g, dtype=torch.float64), dim=1)


def soft_margin_triplet(queries: torch.Tensor, references: torch.Tensor, **options: object) -> torch.Tensor:
    return triplet_of_similarity(queries @ references.T, **options)  # type: ignore[arg-type]


def terms(queries: torch.Tensor, references: torch.Tensor, alpha: float, by_rows: bool) -> list[list[float]]:
    """Entry by entry, from squared distances of the vectors themselves."""
    count = len(queries)
    distance = [
        [float((queries[i] - references[j]).square().sum()) for j in range(count)] for i in range(count)
    ]
    return [
        [
            math.log(1 + math.exp(alpha * (distance[i][i] - distance[i][j])))
            if by_rows
            else math.log(1 + math.exp(alpha * (distance[j][j] - distance[i][j])))
            for j in range(count)
        ]
        for i in range(count)
    ]


Q, R = embedded(6, 1), embedded(6, 2)
ALL = [(i, j) for i in range(6) for j in range(6)]
OFF = [(i, j) for i, j in ALL if i != j]
NEAR = {(0, 3), (3, 0), (2, 5), (5, 2), (1, 1), (4, 0)}


def test_oricnn_on_cvusa_counts_the_diagonal() -> None:
    expected = 0.0
    for by_rows in (True, False):
        loss = terms(Q, R, 10.0, by_rows)
        expected += sum(loss[i][j] for i, j in ALL) / (6 * 5) / 2
    got = soft_margin_triplet(Q, R, alpha=10, diagonal="in", normaliser="pairs")
    assert got.item() == pytest.approx(expected, rel=1e-9)
    without = soft_margin_triplet(Q, R, alpha=10, diagonal="out", normaliser="pairs")
    assert (got - without).item() == pytest.approx(6 * math.log(2) / 30, rel=1e-9)


def test_oricnn_on_cvact_lets_masked_entries_add_log_two() -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    useful = [[1.0] * 6 for _ in range(6)]
    for i, j in NEAR | {(i, i) for i in range(6)}:  # a camera is within 25 m of itself
        mask[i, j] = True
        useful[i][j] = 0.0
    expected = 0.0
    number = sum(map(sum, useful))
    for by_rows in (True, False):
        for i, j in ALL:
            own, other = (i, i) if by_rows else (j, j), (i, j)
            d_own = float((Q[own[0]] - R[own[1]]).square().sum())
            d_other = float((Q[other[0]] - R[other[1]]).square().sum())
            # The published code multiplies the argument with the mask.
            expected += math.log(1 + math.exp(10 * (d_own - d_other) * useful[i][j])) / number / 2
    got = soft_margin_triplet(
        Q, R, alpha=10, diagonal="in", normaliser="counted", ignored=mask, masked="log2"
    )
    assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("alpha", [1.0, 20.0])
def test_masked_pairs_may_be_removed(alpha: float) -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    for i, j in NEAR:
        mask[i, j] = True
    kept = [(i, j) for i, j in OFF if (i, j) not in NEAR]
    expected = 0.0
    for by_rows in (True, False):
        loss = terms(Q, R, alpha, by_rows)
        expected += sum(loss[i][j] for i, j in kept) / len(kept) / 2
    got = soft_margin_triplet(Q, R, alpha=alpha, ignored=mask, normaliser="counted")
    assert got.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.001])
def test_the_hardest_share_of_each_direction(share: float) -> None:
    expected = 0.0
    for by_rows in (True, False):
        loss = terms(Q, R, 10.0, by_rows)
        hardest = sorted((loss[i][j] for i, j in OFF), reverse=True)[: max(1, int(share * 30))]
        expected += sum(hardest) / len(hardest) / 2
    got = soft_margin_triplet(Q, R, hardest=share, diagonal="in", masked="log2")
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_all_places_the_same_is_no_loss_but_not_nan() -> None:
    everything = torch.ones(6, 6, dtype=torch.bool)
    for share in (1.0, 0.1):
        got = soft_margin_triplet(Q, R, ignored=everything, normaliser="counted", hardest=share)
        assert got.item() == 0.0


def test_the_published_schedule_of_hard_triplets() -> None:
    epochs = (1, 20, 21, 40, 41, 60, 61, 500)
    expected = [1.0, 1.0, 0.1, 0.1, 0.05, 0.05, 0.01, 0.01]
    assert [hardest_share(epoch, STN_SCHEDULE) for epoch in epochs] == expected
    assert [hardest_share(epoch, STN_SCHEDULE[::-1]) for epoch in epochs] == expected
    assert hardest_share(3, ((5, 0.2),)) == 1.0
    assert hardest_share(3, ()) == 1.0


def test_the_module_follows_its_recipe_and_epoch() -> None:
    recipe = TripletRecipe(
        alpha=5.0, diagonal="in", normaliser="counted", masked="log2", mining=((1, 1.0), (3, 0.3))
    )
    loss, cosines = TripletLoss(recipe), embedded(5, 1) @ embedded(5, 2).T
    ignored = torch.zeros(5, 5, dtype=torch.bool)
    ignored[0, 3] = ignored[3, 0] = True
    for epoch, hardest in ((1, 1.0), (2, 1.0), (3, 0.3)):
        loss.epoch = epoch
        expected = triplet_of_similarity(
            cosines,
            alpha=5.0,
            diagonal="in",
            normaliser="counted",
            masked="log2",
            ignored=ignored,
            hardest=hardest,
        )
        torch.testing.assert_close(loss(cosines, ignored), expected, rtol=0, atol=0)


def test_gradients() -> None:
    q, r = embedded(4, 3).requires_grad_(), embedded(4, 4).requires_grad_()
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0, 2] = True
    for hardest in (1.0, 0.5):
        assert torch.autograd.gradcheck(
            lambda a, b, h=hardest: soft_margin_triplet(a, b, ignored=mask, hardest=h, alpha=3.0), (q, r)
        )


def test_far_negatives_do_not_overflow() -> None:
    eye = torch.eye(3)
    assert torch.isfinite(soft_margin_triplet(eye, -eye, alpha=1000.0))


def test_guidance_is_the_mean_absolute_difference() -> None:
    a, b = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    expected = [float((one - other).abs().mean()) for one, other in zip(a, b, strict=True)]
    assert guidance_loss(a, b).tolist() == pytest.approx(expected, rel=1e-5)
