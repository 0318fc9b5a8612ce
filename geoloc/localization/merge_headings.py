"""Merging the matches of a photo's heading candidates into one list of tiles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.index.search.matches import Matches


def merge_candidates(matches: Matches, candidates: int, k: int, bits: int) -> tuple[Matches, IntArray]:
    """Merge the lists of each query's heading candidates into one list of k tiles.

    `matches` holds Q * R rows, the R candidates of a query one after another. A tile in the lists of several
    candidates stays once, with its best candidate. Returns the matches [Q, k] and the candidate of each, int64[Q, k].
    """
    lists = matches.grouped(candidates)
    scores = lists.scores(bits)
    chosen = np.full((len(lists), k), -1, dtype=np.int64)
    for query in range(len(lists)):
        columns = _best_of_each(lists.rows[query], scores[query], lists.tile_ids[query])[:k]
        chosen[query, : len(columns)] = columns
    return lists.take(chosen), np.maximum(chosen, 0) // matches.width


def _best_of_each(rows: IntArray, scores: FloatArray, tile_ids: npt.NDArray[np.object_]) -> IntArray:
    """Columns of the best entry of each tile, best first; ties in order of the tile ids, then of candidates."""
    order = np.argsort(-scores, kind="stable")
    order = order[rows[order] >= 0]
    _, first = np.unique(rows[order], return_index=True)
    kept = order[np.sort(first)]
    return np.array(sorted(kept, key=lambda column: (-scores[column], tile_ids[column])), dtype=np.int64)


def candidate_heading_deg(candidate: int, candidates: int) -> float:
    """Heading in degrees of a candidate. Convention: candidate r looks along r * 360 / R, clockwise from north."""
    return candidate * 360.0 / candidates
