"""Weighted soft-margin triplets of places (Hu et al., CVM-Net, CVPR 2018, equation 4)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

from geoloc.losses.places.place_loss import PlaceBatch, PlaceLoss, mean_of, squared_distances
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import PlaceLossSection


class SoftMarginRecipe(PlaceLossSection):
    """Weighted soft-margin triplets; `alpha` is CVM-Net's weight of the difference of distances."""

    kind: Literal["soft_margin"] = "soft_margin"
    alpha: PositiveFloat = 10.0


@register(SoftMarginRecipe)
class SoftMarginLoss(PlaceLoss):
    """Mean of log(1 + exp(alpha (d_p - d_n))) over all triplets of an anchor, a positive and a negative.

    d is the squared Euclidean distance of unit vectors.
    """

    def __init__(self, recipe: SoftMarginRecipe, dim: int, places: int) -> None:
        super().__init__()
        self.alpha = recipe.alpha

    def forward(self, batch: PlaceBatch) -> torch.Tensor:
        """The loss of a batch: float[] from embeddings [N, D]."""
        distance = squared_distances(batch.unit)
        anchor, positive = batch.positive().nonzero(as_tuple=True)
        gap = distance[anchor, positive][:, None] - distance[anchor]
        return mean_of(F.softplus(self.alpha * gap[batch.negative()[anchor]]))
