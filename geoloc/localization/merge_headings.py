"""Scores of matches, and merging the candidates of an unknown heading into one list of tiles a query."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.index.search.matches import Matches


def scores_of(matches: Matches, bits: int) -> FloatArray:
    """What matches are compared by, float64[Q, K]; NaN where there is no match.

    The cosine of the embeddings where it was computed, else the cosine estimated from the Hamming distance,
    cos(pi d / bits), which is exact in the mean for random hyperplanes.
    """
    estimate = np.cos(np.pi * matches.distance_bits / bits)
    scores = np.where(np.isfinite(matches.similarity), matches.similarity, estimate).astype(np.float64)
    return np.where((matches.rows >= 0), scores, np.nan)


def merge_candidates(matches: Matches, candidates: int, k: int, bits: int) -> tuple[Matches, IntArray]:
    """One list of k tiles a query from the lists of its heading candidates.

    `matches` holds Q * R rows, the R candidates of a query one after another. A tile that several candidates
    found stays once, with its best one. Returns the matches [Q, k] and the candidate of each, int64[Q, k].
    """
    queries, width = len(matches) // candidates, matches.rows.shape[1]
    flat = {
        field.name: getattr(matches, field.name).reshape(queries, candidates * width)
        for field in fields(matches)
        if field.name != "snapshot_id"
    }
    scores = scores_of(matches, bits).reshape(queries, -1)
    chosen = np.full((queries, k), -1, dtype=np.int64)
    for query in range(queries):
        columns = _best_of_each(flat["rows"][query], scores[query], flat["tile_ids"][query])[:k]
        chosen[query, : len(columns)] = columns
    taken = {name: np.take_along_axis(values, np.maximum(chosen, 0), axis=1) for name, values in flat.items()}
    for name, empty in _PADDING.items():
        taken[name][chosen < 0] = empty
    return Matches(snapshot_id=matches.snapshot_id, **taken), np.maximum(chosen, 0) // width


_PADDING = {
    "rows": -1,
    "tile_ids": None,
    "lat": np.nan,
    "lon": np.nan,
    "distance_bits": -1,
    "similarity": np.nan,
}


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
