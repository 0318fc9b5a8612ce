"""Triplet loss with the hardest positive and negative of every anchor (Hermans et al., 2017, equation 5)."""

from __future__ import annotations

from typing import Literal

import torch

from geoloc.losses.places.place_loss import PlaceBatch, PlaceLoss, mean_of, squared_distances
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import PlaceLossSection


class HardTripletRecipe(PlaceLossSection):
    """Batch-hard triplets; University-1652's table has margins 0.3 and 0.5."""

    kind: Literal["hard_triplet"] = "hard_triplet"
    margin: PositiveFloat = 0.3


@register(HardTripletRecipe)
class HardTripletLoss(PlaceLoss):
    """Mean over the anchors of max(0, margin + d_p - d_n).

    d_p is the distance of the farthest positive, d_n that of the nearest negative, both Euclidean, of unit vectors.
    Anchors without a positive or a negative in the batch do not count.
    """

    def __init__(self, recipe: HardTripletRecipe, dim: int, places: int) -> None:
        super().__init__()
        self.margin = recipe.margin

    def forward(self, batch: PlaceBatch) -> torch.Tensor:
        """The loss of a batch: float[] from embeddings [N, D]."""
        distance = squared_distances(batch.unit).clamp(min=1e-12).sqrt()
        positive, negative = batch.positive(), batch.negative()
        anchors = positive.any(1) & negative.any(1)
        if not anchors.any():
            return distance.sum() * 0
        farthest = distance.masked_fill(~positive, -torch.inf)[anchors].amax(1)
        nearest = distance.masked_fill(~negative, torch.inf)[anchors].amin(1)
        return mean_of((self.margin + farthest - nearest).clamp(min=0))
