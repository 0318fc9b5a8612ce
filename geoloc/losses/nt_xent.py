"""NT-Xent of pairs at a fixed temperature (Chen et al., ICML 2020), in both directions."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from geoloc.losses.contrastive import masked, symmetric_info_nce
from geoloc.losses.pair_loss import PairLoss
from geoloc.recipe.registry import PositiveFloat, register
from geoloc.recipe.training import PairLossSection


class NtXentRecipe(PairLossSection):
    """Normalised, temperature-scaled cross-entropy: InfoNCE without anything to learn."""

    kind: Literal["nt_xent"] = "nt_xent"
    temperature: PositiveFloat = 0.07
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


@register(NtXentRecipe)
class NtXentLoss(PairLoss):
    """Mean cross-entropy of rows and columns of cosines / temperature, the diagonal being right.

    Negatives are the other side's alone, as in the multi-term loss of the 2.5D maps (arXiv 2308.05993).
    """

    def __init__(self, recipe: NtXentRecipe) -> None:
        super().__init__()
        self.recipe = recipe

    def forward(self, similarity: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        """Cosines float[N, N], row i belonging to column i, to a scalar; `ignored` bool[N, N] are no negatives."""
        logits = masked(similarity / self.recipe.temperature, ignored)
        return symmetric_info_nce(logits, label_smoothing=self.recipe.label_smoothing, ignored=ignored)
