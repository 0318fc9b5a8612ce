"""Photos against stored embeddings at every turn, and of a limited view only what it shows.

Where the embedding keeps azimuth columns and rolls with its photo, one embedding holds the photo at every heading:
the stored embeddings of a shortlist are compared with all rolled ones. Of a photo that covers part of the circle
the black columns of its canvas are left out, so that a score is the cosine of the part that is seen. Sums are
float64 and rounded to float32 once, as those of the index.

Convention: azimuth grows to the right; turn s of L looks along s * 360 / L degrees, clockwise from north.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray
from geoloc.localization.circular import refine_peak
from geoloc.recipe.model import PolarView
from geoloc.recipe.recipe import ModelRecipe

_LEAST_LIT = 0.5  # of a column's pixels: below, more of it is black than picture
_SHORTEST = 1e-6  # length of a part of unit vectors that still has a direction


def turning_columns(recipe: ModelRecipe, view: str) -> int:
    """Azimuth columns of an embedding that roll as a photo of this view turns; 1 where turning is no rolling."""
    rolls = view != "drone" or isinstance(recipe.view, PolarView)  # photos from above are converted first
    return recipe.columns if recipe.turns_by_rolling and rolls else 1


def lit_columns(
    fov_deg: Sequence[float], heading_deg: Sequence[float | None], width_px: int, columns: int
) -> BoolArray | None:
    """Which columns of the model's canvas show at least half a picture, bool[N, columns]; None: all of all photos.

    As `prepare_panorama` lays photos out on `width_px` pixels: round(fov / 360 * W) of them about the middle, turned
    to north where the heading is known. A photo narrower than a column keeps the one that shows most of it.
    """
    if all(fov >= 360.0 for fov in fov_deg):
        return None
    lit = np.zeros((len(fov_deg), width_px))
    for row, (fov, heading) in enumerate(zip(fov_deg, heading_deg, strict=True)):
        kept = width_px if fov >= 360.0 else max(1, round(width_px * fov / 360))
        left = (width_px - kept) // 2
        lit[row, left : left + kept] = 1.0
        if heading is not None:
            lit[row] = np.roll(lit[row], round(heading / 360 * width_px))
    share = lit.reshape(len(lit), columns, -1).mean(axis=-1)
    return np.asarray(share >= np.minimum(share.max(axis=1, keepdims=True), _LEAST_LIT))


def lit_of_candidates(lit: BoolArray, candidates: int) -> BoolArray:
    """Lit columns bool[N, columns] of candidate 0 as all heading candidates have them, bool[N, R, columns]."""
    rolls = np.arange(candidates) * lit.shape[1] // candidates
    return np.stack([np.roll(lit, roll, axis=1) for roll in rolls], axis=1)


def only_lit(embedding: Float32Array, lit: BoolArray) -> tuple[Float32Array, BoolArray]:
    """Heading candidates float32[N, R, D] of photos of limited view with black columns zero, of length 1 again.

    lit: bool[N, columns], the columns that candidate 0 of each shows. A photo of the whole circle stays as it is.
    Returns the columns of every candidate too, bool[N, R, columns].
    """
    masks = lit_of_candidates(lit, embedding.shape[1])
    kept = embedding.reshape(*embedding.shape[:2], -1, lit.shape[1]) * masks[:, :, None]
    part = kept.reshape(embedding.shape)
    length = np.linalg.norm(part, axis=-1, keepdims=True)
    part = np.where(length > _SHORTEST, part / np.maximum(length, _SHORTEST), part)
    whole = np.asarray(lit.all(axis=1))[:, None, None]
    return np.where(whole, embedding, part).astype(np.float32), masks


class TurnedPhoto:
    """A photo at every turn, or as it is where its heading is known, to compare with stored embeddings.

    `embedding` float32[R, D]: R heading candidates, each [channels, columns] flattened. Those that are whole columns
    apart are each other's rolls; the rest lies between the columns, so there are lcm(R, columns) turns. R = 1 is a
    known heading. `lit` bool[columns]: the columns that candidate 0 shows, None for all of them.
    """

    def __init__(self, embedding: Float32Array, columns: int, lit: BoolArray | None = None) -> None:
        candidates = len(embedding)
        self.turns = 1 if candidates == 1 else math.lcm(candidates, columns)
        self._columns = columns
        self._looks = _at_turns(embedding.astype(np.float64), columns, self.turns)
        self._masks: FloatArray | None = None
        if lit is not None and not lit.all():
            mask = np.broadcast_to(lit.astype(np.float64), (candidates, columns))
            self._masks = _at_turns(mask, columns, self.turns)
            self._looks = (self._by_column(self._looks) * self._masks[:, None]).reshape(self._looks.shape)
            length = np.linalg.norm(self._looks, axis=1, keepdims=True)
            self._looks = np.where(length > _SHORTEST, self._looks / np.maximum(length, _SHORTEST), 0.0)

    def scores(self, stored: npt.NDArray[np.floating]) -> Float32Array:
        """Cosines float32[M, turns] with unit embeddings [M, D]; of a limited view those of the part it shows."""
        wide = stored.astype(np.float64)
        product = wide @ self._looks.T
        if self._masks is not None:
            energy = np.square(self._by_column(wide)).sum(axis=1)
            length = np.sqrt(np.maximum(energy @ self._masks.T, 0.0))
            product = np.where(length > _SHORTEST, product / np.maximum(length, _SHORTEST), 0.0)
        return np.asarray(product, dtype=np.float32)

    def best(self, stored: npt.NDArray[np.floating]) -> Float32Array:
        """Cosine at the best turn, float32[M]."""
        return np.asarray(self.scores(stored).max(axis=1))

    def heading_deg(self, stored: npt.NDArray[np.floating]) -> FloatArray:
        """Heading of the photo's middle that each embedding [M, D] speaks for, between the turns too: float64[M]."""
        return refine_peak(self.scores(stored))[1] * (360.0 / self.turns)

    def _by_column(self, values: FloatArray) -> FloatArray:
        return values.reshape(len(values), -1, self._columns)


def _at_turns(values: FloatArray, columns: int, turns: int) -> FloatArray:
    """R candidates [R, C * columns] at all turns, [turns, C * columns].

    Candidate r rolled by j columns is turn r * turns / R + j * turns / columns.
    """
    candidates = len(values)
    if turns == 1:
        return values
    apart, passes = turns // candidates, turns // columns
    by_column = values.reshape(candidates, -1, columns)
    out = np.empty((turns, values.shape[1]))
    for first in range(passes):
        for roll in range(columns):
            turned = np.roll(by_column[first], roll, axis=-1).reshape(-1)
            out[(first * apart + roll * passes) % turns] = turned
    return out
