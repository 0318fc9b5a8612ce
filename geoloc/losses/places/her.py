"""Hard exemplar reweighting triplets (Cai et al., ICCV 2019), with its optional regression of the orientation.

The constants are those of the authors' code (Crossview-Matching-Project01); the text of the paper was not read. For an
anchor i with the squared distances d_p(i) of its positive and d_n(i, k) of exemplar k, the probability that the
exemplar is told apart is P = 1 / (1 + exp(d_p - d_n + beta)): a logistic regression on triplets. beta = m / 2 is the
distance rectifying factor. It moves the distance at which P is one half.
The weight of the exemplar is the information -log2 P = log2(1 + exp(d_p - d_n + beta)), which is not detached: its
gradient counts. Bounds prune it: log2(1 + exp(-m / 2)) (an exemplar farther than the positive by m or more)
and log2(1 + exp(m / 2)) (one nearer than the positive). Below the lower bound the weight is 0.1 / B for B
exemplars, above the upper bound it is the bound; both are constants.

The loss is the mean over anchors and exemplars of theta_1 w log(1 + exp(d_p - d_n)), and w = 0 for what is no negative.
The authors' features are not normalised, m is 0.15 times their mean squared norm; unit vectors are multiplied by
`scale` = 5 first, so m = 3.75, and the bounds are 0.206 and 2.911.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from geoloc.losses.places.place_loss import PlaceBatch, PlaceLoss, squared_distances
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import PlaceLossSection


class HerRecipe(PlaceLossSection):
    """Hard exemplar reweighting; constants as in the authors' code, for unit vectors times `scale`."""

    kind: Literal["her"] = "her"
    scale: PositiveFloat = Field(5.0, description="length that embeddings are given")
    margin: PositiveFloat = Field(0.15, description="m as a share of scale squared")
    lower_bound: Annotated[float, Field(ge=0)] | None = Field(
        None, description="of the weights; log2(1 + exp(-m / 2)) by default"
    )
    upper_bound: PositiveFloat | None = Field(
        None, description="of the weights; log2(1 + exp(m / 2)) by default"
    )
    pruned_weight: Annotated[float, Field(ge=0)] = Field(
        0.1, description="divided by the number of exemplars: the weight of what is below the lower bound"
    )
    triplet_share: PositiveFloat = Field(2.0, description="theta_1, of the triplets")
    orientation_share: Annotated[float, Field(ge=0)] = Field(
        0.0, description="theta_2, of the orientation regression; the authors have 1 for theta_1 = 2"
    )

    @property
    def m(self) -> float:
        """The margin m in squared distances."""
        return self.margin * self.scale**2

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound of the weights."""
        lower = math.log2(1 + math.exp(-self.m / 2)) if self.lower_bound is None else self.lower_bound
        upper = math.log2(1 + math.exp(self.m / 2)) if self.upper_bound is None else self.upper_bound
        return lower, upper


def exemplar_weights(gap: torch.Tensor, recipe: HerRecipe) -> torch.Tensor:
    """Weights float[n, B] of gaps d_p - d_n float[n, B], a row an anchor with its B exemplars; see the module."""
    lower, upper = recipe.bounds
    weight = F.softplus(gap + recipe.m / 2) / math.log(2)
    weight = torch.where(weight < lower, recipe.pruned_weight / gap.shape[1], weight)
    return weight.clamp(max=upper)


@register(HerRecipe)
class HerLoss(PlaceLoss):
    """HER of photos (anchors) against tiles (exemplars), as the authors search: from the ground to the satellite.

    With `orientation_share` a linear map of a photo's and its tile's unit embeddings predicts the heading of the photo
    against the tile as (cosine, sine). Pairs whose headings are unknown do not count.
    """

    def __init__(self, recipe: HerRecipe, dim: int, places: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.orientation = nn.Linear(2 * dim, 2) if recipe.orientation_share else None

    def forward(self, batch: PlaceBatch) -> torch.Tensor:
        """The loss of a batch: float[] from embeddings [N, D]."""
        unit, tiles = batch.unit, batch.view == 0
        distance = squared_distances(unit[~tiles], unit[tiles]) * self.recipe.scale**2
        photo_place, tile_place = batch.place[~tiles], batch.place[tiles]
        same = photo_place[:, None] == tile_place[None]
        anchor, own = same.nonzero(as_tuple=True)
        if not len(anchor):
            return distance.sum() * 0
        gap = distance[anchor, own][:, None] - distance[anchor]
        weight = exemplar_weights(gap, self.recipe)
        weight = weight.masked_fill(same[anchor], 0.0)
        # The positive is one of the exemplars, of weight 0: with a photo for each tile this is the mean over B^2.
        terms = self.recipe.triplet_share * weight * F.softplus(gap)
        if self.orientation is not None:
            error = self._orientation_error(batch, anchor, own)
            terms = terms + self.recipe.orientation_share * weight * error[:, None]
        return terms.mean()

    def _orientation_error(self, batch: PlaceBatch, anchor: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Squared error float[n] of the predicted direction of photos against their tiles; 0 where it is unknown."""
        assert self.orientation is not None
        unit, tiles = batch.unit, batch.view == 0
        predicted: torch.Tensor = self.orientation(torch.cat([unit[~tiles][anchor], unit[tiles][own]], 1))
        if batch.heading_deg is None:
            return predicted.sum(1) * 0
        heading_deg = batch.heading_deg.to(predicted)
        turn = torch.deg2rad(heading_deg[~tiles][anchor] - heading_deg[tiles][own])
        known = turn.isfinite()
        turn = turn.nan_to_num()
        truth = torch.stack([torch.cos(turn), torch.sin(turn)], 1)
        return torch.where(known, (predicted - truth).square().sum(1), 0.0)
