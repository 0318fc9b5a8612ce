"""Contrastive loss of pairs of places (Hadsell, Chopra and LeCun, CVPR 2006, equation 4)."""

from __future__ import annotations

from typing import Literal

import torch

from geoloc.losses.places.place_loss import PlaceBatch, PlaceLoss, mean_of, squared_distances
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import PlaceLossSection


class ContrastiveRecipe(PlaceLossSection):
    """Squared distance of positives, squared lack of `margin` of negatives; unit vectors are at most 2 apart."""

    kind: Literal["contrastive"] = "contrastive"
    margin: PositiveFloat = 1.0


@register(ContrastiveRecipe)
class ContrastiveLoss(PlaceLoss):
    """Mean of d^2 / 2 over the positive pairs plus mean of max(0, margin - d)^2 / 2 over the negative pairs.

    d is the Euclidean distance of unit vectors. The two means are apart, because a batch has many more negatives.
    """

    def __init__(self, recipe: ContrastiveRecipe, dim: int, places: int) -> None:
        super().__init__()
        self.margin = recipe.margin

    def forward(self, batch: PlaceBatch) -> torch.Tensor:
        """The loss of a batch: float[] from embeddings [N, D]."""
        squared = squared_distances(batch.unit)
        # The root has no gradient at 0: equal vectors are taken to be a little apart.
        lack = (self.margin - squared.clamp(min=1e-12).sqrt()).clamp(min=0)
        positives = mean_of(squared[batch.positive()])
        return (positives + mean_of(lack[batch.negative()].square())) / 2
