"""Measurements of trained models on test tables, one file for each condition, kept and found again.

A file says what it is the measurement of: the weights, the tables, the condition, the photos taken, and the version
of the measuring code. It is written whole at once, so several commands can measure into one output.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import part_table, storage
from geoloc.core.errors import CorruptArtifact
from geoloc.core.progress import say
from geoloc.models.encoder import Encoder
from geoloc.models.store import read_card
from geoloc.recipe.recipe import Recipe
from geoloc.training.heading_and_fov import PROTOCOL_SEED, Condition, measure_each
from geoloc.training.pair_store import PairStore, load_pairs, read_index

MEASURING_VERSION = 2  # of what a condition's figures mean: another one makes kept measurements be made again
_FOLDER = "measured"
_ANYWHERE_M = 1e6


class Measured(BaseModel):
    """One recipe with one seed under one condition on one test table; percent and degrees, NaN written as null."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    seed: int
    test: str
    condition: str
    photos: int
    tiles: int
    recall_1: float
    recall_5: float
    recall_10: float
    heading_error_deg: float | None = Field(description="median over photos found, degrees")
    within_10_deg: float | None = Field(description="percent of the photos found")


@dataclass(frozen=True)
class TestTable:
    """A table of held-out pairs: its name, where it is, and under which conditions it is measured."""

    __test__ = False  # not a test of pytest's

    name: str
    uri: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Model:
    """A trained model of the comparison: whose it is and where it is."""

    recipe: str
    seed: int
    uri: str


class Measuring:
    """Measures models on tables, `total` conditions in all; `photos` takes so many of each table, evenly."""

    def __init__(self, output: str, photos: int | None, total: int) -> None:
        self.output = output
        self.photos = photos
        self.total = total
        self.done = 0
        self._stores: dict[str, tuple[str, PairStore]] = {}

    def run(self, model: Model, table: TestTable) -> list[Measured]:
        """The model under every condition of the table; what is kept is read, the rest measured and kept."""
        identity = self._identity(model, table)
        found = {
            condition: _kept(self._place(model, table, condition), [*identity, *_of(condition)])
            for condition in table.conditions
        }
        missing = [condition for condition, kept in found.items() if kept is None]
        self.done += len(found) - len(missing)
        if missing:
            for condition, row in zip(missing, self._make(model, table, missing), strict=True):
                found[condition] = row
                content = {"identity": [*identity, *_of(condition)], "measured": row.model_dump()}
                place = self._place(model, table, condition)
                storage.write_bytes(place, (json.dumps(content, indent=1) + "\n").encode())
        return [row for row in found.values() if row is not None]

    def _make(self, model: Model, table: TestTable, conditions: Sequence[Condition]) -> Iterator[Measured]:
        encoder = Encoder.open(model.uri)
        started = time.monotonic()
        for result in measure_each(encoder, self.store(table, encoder.recipe), conditions):
            self.done += 1
            say(
                f"compare: measurement {self.done} of {self.total}, {model.recipe} seed {model.seed} on "
                f"{table.name}, {result.condition}: R@1 {result.recall_1:.1f} %, {time.monotonic() - started:.0f} s"
            )
            started = time.monotonic()
            values = {key: _without_nan(value) for key, value in vars(result).items()}
            yield Measured(recipe=model.recipe, seed=model.seed, test=table.name, **values)

    def store(self, table: TestTable, recipe: Recipe) -> PairStore:
        """The table's pictures as a recipe takes them; kept while recipes take them alike."""
        alike = pictures_taken(recipe)
        if table.uri in self._stores and self._stores[table.uri][0] == alike:
            return self._stores[table.uri][1]
        self._stores.pop(table.uri, None)
        store = _some(load_pairs(table.uri, read_index(table.uri), _any_camera(recipe)), self.photos)
        self._stores[table.uri] = (alike, store)
        return store

    def _identity(self, model: Model, table: TestTable) -> list[Any]:
        card = read_card(model.uri)
        tables = [
            part_table.read_manifest(storage.join(table.uri, kind), kind=kind).fingerprint
            for kind in ("tiles", "queries", "pairs")
        ]
        own = [card.weights_sha256, card.recipe_sha256]
        return [MEASURING_VERSION, *own, *tables, PROTOCOL_SEED, self.photos]

    def _place(self, model: Model, table: TestTable, condition: Condition) -> str:
        name = f"{table.name}-{condition.name.replace(' ', '-')}.json"
        return storage.join(self.output, _FOLDER, f"{model.recipe}-seed{model.seed}", name)


def pictures_taken(recipe: Recipe) -> str:
    """What a recipe wants of pictures: the same for recipes that take them alike."""
    model = recipe.model
    return repr((model.tile_m, model.tile_px, model.panorama_px, model.elevation_deg))


def _of(condition: Condition) -> Iterator[Any]:
    yield from (condition.name, condition.fov_deg, condition.heading_known)


def _kept(uri: str, identity: Sequence[Any]) -> Measured | None:
    """The measurement in a file; None where there is none, or one of something else.

    Raises `CorruptArtifact` for a file that is no measurement at all.
    """
    if not storage.exists(uri):
        return None
    try:
        content = json.loads(storage.read_bytes(uri))
        same = content["identity"] == list(identity)
        return Measured.model_validate(content["measured"]) if same else None
    except (ValueError, KeyError, TypeError) as error:  # pydantic's and json's errors are ValueErrors
        raise CorruptArtifact(f"{uri!r} is not a measurement; delete it and it is made again.") from error


def _any_camera(recipe: Recipe) -> Recipe:
    """The recipe for reading test pairs: photos count wherever on their tile they were taken."""
    augmentation = recipe.training.augmentation.model_copy(update={"offset_m": _ANYWHERE_M})
    training = recipe.training.model_copy(update={"augmentation": augmentation})
    return recipe.model_copy(update={"training": training})


def _some(store: PairStore, photos: int | None) -> PairStore:
    """So many of a store's photos, evenly, among all of its tiles."""
    if photos is None or photos >= len(store):
        return store
    rows = np.linspace(0, len(store) - 1, photos).round().astype(np.int64)
    return replace(
        store,
        panoramas=store.panoramas[rows],
        tile_of=store.tile_of[rows],
        index=store.index.take(rows),
    )


def _without_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
