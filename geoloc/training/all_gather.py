"""Embeddings of all workers as one batch, differentiable."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from geoloc.training.step_times import TIMES


class _GatherRows(torch.autograd.Function):
    """All workers' rows in rank order; the backward pass sums the gradients that the workers have for each row."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.rows = len(rows)
        with TIMES.of("communication"):
            gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
            dist.all_gather(gathered, rows.contiguous())
            return torch.cat(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].contiguous()
        with TIMES.of("communication"):
            dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def is_distributed() -> bool:
    """Whether this process is one of several workers."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """float[B, ...] of each worker to float[W * B, ...] in rank order; itself where there is one process.

    Every worker then computes the loss of the whole batch. The sum over workers in the backward pass and the
    mean that DDP takes over them cancel: the gradient is that of one process with the whole batch.
    """
    if not is_distributed():
        return rows
    gathered: torch.Tensor = _GatherRows.apply(rows)
    return gathered
