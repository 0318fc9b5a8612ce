"""Similarity of embeddings whose heading is unknown: the best of all whole-column turns, differentiable."""

from __future__ import annotations

import torch


def turned_similarity(queries: torch.Tensor, references: torch.Tensor, columns: int) -> torch.Tensor:
    """Cosines float[N, M, columns] of queries [N, D] turned by every number of columns, with references [M, D].

    Embeddings are unit vectors of [channels, columns] flattened. Entry s is the cosine of the query rolled to the
    right by s columns with the reference: computed for all turns at once by the correlation theorem.

    Convention: columns are azimuth to the right; where entry s is the largest, the query's middle looks along
    s / columns * 360 degrees, clockwise from the reference's middle.
    """
    query = torch.fft.rfft(queries.float().view(len(queries), -1, columns))
    reference = torch.fft.rfft(references.float().view(len(references), -1, columns))
    product = torch.einsum("ncf,mcf->nmf", query.conj(), reference)
    cosines: torch.Tensor = torch.fft.irfft(product, n=columns)
    return cosines


def best_turn_similarity(queries: torch.Tensor, references: torch.Tensor, columns: int) -> torch.Tensor:
    """The largest of the turned cosines, float[N, M]; its gradient is that of the best turn."""
    return turned_similarity(queries, references, columns).amax(-1)
