"""Linear encoders: logits are a linear map of the embedding's difference from a mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from geoloc.core.arrays import AnyArray, BoolArray, Float32Array
from geoloc.models.hash_encoders.encoder import HashEncoder, Side
from geoloc.recipe.model import HashEncoderSection


@dataclass(frozen=True)
class LinearMap:
    """`weight` float32[bits, D] of an embedding minus `mean` float32[D]."""

    weight: Float32Array
    mean: Float32Array

    def logits(self, embeddings: Float32Array) -> Float32Array:
        """Embeddings float32[..., D] to logits float32[..., bits]."""
        logits: Float32Array = (embeddings - self.mean).astype(np.float32, copy=False) @ self.weight.T
        return logits

    def logits_of_parts(self, parts: Float32Array, shown: BoolArray) -> Float32Array:
        """Logits float32[..., bits] of the difference from the mean in the columns `shown` bool[..., columns].

        So hidden columns of the embeddings float32[..., D], which are zero, favour neither value of a bit.
        """
        # A unit vector's part is as long as the root of its share.
        length = np.sqrt(shown.mean(axis=-1, keepdims=True, dtype=np.float32))
        mean = self.mean.reshape(-1, shown.shape[-1]) * shown[..., None, :]
        flat = mean.reshape(*mean.shape[:-2], -1)
        logits: Float32Array = (parts * length - flat) @ self.weight.T
        return logits

    def arrays(self, prefix: str = "") -> dict[str, AnyArray]:
        """The map, weight: float32[bits, D], and the mean, mean: float32[D], each name after a prefix."""
        return {f"{prefix}weight": self.weight, f"{prefix}mean": self.mean}

    @classmethod
    def from_arrays(cls, bits: int, arrays: Mapping[str, AnyArray], prefix: str = "") -> Self:
        """weight: [bits, D], mean: [D]; raises `KeyError` or `ValueError` where the arrays do not fit."""
        weight, mean = arrays[f"{prefix}weight"], arrays[f"{prefix}mean"]
        if weight.ndim != 2 or mean.shape != weight.shape[1:] or len(weight) != bits:
            raise ValueError(f"{prefix}weight is {list(weight.shape)} and {prefix}mean {list(mean.shape)}")
        return cls(weight.astype(np.float32), mean.astype(np.float32))


class LinearEncoder(HashEncoder):
    """One linear map for photos and tiles; kinds differ in how it is fitted."""

    def __init__(self, section: HashEncoderSection, weight: Float32Array, mean: Float32Array) -> None:
        super().__init__(section, *weight.shape)
        self.map = LinearMap(weight, mean)

    def logits(self, embeddings: Float32Array, side: Side) -> Float32Array:
        """Embeddings float32[..., D] to logits float32[..., bits]."""
        return self.map.logits(embeddings)

    def logits_of_parts(self, parts: Float32Array, shown: BoolArray, side: Side) -> Float32Array:
        """Logits float32[..., bits] of embeddings [..., D] whose columns `shown` bool[..., columns] are known."""
        return self.map.logits_of_parts(parts, shown)

    def arrays(self) -> dict[str, AnyArray]:
        """The map, weight: float32[bits, D], and the mean, mean: float32[D]."""
        return self.map.arrays()

    @classmethod
    def from_arrays(cls, section: HashEncoderSection, bits: int, arrays: Mapping[str, AnyArray]) -> Self:
        """weight: [bits, D], mean: [D]; raises `KeyError` or `ValueError` where the arrays do not fit."""
        fitted = LinearMap.from_arrays(bits, arrays)
        return cls(section, fitted.weight, fitted.mean)
