"""Principal components fitted on blocks of a gallery, and distances after that projection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import AnyArray, Float32Array, FloatArray
from geoloc.core.errors import InputError
from geoloc.evaluation.ranking.blockwise_scores import Blocks, Cosine, gallery_blocks


@dataclass(frozen=True)
class Projection:
    """Centring and the first components: mean float64[D], components float64[D, C] (orthonormal columns)."""

    mean: FloatArray
    components: FloatArray

    @property
    def dimensions(self) -> int:
        """Components kept."""
        return int(self.components.shape[1])

    def apply(self, rows: AnyArray) -> Float32Array:
        """Embeddings [..., D] as float32[..., C]."""
        centred = np.asarray(rows, dtype=np.float32) - self.mean.astype(np.float32)
        return np.asarray(centred @ self.components.astype(np.float32), dtype=np.float32)


def fit_projection(gallery: Blocks, dimensions: int) -> Projection:
    """The first `dimensions` principal components of a gallery's embeddings, by a covariance summed over blocks.

    Memory: one block and two matrices float64[D, D], whatever the gallery's size. Components are fewer where the
    embeddings have fewer dimensions, or the gallery fewer items. Raises `InputError` for an empty gallery.
    """
    count, total, products = 0, None, None
    for _, block in gallery_blocks(gallery):
        rows = block.reshape(-1, block.shape[-1]).astype(np.float64)
        if total is None or products is None:
            total, products = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
        count += len(rows)
        total += rows.sum(axis=0)
        products += rows.T @ rows
    if total is None or products is None:
        raise InputError("The gallery has no embeddings to fit components on; encode with embeddings.")
    mean = total / count
    _, vectors = np.linalg.eigh(products / count - np.outer(mean, mean))
    kept = min(dimensions, len(mean), count)
    return Projection(mean, np.ascontiguousarray(vectors[:, ::-1][:, :kept]))


class ProjectedDistance(Cosine):
    """Minus half the squared Euclidean distance after a projection: its order is that of the distance."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    def prepare(self, rows: AnyArray, *, query: bool) -> AnyArray:
        """Embeddings [n, R, D] as float32[n, R, C + 2], whose dot products are the scores."""
        values = self._projection.apply(rows)
        half = -0.5 * np.square(values).sum(axis=-1, keepdims=True, dtype=np.float32)
        extra = (np.ones_like(half), half) if query else (half, np.ones_like(half))
        return np.ascontiguousarray(np.concatenate([values, *extra], axis=-1))
