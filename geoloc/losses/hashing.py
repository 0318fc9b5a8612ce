"""Losses of hash codes: similarity of relaxed codes at every prefix, distance from signs, orthogonality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from geoloc.losses.contrastive import masked, symmetric_info_nce


def relaxed_similarity(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Similarity float[N, M] of code logits [N, k] and [M, k]: the cosine of their tanh.

    Where tanh is saturated it is 1 - 2 Hamming / k. The cosine takes out how far each code is saturated, which
    would otherwise be learned instead of which bits to set.
    """
    return F.normalize(torch.tanh(queries), dim=1) @ F.normalize(torch.tanh(references), dim=1).T


def prefix_loss(
    queries: torch.Tensor,
    references: torch.Tensor,
    prefixes: Sequence[int],
    *,
    temperature: float,
    ignored: torch.Tensor | None = None,
) -> torch.Tensor:
    """Symmetric InfoNCE of relaxed codes, averaged over the prefixes (nested codes, as Matryoshka embeddings).

    `queries`, `references`: code logits float[N, bits]; prefix k uses the first k of them.
    """
    losses = []
    for prefix in prefixes:
        similarity = relaxed_similarity(queries[:, :prefix], references[:, :prefix])
        losses.append(symmetric_info_nce(masked(similarity / temperature, ignored)))
    return torch.stack(losses).mean()


def quantisation_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of tanh of float[N, bits] from -1 and +1: 0 where signs lose nothing, 1 at logits 0."""
    return F.mse_loss(torch.tanh(logits).abs(), torch.ones_like(logits))


def orthogonality_loss(weight: torch.Tensor) -> torch.Tensor:
    """How far the rows of a projection float[bits, D] are from orthonormal: squared error of W W^T, per row.

    Bits with the same direction add nothing: without this term the learned bits of long codes separate the
    training places and little else.
    """
    error = weight @ weight.T - torch.eye(len(weight), device=weight.device, dtype=weight.dtype)
    return error.square().sum() / len(weight)
