from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from geoloc.losses.contrastive import symmetric_info_nce
from geoloc.training.all_gather import gather_rows, is_distributed


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        left = gather_rows(nn.functional.normalize(self.left(a), dim=1))
        right = gather_rows(nn.functional.normalize(self.right(b), dim=1))
        return symmetric_info_nce(left @ right.T * self.scale)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 5, generator=generator), torch.randn(6, 5, generator=generator)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    a, b = batch()
    model = DistributedDataParallel(Towers())
    rows = slice(3 * rank, 3 * rank + 3)
    torch.autograd.backward(model(a[rows], b[rows]))
    if rank == 0:
        torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_workers_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    mp.spawn(worker, args=(str(tmp_path),), nprocs=2)
    whole = Towers()
    torch.autograd.backward(whole(*batch()))
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for parameter, gradient in zip(whole.parameters(), together, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_one_process_is_its_own_batch() -> None:
    rows = torch.randn(3, 2)
    assert not is_distributed()
    assert gather_rows(rows) is rows
