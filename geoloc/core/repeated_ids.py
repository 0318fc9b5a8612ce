"""Which ids of a long list are there more than once, without holding the ids."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

import numpy as np

from geoloc.core.arrays import BoolArray

_PIECE = 2**14  # hashes that are looked at at once
_SLICES = 16  # of the range of hashes; one of them is sorted at a time


class RepeatedIds:
    """The places (0, 1, ...) in a list whose id may be there more than once; all others are there once.

    Ids are compared by hashes of 64 bits that differ from process to process, so an id may be named without need, never
    the other way round. Memory: 9 bytes an id while the object is made, then 8 bytes for each place.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        hashes = array("q", map(hash, ids))
        self._places = array("q")
        pieces = [
            np.frombuffer(hashes, np.int64)[first : first + _PIECE] for first in range(0, len(hashes), _PIECE)
        ]
        twice = [_twice(pieces, number) for number in range(_SLICES)]
        found = np.concatenate(twice) if pieces else np.empty(0, np.int64)
        if len(found):
            for number, piece in enumerate(pieces):
                self._places.extend((np.flatnonzero(np.isin(piece, found)) + number * _PIECE).tolist())

    def __contains__(self, place: int) -> bool:
        there = bisect_left(self._places, place)
        return there < len(self._places) and self._places[there] == place


def _twice(pieces: list[np.ndarray], number: int) -> np.ndarray:
    """Hashes int64[M] of one slice that occur more than once."""
    chosen = np.concatenate([piece[_of_slice(piece, number)] for piece in pieces] or [np.empty(0, np.int64)])
    chosen.sort()
    return np.unique(chosen[1:][chosen[1:] == chosen[:-1]])


def _of_slice(hashes: np.ndarray, number: int) -> BoolArray:
    return np.asarray((hashes & (_SLICES - 1)) == number)
