"""Examples of a comparison: places as each aerial branch sees them, photos of unknown north at every heading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import IntArray
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.preprocessing import prepare_aerial
from geoloc.models.store import load_model
from geoloc.recipe.recipe import Recipe
from geoloc.training.comparison.aerial_views import OTHER_TILES, look, turn_photos
from geoloc.training.comparison.draw import Named, draw_circles, draw_sights
from geoloc.training.comparison.measurements import Measuring, Model, TestTable, pictures_taken
from geoloc.training.comparison.model_facts import Described, in_order, in_words
from geoloc.training.comparison.report import Shown
from geoloc.training.pair_store import PairStore

_PLACES = 3
_TURNED = 4
_SIGHT_WORDS = (
    "Left the tile with the places that are looked at: yellow becomes the top edge of what the branch sees, red the "
    "bottom edge, cyan the middle column; black dots are a spline's control points. First seed of each recipe."
)
_CIRCLE_WORDS = (
    "Photos turned by a random angle and their cosines against heading: blue the own tile, grey the best of "
    f"{OTHER_TILES} other tiles, green the true heading, red the estimate. First seed of each recipe that keeps the "
    "azimuth."
)


class _Opened(NamedTuple):
    model: GeoLocalizer
    recipe: Recipe
    model_id: str


def show_examples(
    models: Sequence[Model], described: Sequence[Described], table: TestTable, measuring: Measuring
) -> Iterator[Shown]:
    """Pictures of some photos of a table, by the first seed of every recipe, in the order of the tables."""
    firsts = {model.recipe: model.uri for model in reversed(models)}
    groups: dict[str, dict[str, _Opened]] = {}
    for name in dict.fromkeys(each.recipe for each in in_order(described)):
        model, recipe, card = load_model(firsts[name])
        groups.setdefault(pictures_taken(recipe), {})[name] = _Opened(model, recipe, card.model_id)
    for opened in groups.values():  # recipes that take pictures alike are drawn together
        store = measuring.store(table, next(iter(opened.values())).recipe)
        yield from _places(opened, store)
        yield from _circles(opened, store)


def _places(opened: Mapping[str, _Opened], store: PairStore) -> Iterator[Shown]:
    recipe = next(iter(opened.values())).recipe.model
    rows = _evenly(len(store), _PLACES)
    extent_m = store.tiles.shape[1] * recipe.metres_per_pixel
    tiles = np.stack([prepare_aerial(store.tiles[row], recipe, extent_m) for row in store.tile_of[rows]])
    sights = _sights(opened, tiles)
    for place, row in enumerate(rows):
        drawn = draw_sights(store.panoramas[row], tiles[place], sights, place)
        yield Shown("What the aerial branch sees", f"{store.index.query_id[row]}. {_SIGHT_WORDS}", drawn)


def _sights(opened: Mapping[str, _Opened], tiles: npt.NDArray[np.uint8]) -> list[Named]:
    """What every recipe sees; recipes whose transform learns nothing and is the same share theirs."""
    shared: dict[str, list[str]] = {}
    for name, each in opened.items():
        view = each.recipe.model.view
        learned = each.model.transformer is not None
        shared.setdefault(name if learned else repr((view, each.recipe.model.aerial_px)), []).append(name)
    named = []
    for names in shared.values():
        model, recipe, _ = opened[names[0]]
        view = recipe.model.view
        alike = "" if len(names) == 1 else f" and {len(names) - 1} more"
        words = in_words(recipe) if model.transformer is not None else view.title
        named.append(Named(f"{names[0]}{alike}: {words}", look(model, tiles), view.starts_polar))
    return named


def _circles(opened: Mapping[str, _Opened], store: PairStore) -> Iterator[Shown]:
    rows = _evenly(len(store), _TURNED)
    circles = {
        name: turn_photos(Encoder(*each), store, rows)
        for name, each in opened.items()
        if each.recipe.model.columns > 1
    }
    if circles:
        yield Shown("Scores against heading", _CIRCLE_WORDS, draw_circles(circles))


def _evenly(count: int, wanted: int) -> IntArray:
    """At most so many rows of `count`, from the middles of equal parts."""
    rows = (np.arange(min(wanted, count)) + 0.5) / min(wanted, count) * count
    return rows.astype(np.int64)
