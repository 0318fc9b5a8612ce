"""Similarity of embeddings that keep azimuth columns, over the columns that a photo shows.

An embedding is [channels, columns] flattened to D values. Where it rolls with its photo, one embedding holds the
photo at every turn. A photo that covers part of the circle is compared over the columns that it shows: a score is
the cosine of that part.

Convention: azimuth grows to the right. At turn s the query is rolled to the right by s columns. Where turn s of S
scores best, the middle of the query looks along s / S * 360 degrees, clockwise from the reference's middle (north).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray, IntArray
from geoloc.core.errors import ConfigError

if TYPE_CHECKING:  # searching compares arrays, and needs no torch for it
    import torch

_SHOWN_SHARE = 0.5  # of a column's pixels: with fewer, more of the column is black than picture
_SMALLEST_ENERGY = 1e-12  # squared length of a part of a unit vector that still has a direction
_SMALLEST_CORRELATED = 1e-6  # the same in float32 sums of a correlation; it bounds the gradients too
_UPSAMPLING = 8  # of the circle of scores before a parabola is fitted to the peak

Array = TypeVar("Array", FloatArray, Float32Array, "torch.Tensor")


def shown_columns(shown_px: torch.Tensor, columns: int) -> torch.Tensor:
    """Which azimuth columns a canvas shows, bool[N, columns], from its pixel columns `shown_px` bool[N, W].

    A column is shown when at least half of its pixels are. A view narrower than that keeps its fullest column.
    """
    share = shown_px.float().view(len(shown_px), columns, -1).mean(-1)
    return share >= share.amax(1, keepdim=True).clip(max=_SHOWN_SHARE)


def shown_of_candidates(shown: BoolArray, candidates: int) -> BoolArray:
    """The columns that every heading candidate shows, bool[N, R, columns], from those of candidate 0.

    Convention: candidate r is candidate 0 rolled to the right by r / R of a circle.
    """
    rolls = np.arange(candidates) * shown.shape[1] // candidates
    return np.stack([np.roll(shown, roll, axis=1) for roll in rolls], axis=1)


def column_energy(values: Array, columns: int) -> Array:
    """Sum of squares of each azimuth column, [..., columns], of embeddings [..., D].

    Raises `ConfigError` when the columns do not divide D.
    """
    by_column = _by_column(values, columns)
    energy: Array = (by_column * by_column).sum(-2)
    return energy


def cosine_of_part(
    product: Array, query_energy: Array, reference_energy: Array, smallest: float = _SMALLEST_ENERGY
) -> Array:
    """Cosines from dot products of parts and the energies of both parts, elementwise.

    Energies below `smallest` count as that: the cosine of an empty part is about 0.
    """
    energy = query_energy.clip(smallest) * reference_energy.clip(smallest)
    length: Any = np.sqrt(energy) if isinstance(energy, np.ndarray | np.generic) else energy.sqrt()
    cosine: Array = product / length
    return cosine


def keep_shown(embedding: Float32Array, shown: BoolArray) -> tuple[Float32Array, BoolArray]:
    """Heading candidates float32[N, R, D] with hidden columns set to zero, of length 1 again.

    `shown` bool[N, columns] are the columns of candidate 0. A photo of the whole circle stays as it is. Returns the
    columns of every candidate too, bool[N, R, columns].
    """
    masks = shown_of_candidates(shown, embedding.shape[1])
    part = (_by_column(embedding, shown.shape[1]) * masks[:, :, None]).reshape(embedding.shape)
    whole = np.asarray(shown.all(axis=1))[:, None, None]
    return np.where(whole, embedding, _unit(part)).astype(np.float32), masks


def similarity(
    queries: torch.Tensor, references: torch.Tensor, columns: int, shown: torch.Tensor | None = None
) -> torch.Tensor:
    """Cosines float[N, M] of unit embeddings [N, D] and [M, D] that are not turned.

    `shown` bool[N, columns] are the columns of each query that are compared (None: all).
    """
    if shown is None:
        return queries @ references.T
    query = (_by_column(queries.float(), columns) * shown[:, None]).flatten(1)
    covered = shown.float() @ column_energy(references.float(), columns).T
    energy = query.square().sum(1, keepdim=True)
    return cosine_of_part(query @ references.float().T, energy, covered, _SMALLEST_CORRELATED)


def turned_similarity(
    queries: torch.Tensor, references: torch.Tensor, columns: int, shown: torch.Tensor | None = None
) -> torch.Tensor:
    """Cosines float[N, M, columns] of unit queries [N, D], at every turn, with unit references [M, D].

    The correlation theorem gives all turns at once. `shown` bool[N, columns] are the columns of each query that are
    compared (None: all). Raises `ConfigError` when the columns do not divide D.
    """
    query, reference = _by_column(queries.float(), columns), _by_column(references.float(), columns)
    if shown is None:
        return _correlate(query, reference)
    query = query * shown[:, None]
    covered = _correlate(shown[:, None].float(), column_energy(references.float(), columns)[:, None])
    energy: torch.Tensor = query.flatten(1).norm(dim=1).square()
    product = _correlate(query, reference)
    return cosine_of_part(product, energy[:, None, None], covered, _SMALLEST_CORRELATED)


def best_turn_similarity(
    queries: torch.Tensor, references: torch.Tensor, columns: int, shown: torch.Tensor | None = None
) -> torch.Tensor:
    """The largest of the turned cosines, float[N, M]; its gradient is that of the best turn."""
    return turned_similarity(queries, references, columns, shown).amax(-1)


class TurnedPhoto:
    """One photo at every turn, or as it is where its heading is known, to compare with stored embeddings.

    `embedding` float32[R, D]: R heading candidates. Candidates that are whole columns apart are rolls of each other;
    the others lie between the columns, so there are lcm(R, columns) turns. R = 1 is a known heading. `shown`
    bool[columns]: the columns that candidate 0 shows (None: all). `sector` bool[R]: the candidates that come into
    question (None: all); a turn between two candidates goes with the nearer. Sums are float64 and rounded once, as
    the index's.
    """

    def __init__(
        self,
        embedding: Float32Array,
        columns: int,
        shown: BoolArray | None = None,
        sector: BoolArray | None = None,
    ) -> None:
        candidates = len(embedding)
        self.turns = 1 if candidates == 1 else math.lcm(candidates, columns)
        self._columns = columns
        self._looks = _at_turns(embedding.astype(np.float64), columns, self.turns)
        self._masks: FloatArray | None = None
        self._sector: BoolArray | None = None
        if sector is not None and not sector.all():
            nearest = np.rint(np.arange(self.turns) * candidates / self.turns).astype(np.int64) % candidates
            self._sector = sector[nearest]
        if shown is not None and not shown.all():
            mask = np.broadcast_to(shown.astype(np.float64), (candidates, columns))
            self._masks = _at_turns(mask, columns, self.turns)
            part = _by_column(self._looks, columns) * self._masks[:, None]
            self._looks = _unit(part.reshape(self._looks.shape))

    def scores(self, stored: npt.NDArray[np.floating]) -> Float32Array:
        """Cosines float32[M, turns] with unit embeddings [M, D], over the columns that the photo shows."""
        wide: FloatArray = stored.astype(np.float64)
        product = wide @ self._looks.T
        if self._masks is not None:
            covered = column_energy(wide, self._columns) @ self._masks.T
            product = cosine_of_part(product, np.ones(1), covered)
        return np.asarray(product, dtype=np.float32)

    def best(self, stored: npt.NDArray[np.floating]) -> Float32Array:
        """Cosines at the best turn of the sector, float32[M]."""
        scores = self.scores(stored)
        return np.asarray((scores if self._sector is None else scores[:, self._sector]).max(axis=1))

    def heading_deg(self, stored: npt.NDArray[np.floating]) -> FloatArray:
        """Heading of the photo's middle that matches each embedding [M, D] best, in degrees: float64[M]."""
        scores = self.scores(stored)
        if self._sector is None:
            return refine_peak(scores)[1] * (360.0 / self.turns)
        best = np.where(self._sector, scores, -np.inf).argmax(axis=1)
        turn = (best + _peak_shift(scores, best)) % self.turns
        return np.asarray(turn * (360.0 / self.turns), dtype=np.float64)


def refine_peak(scores: npt.NDArray[np.floating]) -> tuple[FloatArray, FloatArray]:
    """Height and place, in columns, of the largest of scores [..., columns], between the columns too.

    The scores are interpolated without adding frequencies. A parabola then goes through the highest sample and its
    neighbours.
    """
    columns = scores.shape[-1]
    spectrum = np.fft.rfft(np.asarray(scores, dtype=np.float64))
    if columns % 2 == 0:
        spectrum[..., -1] /= 2  # the finer circle has the alternation's negative too: half belongs to it
    fine = np.fft.irfft(spectrum, n=columns * _UPSAMPLING) * _UPSAMPLING
    peak = fine.argmax(-1)

    def at(place: IntArray) -> FloatArray:
        return np.take_along_axis(fine, place[..., None] % fine.shape[-1], axis=-1)[..., 0]

    left, top, right = at(peak - 1), at(peak), at(peak + 1)
    bend = left - 2 * top + right
    shift = np.where(bend < 0, (left - right) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    height = top - (left - right) * shift / 4
    return height, (peak + shift) / _UPSAMPLING % columns


def _peak_shift(scores: Float32Array, best: IntArray) -> FloatArray:
    """Columns, -0.5 to 0.5, from `best` int64[M] of scores [M, turns] to the peak of a parabola: float64[M]."""
    rows, turns = np.arange(len(scores)), scores.shape[1]
    left, top, right = (scores[rows, (best + step) % turns].astype(np.float64) for step in (-1, 0, 1))
    bend = left - 2 * top + right
    shift = np.where(bend < 0, (left - right) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    return np.asarray(shift.clip(-0.5, 0.5), dtype=np.float64)


def _by_column(values: Array, columns: int) -> Array:
    """[..., D] as [..., D // columns, columns]."""
    if columns < 1 or values.shape[-1] % columns:
        raise ConfigError(
            f"{values.shape[-1]} values do not divide into {columns} columns; give the model's own."
        )
    by_column: Array = values.reshape(*values.shape[:-1], values.shape[-1] // columns, columns)
    return by_column


def _correlate(queries: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Products [N, M, W] of [N, C, W], rolled to the right by every number of columns, with [M, C, W]."""
    import torch

    product = torch.einsum("ncf,mcf->nmf", torch.fft.rfft(queries).conj(), torch.fft.rfft(references))
    turns: torch.Tensor = torch.fft.irfft(product, n=queries.shape[-1])
    return turns


def _unit(vectors: Array) -> Array:
    """Vectors [..., D] scaled to length 1; those without a direction become about 0."""
    energy = (vectors * vectors).sum(-1)[..., None]
    return cosine_of_part(vectors, energy, energy.clip(1.0, 1.0))


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
