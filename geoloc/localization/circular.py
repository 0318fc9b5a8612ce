"""Photos of unknown heading against references, by circular correlation along the azimuth columns.

An embedding of a model that keeps the azimuth is [channels, columns]; turning the camera rolls the columns. All
turns are scored at once by the correlation theorem, on embeddings and on codes laid out by columns. Magnitudes of
the spectrum do not change with the turn: their product bounds the best score from above, which makes a first
stage that needs no heading, and says when its shortlist was long enough.

Convention: azimuth grows to the right. Turn s means the query rolled to the right by s columns; where it is the
best, the query's middle looks along s / columns * 360 degrees, clockwise from the reference's middle (north).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from geoloc.errors import ConfigError

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

_Number = TypeVar("_Number", bound=np.generic)
_Real = TypeVar("_Real", np.float32, np.float64)

_UPSAMPLING = 8  # of the scores' circle before a parabola is laid through the peak
_CHUNK = 4096  # references whose scores are held at once
_TOLERANCE = 1e-5  # of float32 products of unit vectors


@dataclass(frozen=True)
class TurnedMatches:
    """The k best references of each query at their best turn.

    rows: int64[Q, k], score: float32[Q, k] (cosines, best first), heading_deg: float64[Q, k] in 0..360.
    `certain` bool[Q]: no reference outside the shortlist can be better than the k-th match.
    """

    rows: npt.NDArray[np.int64]
    score: Floats
    heading_deg: npt.NDArray[np.float64]
    certain: npt.NDArray[np.bool_]


def turn_scores(
    queries: Floats, references: Floats, columns: int, *, visible: npt.NDArray[np.bool_] | None = None
) -> Floats:
    """Cosine of every query with every reference at every turn, float32[Q, N, columns].

    `queries` [Q, D], `references` [N, D] are unit vectors of [channels, columns]. `visible` bool[Q, columns] are
    the columns that a photo of limited view shows: then only they are compared, and each score is the cosine of
    that part. Raises `ConfigError` when columns do not divide D.
    """
    query, reference = _by_column(queries, columns), _by_column(references, columns)
    if visible is not None:
        query = query * visible[:, None]
    product = _correlate(query, reference)
    if visible is None:
        return product
    energy = np.square(reference).sum(1, keepdims=True)
    covered = _correlate(visible[:, None].astype(np.float32), energy)
    length = np.linalg.norm(query.reshape(len(query), -1), axis=1)[:, None, None]
    norm = length * np.sqrt(np.maximum(covered, 0))
    return np.where(norm > _TOLERANCE, product / np.maximum(norm, _TOLERANCE), 0).astype(np.float32)


def code_distances(queries: Codes, references: Codes, columns: int) -> npt.NDArray[np.int32]:
    """Hamming distance of every query's code at every turn, int32[Q, N, columns], exact.

    Codes uint8[Q, B], uint8[N, B] of `hash.layout` columns (bit b of column c at b * columns + c). Raises
    `ConfigError` when columns do not divide the bits.
    """
    signs = [
        _by_column(np.unpackbits(codes, axis=-1).astype(np.float32) * 2 - 1, columns)
        for codes in (queries, references)
    ]
    bits = queries.shape[1] * 8
    # float64: sums of up to 4,096 products of +-1 are then integers to far below a half.
    agreeing = _correlate(signs[0].astype(np.float64), signs[1].astype(np.float64))
    distances: npt.NDArray[np.int32] = np.rint((bits - agreeing) / 2).astype(np.int32)
    return distances


def turned_codes(codes: Codes, columns: int) -> Codes:
    """Codes uint8[Q, B] of layout `columns` at every turn, uint8[Q, columns, B]: heading candidates for an index."""
    bits = _by_column(np.unpackbits(codes, axis=-1), columns)
    turned = np.stack([np.roll(bits, turn, axis=-1) for turn in range(columns)], axis=1)
    return np.packbits(turned.reshape(len(codes), columns, -1), axis=-1)


def turn_spectrum(embeddings: Floats, columns: int) -> Floats:
    """Magnitudes of the columns' spectrum, float32[N, channels * (columns // 2 + 1)], the same for every turn.

    Scaled so that the product of two spectra is at least the product of the embeddings at any turn (triangle
    inequality over the frequencies), and the spectrum of a unit vector is a unit vector.
    """
    spectrum = np.abs(np.fft.rfft(_by_column(embeddings, columns)))
    weight = np.full(spectrum.shape[-1], 2.0)  # every frequency stands for itself and its negative,
    weight[0] = 1.0  # but the mean
    if columns % 2 == 0:
        weight[-1] = 1.0  # and the alternation of neighbours
    scaled = spectrum * np.sqrt(weight / columns)
    return scaled.reshape(len(embeddings), scaled.shape[1] * scaled.shape[2]).astype(np.float32)


def refine_peak(scores: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Height and place in columns of the largest score of [..., columns], between the columns too.

    The scores are interpolated without adding frequencies, then a parabola is laid through the highest sample and
    its neighbours.
    """
    columns = scores.shape[-1]
    spectrum = np.fft.rfft(np.asarray(scores, dtype=np.float64))
    if columns % 2 == 0:
        spectrum[..., -1] /= 2  # the alternation belongs half to its negative, which the finer circle has too
    fine = np.fft.irfft(spectrum, n=columns * _UPSAMPLING) * _UPSAMPLING
    peak = fine.argmax(-1)

    def at(place: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.take_along_axis(fine, place[..., None] % fine.shape[-1], axis=-1)[..., 0]

    left, top, right = at(peak - 1), at(peak), at(peak + 1)
    bend = left - 2 * top + right
    shift = np.where(bend < 0, (left - right) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    height = top - (left - right) * shift / 4
    return height, (peak + shift) / _UPSAMPLING % columns


def pair_headings(queries: Floats, references: Floats, columns: int) -> npt.NDArray[np.float64]:
    """Heading in degrees (0 to 360) of each query's middle against the reference of the same row, float64[N]."""
    query, reference = _by_column(queries, columns), _by_column(references, columns)
    product = np.conj(np.fft.rfft(query)) * np.fft.rfft(reference)
    scores = np.fft.irfft(product.sum(1), n=columns)
    return refine_peak(scores)[1] * (360.0 / columns)


def search_any_heading(
    queries: Floats,
    references: Floats,
    columns: int,
    *,
    k: int = 10,
    shortlist: int = 200,
    visible: npt.NDArray[np.bool_] | None = None,
) -> TurnedMatches:
    """The k best references of each query at any heading: spectra first, all turns of the shortlist after.

    Never holds more than `_CHUNK` references' scores beside the shortlists. With `visible` (a limited view, see
    `turn_scores`) the first stage takes the seen part, and nothing is said to be certain. Raises `ConfigError`
    unless 1 <= k <= shortlist.
    """
    if not 1 <= k <= shortlist:
        raise ConfigError(f"k is {k} and the shortlist {shortlist}; give 1 <= k <= shortlist.")
    seen = queries
    if visible is not None:
        seen = (_by_column(queries, columns) * visible[:, None]).reshape(queries.shape)
    length = min(shortlist, len(references))
    rows, outside = _by_spectrum(seen, references, columns, length)
    kept = min(k, length)
    best = np.empty((len(queries), kept), dtype=np.int64)
    score = np.empty((len(queries), kept), dtype=np.float32)
    heading_deg = np.empty((len(queries), kept), dtype=np.float64)
    for query, listed in enumerate(rows):
        shown = None if visible is None else visible[query : query + 1]
        turns = turn_scores(queries[query : query + 1], references[listed], columns, visible=shown)[0]
        order = np.lexsort((listed, -turns.max(-1)))[:kept]
        best[query], score[query] = listed[order], turns[order].max(-1)
        heading_deg[query] = refine_peak(turns[order])[1] * (360.0 / columns)
    last = score[:, -1] if kept == k else np.full(len(queries), -np.inf)
    certain = (last >= outside + _TOLERANCE) | (length == len(references))
    if visible is not None:
        certain = np.zeros(len(queries), dtype=bool)
    return TurnedMatches(best, score, heading_deg, certain)


def _by_spectrum(
    queries: Floats, references: Floats, columns: int, length: int
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Rows int64[Q, length] of the largest bounds, and the largest bound [Q] among the others."""
    query = turn_spectrum(queries, columns)
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    bounds = np.zeros((len(queries), 0), dtype=np.float32)
    outside = np.full(len(queries), -np.inf, dtype=np.float32)
    for start in range(0, len(references), _CHUNK):
        part = query @ turn_spectrum(references[start : start + _CHUNK], columns).T
        numbers = np.arange(start, start + part.shape[1])
        bounds = np.concatenate([bounds, part], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(numbers, part.shape)], axis=1)
        if bounds.shape[1] > length:
            order = np.argsort(-bounds, axis=1, kind="stable")
            beyond = np.take_along_axis(bounds, order[:, length : length + 1], axis=1)[:, 0]
            outside = np.maximum(outside, beyond)
            bounds = np.take_along_axis(bounds, order[:, :length], axis=1)
            rows = np.take_along_axis(rows, order[:, :length], axis=1)
    return rows, outside


def _by_column(values: npt.NDArray[_Number], columns: int) -> npt.NDArray[_Number]:
    """[N, D] as [N, D // columns, columns]."""
    if columns < 1 or values.shape[-1] % columns:
        raise ConfigError(
            f"{values.shape[-1]} values do not divide into {columns} columns; give the model's own."
        )
    return values.reshape(len(values), values.shape[-1] // columns, columns)


def _correlate(queries: npt.NDArray[_Real], references: npt.NDArray[_Real]) -> npt.NDArray[_Real]:
    """Products [Q, N, W] of [Q, C, W] rolled to the right by every number of columns with [N, C, W]."""
    query = np.conj(np.fft.rfft(queries)).transpose(2, 0, 1)
    reference = np.fft.rfft(references).transpose(2, 1, 0)
    product = np.fft.irfft((query @ reference).transpose(1, 2, 0), n=queries.shape[-1])
    return product.astype(queries.dtype, copy=False)
