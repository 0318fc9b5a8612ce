"""Sanity gates: what makes a beautiful figure worthless is refused, or said out loud beside it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from geoloc.errors import InputError

_CONSTANT = 1e-5
_SIGMAS = 3.0


def check_embeddings(embeddings: npt.NDArray[np.float32], what: str) -> None:
    """Refuse embeddings float32[N, D] that are not finite, not of length 1 or all the same, with `InputError`."""
    values = embeddings.astype(np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise InputError(
            f"{bad} of {len(values)} embeddings of {what} hold NaN or infinity; the model is broken: train again.",
            reason="embedding_not_finite",
        )
    lengths = np.linalg.norm(values, axis=1)
    if len(values) and np.abs(lengths - 1.0).max() > 0.01:
        raise InputError(
            f"Embeddings of {what} have lengths from {lengths.min():.3g} to {lengths.max():.3g} instead of 1; "
            "encode again with this version.",
            reason="embedding_not_normalised",
        )
    if len(values) > 1 and float(values.std(axis=0).max()) < _CONSTANT:
        raise InputError(
            f"All {len(values)} embeddings of {what} are the same; the model has collapsed: train again.",
            reason="embedding_constant",
        )


def check_overlap(trained: set[str], evaluated: set[str], what: str) -> None:
    """Refuse an evaluation on ids that the model was trained with, with `InputError`."""
    if shared := trained & evaluated:
        raise InputError(
            f"{len(shared)} of {len(evaluated)} {what} of the evaluation were trained on (such as "
            f"{min(shared)!r}); evaluate on a held-out district.",
            reason="train_test_overlap",
        )


def findings(recall_at_1: float, chance_at_1: float, queries: int, *, without_tile: int = 0) -> list[str]:
    """Sentences about results that need a warning beside them: recalls in percent over `queries`."""
    said = []
    share = min(max(chance_at_1 / 100.0, 0.0), 1.0)
    noise = 100.0 * math.sqrt(max(share * (1.0 - share), 1e-12) / max(queries, 1))
    if recall_at_1 <= chance_at_1 + _SIGMAS * noise:
        said.append(
            f"R@1 of the float embeddings is {recall_at_1:.2f} %, no better than chance ({chance_at_1:.2f} %): the "
            "model does not know this area, or photos and tiles do not belong together."
        )
    if without_tile:
        said.append(
            f"{without_tile} of {queries} queries have no true tile in the index; they count as misses. Index the "
            "area that the photos were taken in."
        )
    return said
