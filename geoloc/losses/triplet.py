"""Weighted soft-margin triplet loss over all pairs of a batch (CVM-Net, CVPR 2018), as OriCNN, SAFA and STN use it.

The published codes differ in what they add up and what they divide by; every variant is named here:
OriCNN on CVUSA: diagonal in, divided by B (B - 1). OriCNN on CVACT: places within 25 m masked, their entries still
worth log 2, divided by the useful pairs. STN: diagonal out, divided by the triplets, the hardest share of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from geoloc.losses.pair_loss import PairLoss
from geoloc.recipe.registry import PositiveFloat, PositiveInt, Share, register
from geoloc.recipe.training import PairLossSection

Diagonal = Literal["in", "out"]
Masked = Literal["log2", "removed"]
Normaliser = Literal["pairs", "counted"]


def triplet_of_similarity(
    similarity: torch.Tensor,
    *,
    alpha: float = 10.0,
    diagonal: Diagonal = "out",
    normaliser: Normaliser = "pairs",
    ignored: torch.Tensor | None = None,
    masked: Masked = "removed",
    hardest: float = 1.0,
) -> torch.Tensor:
    """Mean over both directions of log(1 + exp(alpha (d_own - d_other))), d = 2 - 2 cosine, of cosines float[B, B].

    Row i (a query) belongs to column i (a reference). `diagonal` in adds B log 2 to each direction's sum, as
    the published code that does not take the pairs themselves out. `ignored` bool[B, B] are other photos of the
    same place: `masked` removed leaves them out, log2 lets each add the constant log 2 as published for
    CVACT. The sum is divided by B (B - 1) (`pairs`) or by the entries that are neither on the diagonal nor
    ignored (`counted`). `hardest` below 1 takes the mean of that share of the counted entries with the largest
    loss instead, at least one a direction; constants then play no part.
    """
    count = len(similarity)
    own = similarity.diagonal()
    off_diagonal = ~torch.eye(count, dtype=torch.bool, device=similarity.device)
    counted = off_diagonal if ignored is None else off_diagonal & ~ignored
    constants = count if diagonal == "in" else 0
    if masked == "log2":
        constants += int((off_diagonal & ~counted).sum())
    divisor = count * (count - 1) if normaliser == "pairs" else int(counted.sum())
    total = similarity.new_zeros(())
    for target in (own[:, None], own[None]):  # queries among references, references among queries
        # d_own - d_other = 2 (similarity_other - similarity_own)
        terms = F.softplus(2 * alpha * (similarity - target))[counted]
        if hardest < 1:
            total = total + _hardest_mean(terms, hardest)
        else:
            total = total + (terms.sum() + constants * math.log(2)) / max(1, divisor)
    return total / 2


def _hardest_mean(terms: torch.Tensor, share: float) -> torch.Tensor:
    if len(terms) == 0:
        return terms.sum()
    return terms.topk(max(1, math.floor(share * len(terms)))).values.mean()


class TripletRecipe(PairLossSection):
    """The weighted soft-margin triplet loss in place of InfoNCE."""

    key = "triplet"
    words = "triplet loss"
    alpha: PositiveFloat = 10.0
    diagonal: Diagonal = Field("out", description="in: pairs themselves add log 2, as OriCNN")
    normaliser: Normaliser = Field("pairs", description="divide by B (B - 1) or by what counts")
    masked: Masked = Field("removed", description="log2: as published for CVACT's 25 m")
    mining: tuple[tuple[PositiveInt, Share], ...] = Field(
        (), description="(from epoch, share of the hardest triplets that count); epochs start at 1"
    )


@register(TripletRecipe)
class TripletLoss(PairLoss):
    """`triplet_of_similarity` with the constants of a recipe and its schedule of mining."""

    def __init__(self, recipe: TripletRecipe) -> None:
        super().__init__()
        self.recipe = recipe

    @property
    def hardest(self) -> float:
        """Share of the triplets that count in the present epoch."""
        return hardest_share(self.epoch, self.recipe.mining)

    def forward(self, similarity: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        """Cosines float[N, N], row i belonging to column i, to a scalar; `ignored` bool[N, N] are no negatives."""
        return triplet_of_similarity(
            similarity,
            ignored=ignored,
            hardest=self.hardest,
            **self.recipe.model_dump(exclude={"mining"}),
        )


def hardest_share(epoch: int, schedule: Sequence[tuple[int, float]]) -> float:
    """Share of the triplets that count in an epoch (the first is 1): that of the last (from_epoch, share) reached.

    STN's schedule is ((1, 1.0), (21, 0.1), (41, 0.05), (61, 0.01)). Before the first entry everything counts.
    """
    share = 1.0
    for first, value in sorted(schedule):
        if epoch >= first:
            share = value
    return share


def guidance_loss(warped: torch.Tensor, polar: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference float[B] of spatial transformers' outputs and polar images float[B, 3, H, W] (STN)."""
    return (warped - polar).abs().flatten(1).mean(1)
