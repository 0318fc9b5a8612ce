"""Similarity of embeddings that keep azimuth columns: at every turn, at the best one, of a limited view's part.

Embeddings are unit vectors of [channels, columns] flattened. Convention: columns are azimuth to the right; turn s
means the query rolled to the right by s columns. Where it is the best one, the query's middle looks along
s / columns * 360 degrees, clockwise from the reference's middle.
"""

from __future__ import annotations

import torch

_SMALLEST_ENERGY = 1e-6  # of a unit vector's seen part: below it there is nothing to compare


def turned_similarity(
    queries: torch.Tensor, references: torch.Tensor, columns: int, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Cosines float[N, M, columns] of queries [N, D] turned by every number of columns, with references [M, D].

    Computed for all turns at once by the correlation theorem. `visible` bool[N, columns] are the columns that a
    query of limited view shows: only they are compared, and each entry is the cosine of that part.
    """
    query, reference = _by_column(queries, columns), _by_column(references, columns)
    if visible is None:
        return _correlate(query, reference)
    query = query * visible[:, None]
    covered = _correlate(visible[:, None].float(), reference.square().sum(1, keepdim=True))
    length = query.flatten(1).norm(dim=1)[:, None, None]
    return _correlate(query, reference) / _length_of(length.square(), covered)


def part_similarity(
    queries: torch.Tensor, references: torch.Tensor, columns: int, visible: torch.Tensor
) -> torch.Tensor:
    """Cosines float[N, M] over the columns that each query shows (`visible` bool[N, columns]), not turned."""
    seen = visible[:, None].float()
    query = (_by_column(queries, columns) * seen).flatten(1)
    energy = _by_column(references, columns).square().sum(1)
    covered = visible.float() @ energy.T
    return query @ references.float().T / _length_of(query.square().sum(1, keepdim=True), covered)


def best_turn_similarity(
    queries: torch.Tensor, references: torch.Tensor, columns: int, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """The largest of the turned cosines, float[N, M]; its gradient is that of the best turn."""
    return turned_similarity(queries, references, columns, visible).amax(-1)


def _by_column(values: torch.Tensor, columns: int) -> torch.Tensor:
    return values.float().view(len(values), -1, columns)


def _correlate(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Products [N, M, W] of [N, C, W] rolled to the right by every number of columns with [M, C, W]."""
    product = torch.einsum("ncf,mcf->nmf", torch.fft.rfft(queries).conj(), torch.fft.rfft(references))
    turns: torch.Tensor = torch.fft.irfft(product, n=queries.shape[-1])
    return turns


def _length_of(query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Product of two lengths from their squares, kept away from zero."""
    return (query.clamp(min=_SMALLEST_ENERGY) * reference.clamp(min=_SMALLEST_ENERGY)).sqrt()
