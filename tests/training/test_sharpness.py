"""SAM and ASAM against their formula, and alike on several workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geoloc.losses.contrastive import symmetric_info_nce
from geoloc.recipe.training import Sharpness
from geoloc.training.all_gather import gather_rows
from geoloc.training.sharpness import SharpnessAware, frozen_statistics


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        left = gather_rows(nn.functional.normalize(self.left(a), dim=1))
        right = gather_rows(nn.functional.normalize(self.right(b), dim=1))
        return symmetric_info_nce(left @ right.T * 3)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator)


def two_passes(model: nn.Module, plain: nn.Module, a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
    """The gradients that a step of ASAM uses."""
    aware = SharpnessAware(Sharpness(rho=0.5), plain.parameters())
    torch.autograd.backward(model(a, b))
    aware.climb()
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(model(a, b))
    aware.descend()
    return [weight.grad.clone() for weight in plain.parameters() if weight.grad is not None]


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    a, b = batch()
    plain = Towers()
    rows = slice(3 * rank, 3 * rank + 3)
    torch.save(two_passes(DistributedDataParallel(plain), plain, a[rows], b[rows]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_take_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    whole = Towers()
    expected = two_passes(whole, whole, *batch())
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for mine, theirs in zip(expected, found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_climb_is_the_published_one_and_is_undone_exactly(adaptive: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    weights = [
        nn.Parameter(torch.randn(3, 2, generator=generator)),
        nn.Parameter(torch.randn(4, generator=generator)),
    ]
    unused = nn.Parameter(torch.ones(2))
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    before = [weight.detach().clone() for weight in weights]
    aware = SharpnessAware(Sharpness(rho=0.7, adaptive=adaptive), [*weights, unused])
    aware.climb()
    w = torch.cat([each.flatten() for each in before])
    g = torch.cat([each.grad.flatten() for each in weights if each.grad is not None])
    t = w.abs() if adaptive else torch.ones_like(w)
    expected = w + 0.7 * t**2 * g / (t * g).norm()
    torch.testing.assert_close(torch.cat([each.detach().flatten() for each in weights]), expected)
    assert unused.tolist() == [1.0, 1.0]
    aware.descend()
    assert all(torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_statistics_stand_still_meanwhile() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(3)).train()
    norm(torch.randn(8, 3))
    before = {key: value.clone() for key, value in norm.state_dict().items() if "running" in key}
    with frozen_statistics(norm):
        norm(5 + torch.randn(8, 3))
    assert all(torch.equal(norm.state_dict()[key], value) for key, value in before.items())
    norm(5 + torch.randn(8, 3))
    assert not torch.equal(norm.state_dict()["0.running_mean"], before["0.running_mean"])
