"""Recall on held-out pairs, right after training."""

from __future__ import annotations

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.evaluation.ranking.ranks import score_ranks
from geoloc.models.encoder import Encoder
from geoloc.training.pair_store import load_pairs, read_index
from geoloc.training.place_store import load_places, read_places

_RANKS = (1, 5, 10)


def validation_recall(model_uri: str, pairs_uri: str) -> dict[str, float]:
    """Share of photos (percent) whose own tile is among the first 1, 5, 10 of all tiles of the ingest output.

    By float embeddings and known headings; a tile that is exactly as similar as the right one counts as half
    before it. Keys: `validation_pairs`, `validation_recall_1`, ...
    """
    encoder = Encoder.open(model_uri)
    if encoder.recipe.loss.places is not None:
        return _recall_of_places(encoder, pairs_uri)
    index = read_index(pairs_uri)
    store = load_pairs(pairs_uri, index, encoder.recipe)
    extent_m = store.tiles.shape[1] * encoder.recipe.model.metres_per_pixel
    tiles = encoder.encode(
        encoder.prepare(list(store.tiles), "aerial", extent_m=extent_m), "aerial"
    ).embedding
    photos = encoder.encode(store.panoramas, "panorama").embedding
    ranks = np.empty(len(photos))
    for start in range(0, len(photos), 256):  # never all photos against all tiles
        rows = np.arange(start, min(start + 256, len(photos)))
        similar = photos[rows] @ tiles.T
        ranks[rows] = score_ranks(similar, store.tile_of[rows]).expected_rank()
    return _recalls(ranks)


def _recall_of_places(encoder: Encoder, uri: str) -> dict[str, float]:
    """The same figures of the first wanted view of a recipe of places: photos whose own place's tile comes first."""
    store = load_places(uri, read_places(uri, encoder.recipe), encoder.recipe)
    extent_m = store.tiles.shape[1] * encoder.recipe.model.metres_per_pixel
    first = [rows[0] for rows in store.tile_rows]
    prepared = encoder.prepare(list(store.tiles[first]), "aerial", extent_m=extent_m)
    tiles = encoder.encode(prepared, "aerial").embedding
    view, of_place = next(iter(store.photo_rows.items()))
    ranks = [
        score_ranks(
            encoder.encode(store.photos[view][rows], view).embedding @ tiles.T,  # type: ignore[arg-type]
            np.full(len(rows), place, dtype=np.int64),
        ).expected_rank()
        for place, rows in enumerate(of_place)
    ]
    return _recalls(np.concatenate(ranks))


def _recalls(ranks: FloatArray) -> dict[str, float]:
    recalls = {f"validation_recall_{k}": round(float((ranks < k + 1).mean() * 100), 2) for k in _RANKS}
    return {"validation_pairs": float(len(ranks)), **recalls}
