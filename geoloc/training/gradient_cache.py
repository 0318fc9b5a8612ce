"""Batches beyond memory: embeddings in chunks without a graph, the loss of all of them, then chunk by chunk again.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (RepL4NLP 2021), section
3.2. The gradient is that of the whole batch at once, for one more forward pass; only one chunk's graph is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from geoloc.training.all_gather import is_distributed
from geoloc.training.sharpness import frozen_statistics
from geoloc.training.step import PairEmbeddings, PairInputs, PairStep, StepResult


def backward_in_chunks(step: PairStep, inputs: PairInputs, chunk: int) -> StepResult:
    """The loss of a batch with its gradients (added to those of the parameters), `chunk` pairs at a time.

    The gradients are the mean over all workers, as those of DDP. Layers that draw (dropout) draw the same in both
    passes. Batch norms normalise each chunk alone.
    """
    seeds = [torch.initial_seed() + 1 + start for start in range(0, inputs.views, chunk)]
    with torch.no_grad():
        parts = [step.embed(part) for part in _seeded(inputs, chunk, seeds)]
    whole = PairEmbeddings.joined(parts)
    leaves = whole.leaves()
    for leaf in leaves:
        leaf.requires_grad_()
    result = step.loss(inputs, whole)
    torch.autograd.backward(result.loss)
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    start = 0
    with frozen_statistics(step):
        for part in _seeded(inputs, chunk, seeds):
            embedded = step.embed(part).leaves()
            rows = slice(start, start + part.views)
            torch.autograd.backward(embedded, [gradient[rows] for gradient in gradients])
            start += part.views
    _average_over_workers(step)
    return result


def _seeded(inputs: PairInputs, chunk: int, seeds: list[int]) -> Iterator[PairInputs]:
    for number, seed in enumerate(seeds):
        torch.manual_seed(seed)
        yield inputs.rows(slice(number * chunk, min((number + 1) * chunk, inputs.views)))


def _average_over_workers(step: nn.Module) -> None:
    if not is_distributed():
        return
    gradients = [parameter.grad for parameter in step.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
