"""Recall on held-out pairs, right after training."""

from __future__ import annotations

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.evaluation.ranking.ranks import score_ranks
from geoloc.models.encoder import Encoder
from geoloc.recipe.recipe import Recipe
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, encode_tiles, load_pairs
from geoloc.training.place_store import PlaceStore, load_places, read_places

_RANKS = (1, 5, 10)


class HeldOut:
    """Held-out pairs (or places) with their pictures, for recall of any state of a model.

    Memory: as `load_pairs` or `load_places`.
    """

    def __init__(self, uri: str, recipe: Recipe) -> None:
        if recipe.loss.places is not None:
            self._store: PairStore | PlaceStore = load_places(uri, read_places(uri, recipe), recipe)
        else:
            self._store = load_pairs(uri, read_index(uri), recipe)

    def recalls(self, encoder: Encoder) -> dict[str, float]:
        """Share of photos (percent) whose own tile is among the first 1, 5, 10 of all tiles of the ingest output.

        By float embeddings and known headings; a tile that is exactly as similar as the right one counts as half
        before it. Keys: `validation_pairs`, `validation_recall_1`, ...
        """
        if isinstance(self._store, PlaceStore):
            return _recall_of_places(encoder, self._store)
        tiles = encode_tiles(encoder, self._store).embedding
        photos = encoder.encode(self._store.panoramas, "panorama").embedding
        ranks = np.empty(len(photos))
        for start in range(0, len(photos), 256):  # never all photos against all tiles
            rows = np.arange(start, min(start + 256, len(photos)))
            similar = photos[rows] @ tiles.T
            ranks[rows] = score_ranks(similar, self._store.tile_of[rows]).expected_rank()
        return _recalls(ranks)


def validation_recall(model_uri: str, pairs_uri: str) -> dict[str, float]:
    """`HeldOut.recalls` of a trained model on the pairs of an ingest output."""
    encoder = Encoder.open(model_uri)
    return HeldOut(pairs_uri, encoder.recipe).recalls(encoder)


def _recall_of_places(encoder: Encoder, store: PlaceStore) -> dict[str, float]:
    """The same figures of the first wanted view of a recipe of places: photos whose own place's tile comes first."""
    extent_m = store.tiles.shape[1] * encoder.recipe.model.metres_per_pixel
    places = store.index.tiles
    prepared = encoder.prepare(
        list(store.tiles[places.number[places.start[:-1]]]), "aerial", extent_m=extent_m
    )
    tiles = encoder.encode(prepared, "aerial").embedding
    view, photos = next(iter(store.index.photos.items()))
    ranks = []
    for place in range(len(store)):
        numbers = photos.of(place)
        embedding = encoder.encode(store.photos[view][numbers], view).embedding  # type: ignore[arg-type]
        own = np.full(len(numbers), place, dtype=np.int64)
        ranks.append(score_ranks(embedding @ tiles.T, own).expected_rank())
    return _recalls(np.concatenate(ranks))


def _recalls(ranks: FloatArray) -> dict[str, float]:
    recalls = {f"validation_recall_{k}": round(float((ranks < k + 1).mean() * 100), 2) for k in _RANKS}
    return {"validation_pairs": float(len(ranks)), **recalls}
