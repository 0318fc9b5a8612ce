"""Recall on held-out pairs, right after training."""

from __future__ import annotations

import numpy as np

from geoloc.evaluation.ranking.ranks import score_ranks
from geoloc.models.encoder import Encoder
from geoloc.training.pair_store import load_pairs, read_index

_RANKS = (1, 5, 10)


def validation_recall(model_uri: str, pairs_uri: str) -> dict[str, float]:
    """Share of photos (percent) whose own tile is among the first 1, 5, 10 of all tiles of the ingest output.

    By float embeddings and known headings; a tile that is exactly as similar as the right one counts as half
    before it. Keys: `validation_pairs`, `validation_recall_1`, ...
    """
    encoder = Encoder.open(model_uri)
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
    recalls = {f"validation_recall_{k}": round(float((ranks < k + 1).mean() * 100), 2) for k in _RANKS}
    return {"validation_pairs": float(len(photos)), **recalls}
