"""Symmetric InfoNCE over a batch of pairs (as in Sample4Geo, ICCV 2023), with a mask for what is no negative."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_MASKED = -1e4  # exp() of it is 0 in float32, and unlike -inf it cannot turn into NaN


def pair_logits(
    queries: torch.Tensor,
    references: torch.Tensor,
    scale: torch.Tensor | float,
    ignored: torch.Tensor | None = None,
) -> torch.Tensor:
    """Similarities float[N, N] of unit embeddings [N, D] times `scale`; where `ignored` bool[N, N] a huge negative.

    The diagonal (the pairs themselves) is never ignored.
    """
    return masked(queries @ references.T * scale, ignored)


def masked(logits: torch.Tensor, ignored: torch.Tensor | None) -> torch.Tensor:
    """float[N, N] with a huge negative where `ignored`, the diagonal apart."""
    if ignored is None:
        return logits
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(ignored & ~diagonal, _MASKED)


def symmetric_info_nce(
    logits: torch.Tensor, *, label_smoothing: float = 0.0, ignored: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean cross-entropy of rows and columns of float[N, N], row i belonging to column i.

    `label_smoothing` spreads that share of the target evenly over the entries that count (`ignored` ones get
    none, so that a masked pair is neither pulled nor pushed).
    """
    return (
        _rows(logits, label_smoothing, ignored) + _rows(logits.T, label_smoothing, _transposed(ignored))
    ) / 2


def _transposed(mask: torch.Tensor | None) -> torch.Tensor | None:
    return None if mask is None else mask.T


def _rows(logits: torch.Tensor, smoothing: float, ignored: torch.Tensor | None) -> torch.Tensor:
    log_share = F.log_softmax(logits, dim=1)
    own = -log_share.diagonal()
    if smoothing == 0.0:
        return own.mean()
    counted = torch.ones_like(log_share)
    if ignored is not None:
        diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        counted = (~ignored | diagonal).to(log_share.dtype)
    spread = -(log_share * counted).sum(1) / counted.sum(1)
    return ((1 - smoothing) * own + smoothing * spread).mean()


def near_pairs(east_m: torch.Tensor, north_m: torch.Tensor, distance_m: float) -> torch.Tensor:
    """bool[N, N]: which cameras [N] (metres in one frame) are nearer than `distance_m` to each other.

    NaN coordinates (a data set without positions) are near to nothing.
    """
    squared = (east_m[:, None] - east_m[None]) ** 2 + (north_m[:, None] - north_m[None]) ** 2
    return squared < distance_m**2
