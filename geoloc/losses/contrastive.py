"""Symmetric InfoNCE over a batch of pairs (as in Sample4Geo, ICCV 2023), with a mask for what is no negative."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.losses.pair_loss import PairLoss
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import LossRecipe, PairLossSection

_LARGEST_LOG_SCALE = 4.6  # a temperature of 0.01: beyond, InfoNCE only sharpens what it already separates
_MASKED = -1e4  # exp() of it is 0 in float32, and unlike -inf it cannot turn into NaN


class InfoNceRecipe(PairLossSection):
    """Symmetric InfoNCE with a learnable temperature, which starts at `temperature`."""

    kind: Literal["info_nce"] = "info_nce"
    temperature: PositiveFloat = 0.07
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


@register(InfoNceRecipe)
class InfoNceLoss(PairLoss):
    """`symmetric_info_nce` of cosines times a learnable scale."""

    def __init__(self, recipe: InfoNceRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / recipe.temperature)))

    def forward(self, similarity: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        """Cosines float[N, N], row i belonging to column i, to a scalar; `ignored` bool[N, N] are no negatives."""
        scale = self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()
        logits = masked(similarity * scale, ignored)
        return symmetric_info_nce(logits, label_smoothing=self.recipe.label_smoothing, ignored=ignored)


def make_pair_loss(recipe: LossRecipe) -> PairLoss:
    """The loss that a recipe names; InfoNCE where it names none."""
    part = recipe.pair_loss or recipe.triplet
    if part is None:
        part = InfoNceRecipe(temperature=recipe.temperature, label_smoothing=recipe.label_smoothing)
    loss: PairLoss = part.build()
    return loss


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
