"""Examples of a comparison: places as each aerial branch sees them, photos of unknown north at every heading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from geoloc.core import storage
from geoloc.core.arrays import IntArray
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.preprocessing import prepare_aerial
from geoloc.models.store import load_model
from geoloc.recipe.recipe import Recipe
from geoloc.training.comparison.aerial_views import OTHER_TILES, aerial_view, score_headings
from geoloc.training.comparison.draw import TitledView, draw_heading_scores, draw_place
from geoloc.training.comparison.measurements import MeasurementStore, Model, TestTable, image_geometry
from geoloc.training.comparison.model_facts import ModelFacts, recipe_summary, sorted_by_bridge
from geoloc.training.comparison.report import ReportImage
from geoloc.training.pair_store import PairStore
from geoloc.training.pictures import row_names

_PLACES = 3
_TURNED = 4
_VIEW_CAPTION = (
    "Left the tile with the places that are looked at: yellow becomes the top edge of what the branch sees, red the "
    "bottom edge, cyan the middle column; black dots are a spline's control points. First seed of each recipe."
)
_SCORES_CAPTION = (
    "Photos turned by a random angle and their cosines against heading: blue the own tile, grey the best of "
    f"{OTHER_TILES} other tiles, green the true heading, red the estimate. First seed of each recipe that keeps the "
    "azimuth."
)


class _LoadedModel(NamedTuple):
    model: GeoLocalizer
    recipe: Recipe
    model_id: str


def draw_examples(
    models: Sequence[Model], facts: Sequence[ModelFacts], table: TestTable, measuring: MeasurementStore
) -> Iterator[ReportImage]:
    """Pictures of some photos of a table, by the first seed of every recipe, in the order of the tables."""
    firsts = {model.recipe: model.uri for model in reversed(models)}
    groups: dict[str, dict[str, _LoadedModel]] = {}
    for name in dict.fromkeys(each.recipe for each in sorted_by_bridge(facts)):
        model, recipe, card = load_model(firsts[name])
        groups.setdefault(image_geometry(recipe), {})[name] = _LoadedModel(model, recipe, card.model_id)
    for opened in groups.values():  # recipes that take pictures alike are drawn together
        store = measuring.pairs(table, next(iter(opened.values())).recipe)
        yield from _places(opened, store)
        yield from _heading_scores(opened, store)


def _places(opened: Mapping[str, _LoadedModel], store: PairStore) -> Iterator[ReportImage]:
    recipe = next(iter(opened.values())).recipe.model
    rows = _evenly(len(store), _PLACES)
    extent_m = store.tiles.shape[1] * recipe.metres_per_pixel
    tiles = np.stack([prepare_aerial(store.tiles[row], recipe, extent_m) for row in store.tile_of[rows]])
    views = _titled_views(opened, tiles)
    photos = store.index.photo[rows]
    names = row_names(storage.join(store.uri, "queries"), "query_id", store.index.photo_rows[photos])
    for place, (photo, name) in enumerate(zip(photos, names, strict=True)):
        drawn = draw_place(store.photos[photo], tiles[place], views, place)
        yield ReportImage("What the aerial branch sees", f"{name}. {_VIEW_CAPTION}", drawn)


def _titled_views(opened: Mapping[str, _LoadedModel], tiles: npt.NDArray[np.uint8]) -> list[TitledView]:
    """What every recipe sees; recipes whose transform learns nothing and is the same share theirs."""
    shared: dict[str, list[str]] = {}
    for name, each in opened.items():
        view = each.recipe.model.view
        shared.setdefault(name if view.learned else repr((view, each.recipe.model.aerial_px)), []).append(
            name
        )
    named = []
    for names in shared.values():
        model, recipe, _ = opened[names[0]]
        view = recipe.model.view
        alike = "" if len(names) == 1 else f" and {len(names) - 1} more"
        words = recipe_summary(recipe) if view.learned else view.title
        named.append(TitledView(f"{names[0]}{alike}: {words}", aerial_view(model, tiles), view.starts_polar))
    return named


def _heading_scores(opened: Mapping[str, _LoadedModel], store: PairStore) -> Iterator[ReportImage]:
    rows = _evenly(len(store), _TURNED)
    circles = {
        name: score_headings(Encoder(*each), store, rows)
        for name, each in opened.items()
        if each.recipe.model.columns > 1
    }
    if circles:
        yield ReportImage("Scores against heading", _SCORES_CAPTION, draw_heading_scores(circles))


def _evenly(count: int, wanted: int) -> IntArray:
    """At most so many rows of `count`, from the middles of equal parts."""
    rows = (np.arange(min(wanted, count)) + 0.5) / min(wanted, count) * count
    return rows.astype(np.int64)
