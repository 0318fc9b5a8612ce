"""Instance loss: every place is a class, and all views share one classifier.

Source: Zheng et al., Dual-Path Convolutional Image-Text Embeddings with Instance Loss (TOMM 2020), and its use in
University-1652 (ACM MM 2020): the classifier sees the 512 values of the bottleneck after dropout; the cross-entropies
of the views are added.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.losses.places.place_loss import PlaceBatch, PlaceLoss
from geoloc.recipe.registry import register
from geoloc.recipe.training import PlaceLossSection


class InstanceRecipe(PlaceLossSection):
    """Cross-entropy over the training places, with a classifier that all views share."""

    kind: Literal["instance"] = "instance"
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="of the classifier's input")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


@register(InstanceRecipe)
class InstanceLoss(PlaceLoss):
    """The sum over the views of the mean cross-entropy of their pictures; weights start at N(0, 0.001), biases at 0."""

    def __init__(self, recipe: InstanceRecipe, dim: int, places: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.classifier = nn.Linear(dim, places)
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, batch: PlaceBatch) -> torch.Tensor:
        """The loss of a batch: float[] from embeddings [N, D]."""
        seen = F.dropout(batch.bottleneck, self.recipe.dropout, self.training)
        wrong = F.cross_entropy(
            self.classifier(seen),
            batch.place,
            reduction="none",
            label_smoothing=self.recipe.label_smoothing,
        )
        views = sorted(set(batch.view.tolist()))
        return torch.stack([wrong[batch.view == view].mean() for view in views]).sum()
