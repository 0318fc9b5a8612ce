"""Losses of hash codes: similarity of relaxed codes at every prefix, and the distance of logits from signs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from geoloc.losses.contrastive import pair_logits, symmetric_info_nce


def relaxed_similarity(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Similarity float[N, M] of code logits [N, k] and [M, k]: mean product of tanh, 1 - 2 Hamming / k in the limit."""
    return torch.tanh(queries) @ torch.tanh(references).T / queries.shape[1]


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
        left, right = torch.tanh(queries[:, :prefix]), torch.tanh(references[:, :prefix])
        logits = pair_logits(left, right, 1.0 / (prefix * temperature), ignored)
        losses.append(symmetric_info_nce(logits))
    return torch.stack(losses).mean()


def quantisation_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of tanh(logits) from -1 and +1: 0 where signs lose nothing, 1 at logits 0."""
    return F.mse_loss(torch.tanh(logits).abs(), torch.ones_like(logits))
