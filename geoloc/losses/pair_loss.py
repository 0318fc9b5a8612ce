"""What every loss of a batch's pairs is: a module from a matrix of cosines to one number."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class PairLoss(nn.Module, ABC):
    """A loss of pairs; `epoch` (from 1 on) is set by the trainer before every step, for losses with a schedule."""

    epoch = 1

    @abstractmethod
    def forward(self, similarity: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        """Cosines float[N, N], row i belonging to column i, to a scalar; `ignored` bool[N, N] are no negatives."""
