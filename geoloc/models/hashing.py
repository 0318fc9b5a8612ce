"""Hash codes: signs of a linear map of the embedding, packed most significant bit first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geoloc.core.arrays import Float32Array
from geoloc.recipe.model import HashHead
from geoloc.recipe.recipe import ModelRecipe


class LinearHash(nn.Module):
    """Embedding float[..., D] to code logits float[..., bits]; bit b is set where logit b is positive.

    A linear map (deeper heads overfitted the training embeddings) and a batch norm without parameters, so that
    every bit is set for about half of the places and the logits start where tanh bends. Losses on every prefix
    make the first 64, 128, ... bits usable codes.
    """

    def __init__(self, recipe: HashHead, embedding_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_dim, recipe.bits, bias=False)
        nn.init.orthogonal_(self.project.weight)
        self.centre = nn.BatchNorm1d(recipe.bits, affine=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """float[..., D] to float[..., bits]."""
        logits = self.project(embeddings)
        centred: torch.Tensor = self.centre(logits.flatten(0, -2)).view_as(logits)
        return centred

    def mean_embedding(self) -> torch.Tensor:
        """The shortest embedding float[D] whose logits are all zero: the mean, as far as the bits see it."""
        mean = self.centre.running_mean
        assert isinstance(mean, torch.Tensor)
        found: torch.Tensor = torch.linalg.pinv(self.project.weight.double()).float() @ mean
        return found


class ColumnHash(nn.Module):
    """Embedding [channels, columns] to logits [bits per column, columns], every column by the same linear map.

    A turned photo has a turned code: `geometry.azimuth` searches the heading on codes without encoding the
    photo again. A prefix holds the first bits of every column. Centred as `LinearHash`, one statistic a map.
    """

    def __init__(self, recipe: HashHead, embedding_dim: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.project = nn.Linear(embedding_dim // columns, recipe.bits // columns, bias=False)
        nn.init.orthogonal_(self.project.weight)
        self.centre = nn.BatchNorm1d(recipe.bits // columns, affine=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """float[..., D] to float[..., bits], bit b * columns + c being bit b of column c."""
        by_column = embeddings.reshape(*embeddings.shape[:-1], -1, self.columns).transpose(-1, -2)
        logits = self.project(by_column)
        centred = self.centre(logits.flatten(0, -2)).view_as(logits)
        laid_out: torch.Tensor = centred.transpose(-1, -2).flatten(-2)
        return laid_out


def make_hash(recipe: ModelRecipe) -> LinearHash | ColumnHash:
    """The hash head of a recipe."""
    if recipe.hash.layout == "columns":
        return ColumnHash(recipe.hash, recipe.embedding_dim, recipe.columns)
    return LinearHash(recipe.hash, recipe.embedding_dim)


def pack_codes(logits: Float32Array) -> npt.NDArray[np.uint8]:
    """Code logits float[..., bits] to codes uint8[..., bits // 8]; bit 0 is the highest bit of byte 0."""
    return np.packbits(logits > 0, axis=-1)
