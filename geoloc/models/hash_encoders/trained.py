"""The hash head that is trained with the model, and the encoder around it: a linear map of the embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from torch import nn

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array
from geoloc.core.errors import ConfigError
from geoloc.models.hash_encoders.encoder import FitSample, HashEncoder, Side
from geoloc.recipe.model import HashEncoderSection, HashHead
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


def make_hash(recipe: ModelRecipe) -> LinearHash | ColumnHash | None:
    """The hash head of a recipe; None where its codes come from an encoder that was fitted after training."""
    if recipe.hash.encoder is not None:
        return None
    if recipe.hash.layout == "columns":
        return ColumnHash(recipe.hash, recipe.embedding_dim, recipe.columns)
    return LinearHash(recipe.hash, recipe.embedding_dim)


class TrainedSection(HashEncoderSection):
    """The head that is trained with the model. It is not registered: a recipe has it where it names no encoder."""

    kind: Literal["trained"] = "trained"


class TrainedEncoder(HashEncoder):
    """The model's own head as an encoder; `head` is in evaluation mode, on its device."""

    def __init__(self, head: LinearHash | ColumnHash, bits: int, embedding_dim: int) -> None:
        super().__init__(TrainedSection(), bits, embedding_dim)
        self._head = head
        self._mean_embedding: torch.Tensor | None = None

    @property
    def nested(self) -> bool:
        """Training has a loss on every prefix of the recipe."""
        return True

    @classmethod
    def fit(cls, section: HashEncoderSection, bits: int, sample: FitSample) -> Self:
        """Raises `ConfigError`: this head learns with the model."""
        raise ConfigError(
            "The hash encoder 'trained' is trained with the model; use `geoloc train`, or fit another kind."
        )

    @torch.inference_mode()
    def logits(self, embeddings: Float32Array, side: Side) -> Float32Array:
        """Embeddings float32[..., D] to logits float32[..., bits]."""
        logits: Float32Array = self._head(self._on_device(embeddings)).cpu().numpy()
        return logits

    @torch.inference_mode()
    def logits_of_parts(self, parts: Float32Array, shown: BoolArray, side: Side) -> Float32Array:
        """Logits float32[..., bits] of embeddings [..., D] of which some columns are zero, as unit vectors.

        `shown` bool[..., columns]: the others. Logits are those of the difference from the mean embedding in
        the same columns, so that hidden columns favour neither value of a bit.
        """
        if not isinstance(self._head, LinearHash):
            return self.logits(parts, side)
        whole = self._on_device(parts)
        if self._mean_embedding is None:
            self._mean_embedding = self._head.mean_embedding()
        mask = self._on_device(shown).float()
        # A unit vector's part is as long as the root of its share.
        length = mask.mean(-1, keepdim=True).sqrt()
        mean = self._mean_embedding.view(-1, mask.shape[-1]) * mask[..., None, :]
        logits: Float32Array = self._head.project(whole * length - mean.flatten(-2)).cpu().numpy()
        return logits

    def arrays(self) -> dict[str, AnyArray]:
        """The head's weights and statistics, such as project.weight: float32[bits, D]."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self._head.state_dict().items()}

    @classmethod
    def from_arrays(cls, section: HashEncoderSection, bits: int, arrays: Mapping[str, AnyArray]) -> Self:
        """Raises `ValueError` for any arrays [...]: this head is read with the model."""
        raise ValueError("the trained head lies in the model's weights")

    def _on_device(self, values: AnyArray) -> torch.Tensor:
        device = self._head.project.weight.device
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)
