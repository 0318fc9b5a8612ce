"""Random projection: signs of random directions (Charikar, "Similarity estimation techniques", STOC 2002)."""

from __future__ import annotations

from typing import Literal, Self

import faiss
import numpy as np

from geoloc.models.hash_encoders.encoder import FitSample
from geoloc.models.hash_encoders.linear import LinearEncoder
from geoloc.recipe.model import HashEncoderSection
from geoloc.recipe.registry import register


class RandomProjection(HashEncoderSection):
    """Orthogonal random directions about the mean of the tiles: the floor of what a code of a length can do."""

    kind: Literal["random"] = "random"
    seed: int = 1


@register(RandomProjection)
class RandomEncoder(LinearEncoder):
    """Signs of FAISS's random rotation, orthogonal among every D of its directions."""

    nested = True

    @classmethod
    def fit(cls, section: HashEncoderSection, bits: int, sample: FitSample) -> Self:
        """Directions by the section's seed; the mean is that of the tiles."""
        assert isinstance(section, RandomProjection)
        dim = sample.tiles.shape[1]
        blocks = []
        for number in range(-(-bits // dim)):
            rotation = faiss.RandomRotationMatrix(dim, dim)
            rotation.init(section.seed + number)
            blocks.append(faiss.vector_to_array(rotation.A).reshape(dim, dim))
        mean = sample.tiles.mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(section, np.concatenate(blocks)[:bits].astype(np.float32), mean)
