"""The data of a run on its node: checked, columns mapped, pictures prepared once for all workers of the node."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from geoloc.core import part_table, storage
from geoloc.recipe.recipe import Recipe
from geoloc.training.node_cache import NodeCache, cache_identity
from geoloc.training.pair_index import (
    PairIndex,
    check_counts,
    read_index,
    tile_extent_m,
    usable_pairs,
)
from geoloc.training.pair_store import PairStore, open_pairs
from geoloc.training.place_store import PlaceStore, check_places, open_places, read_places

TABLES = ("tiles", "queries", "pairs")


def table_checksums(uri: str) -> list[list[str]]:
    """The content of an ingest output's tables."""
    return [part_table.read_manifest(storage.join(uri, kind), kind=kind).checksums for kind in TABLES]


def data_identity(uri: str, recipe: Recipe) -> str:
    """What the columns and pictures of a run are made from: the tables, and what the recipe cuts from them.

    Recipes that look at the same pictures share them.
    """
    model, training = recipe.model, recipe.training
    augmentation = training.augmentation
    drone = (
        [augmentation.aerial_shift_m, augmentation.aerial_scale] if recipe.loss.aerial_weight > 0 else None
    )
    return cache_identity(
        table_checksums(uri),
        [model.tile_m, model.tile_px, model.panorama_px, model.elevation_deg, model.street],
        [model.view.learned, model.view.starts_polar, augmentation.offset_m, drone],
        sorted(training.places.photos) if training.places else None,
    )


def check_data(uri: str, recipe: Recipe, cache: NodeCache) -> None:
    """Refuse data that cannot train a recipe, before any worker starts.

    Raises what `read_index`, `check_counts`, `read_places` and `check_places` raise.
    """
    if recipe.loss.places is not None:
        check_places(uri, read_places(uri, recipe), recipe)
    else:
        _open_columns(uri, recipe, cache)


def open_data(uri: str, recipe: Recipe, cache: NodeCache) -> PairStore | PlaceStore:
    """The pairs or places of an ingest output with their pictures, from the cache of this node.

    Raises what `check_data` raises, `ConfigError` where the disk has no room for the pictures, and `InputError` for
    pictures that cannot be decoded.
    """
    if recipe.loss.places is not None:
        places = read_places(uri, recipe)
        return open_places(uri, places, check_places(uri, places, recipe), recipe, cache.pictures)
    index, extent_m = _open_columns(uri, recipe, cache)
    return open_pairs(uri, index, extent_m, recipe, cache.pictures)


def _open_columns(uri: str, recipe: Recipe, cache: NodeCache) -> tuple[PairIndex, float]:
    folder, note = cache.columns(partial(_write_columns, uri, recipe))
    index = PairIndex.map(folder)
    check_counts(uri, note["pairs"], len(index), note["extent_m"], recipe)
    return index, note["extent_m"]


def _write_columns(uri: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Write the columns of the usable pairs; returns how many pairs were read, and the extent of the tiles."""
    index = read_index(uri)
    extent_m = tile_extent_m(uri, index)
    usable_pairs(index, extent_m, recipe).save(folder)
    return {"pairs": len(index), "extent_m": extent_m}
