"""NT-Xent against its formula."""

from __future__ import annotations

import math

import pytest
import torch

from geoloc.losses.nt_xent import NtXentLoss, NtXentRecipe


def test_the_loss_is_the_mean_over_both_directions() -> None:
    cosines = 2 * torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) - 1
    ignored = torch.zeros(6, 6, dtype=torch.bool)
    ignored[1, 4] = True
    total = 0.0
    for i in range(6):
        row = sum(math.exp(float(cosines[i, k]) / 0.2) for k in range(6) if not ignored[i, k])
        column = sum(math.exp(float(cosines[k, i]) / 0.2) for k in range(6) if not ignored[k, i])
        total += math.log(row) + math.log(column) - 2 * float(cosines[i, i]) / 0.2
    loss = NtXentLoss(NtXentRecipe(temperature=0.2))
    assert list(loss.parameters()) == []
    assert float(loss(cosines, ignored)) == pytest.approx(total / 12, rel=1e-5)
