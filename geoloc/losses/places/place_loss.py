"""What every loss of places is: a module from the embeddings of a batch, with their places, to one number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class PlaceBatch:
    """Embeddings of the pictures of a batch, of all workers.

    `bottleneck` float[N, D] is the embedding before it is scaled to length 1, `place` int64[N] the number of the place
    (below the number of training places), `view` int64[N] the number of the view (0: aerial). `heading_deg` float[N] is
    what lies at the picture's top, clockwise from north; NaN where it is unknown (None: unknown for all).
    """

    bottleneck: torch.Tensor
    place: torch.Tensor
    view: torch.Tensor
    heading_deg: torch.Tensor | None = None

    @property
    def unit(self) -> torch.Tensor:
        """Embeddings of length 1, float[N, D], as they are searched."""
        return F.normalize(self.bottleneck, dim=1)

    def positive(self) -> torch.Tensor:
        """bool[N, N]: whether an anchor (row) and a picture (column) show one place from different views."""
        return self._other_view() & (self.place[:, None] == self.place[None])

    def negative(self) -> torch.Tensor:
        """bool[N, N]: whether an anchor (row) and a picture (column) show different places from different views."""
        return self._other_view() & (self.place[:, None] != self.place[None])

    def _other_view(self) -> torch.Tensor:
        return self.view[:, None] != self.view[None]


class PlaceLoss(nn.Module, ABC):
    """A loss of places. Photos are compared across views, because that is how they are searched."""

    @abstractmethod
    def forward(self, batch: PlaceBatch) -> torch.Tensor:
        """The loss of a batch, float[] from embeddings [N, D]; 0 with gradient 0 where there is nothing to compare."""


def squared_distances(unit: torch.Tensor, other: torch.Tensor | None = None) -> torch.Tensor:
    """Squared Euclidean distances float[N, M] of unit vectors float[N, D] and float[M, D], from 0 to 4."""
    return (2 - 2 * unit @ (unit if other is None else other).T).clamp(min=0)


def mean_of(values: torch.Tensor) -> torch.Tensor:
    """The mean of float[n]; 0 with a gradient of 0 where n is 0."""
    return values.sum() / max(1, values.numel())
