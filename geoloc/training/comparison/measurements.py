"""Measurements of trained models on test tables, one file for each condition; a run again reads the files.

A file states what it measured: the weights, the tables, the condition, the number of photos, and the version of
the figures. It is written in one piece, so several commands can measure into one output.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geoloc.core import part_table, storage
from geoloc.core.errors import CorruptArtifact
from geoloc.core.progress import say
from geoloc.models.card import read_card
from geoloc.models.encoder import Encoder
from geoloc.recipe.recipe import Recipe
from geoloc.training.heading_and_fov import PROTOCOL_SEED, Condition, ConditionResult, measure_conditions
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, load_pairs

MEASUREMENT_VERSION = 2  # of what the figures mean; files of other versions are measured again
_FOLDER = "measured"
_ANYWHERE_M = 1e6


class Measurement(ConditionResult):
    """The result of one recipe with one seed under one condition on one test table."""

    recipe: str
    seed: int
    test: str


@dataclass(frozen=True)
class TestTable:
    """A table of held-out pairs: its name, its URI, and the conditions it is measured under."""

    __test__ = False  # not a test of pytest's

    name: str
    uri: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Model:
    """A trained model of the comparison: its recipe's name, its seed and the URI of its directory."""

    recipe: str
    seed: int
    uri: str


class MeasurementStore:
    """Measures models on tables and keeps the results under `output`.

    `photos` limits each table to so many photos, evenly spaced; `total` is the number of measurements to come.
    """

    def __init__(self, output: str, photos: int | None, total: int) -> None:
        self.output = output
        self.photos = photos
        self.total = total
        self.done = 0
        self._stores: dict[str, tuple[str, PairStore]] = {}

    def measure(self, model: Model, table: TestTable) -> list[Measurement]:
        """Measurements of the model under every condition of the table; only those without a file are computed."""
        identity = self._identity(model, table)
        found = {
            condition: _read_kept(self._uri(model, table, condition), [*identity, *_identity_of(condition)])
            for condition in table.conditions
        }
        missing = [condition for condition, kept in found.items() if kept is None]
        self.done += len(found) - len(missing)
        if missing:
            for condition, row in zip(missing, self._compute(model, table, missing), strict=True):
                found[condition] = row
                content = {"identity": [*identity, *_identity_of(condition)], "measured": row.model_dump()}
                place = self._uri(model, table, condition)
                storage.write_bytes(place, (json.dumps(content, indent=1) + "\n").encode())
        return [row for row in found.values() if row is not None]

    def _compute(
        self, model: Model, table: TestTable, conditions: Sequence[Condition]
    ) -> Iterator[Measurement]:
        encoder = Encoder.open(model.uri)
        started = time.monotonic()
        for result in measure_conditions(encoder, self.pairs(table, encoder.recipe), conditions):
            self.done += 1
            say(
                f"compare: measurement {self.done} of {self.total}, {model.recipe} seed {model.seed} on "
                f"{table.name}, {result.condition}: R@1 {result.recall_1:.1f} %, {time.monotonic() - started:.0f} s"
            )
            started = time.monotonic()
            yield Measurement(recipe=model.recipe, seed=model.seed, test=table.name, **result.model_dump())

    def pairs(self, table: TestTable, recipe: Recipe) -> PairStore:
        """The table's decoded pairs for a recipe; kept in memory while recipes take images of the same geometry."""
        geometry = image_geometry(recipe)
        if table.uri in self._stores and self._stores[table.uri][0] == geometry:
            return self._stores[table.uri][1]
        self._stores.pop(table.uri, None)
        store = _evenly_spaced(
            load_pairs(table.uri, read_index(table.uri), _without_offset_limit(recipe)), self.photos
        )
        self._stores[table.uri] = (geometry, store)
        return store

    def _identity(self, model: Model, table: TestTable) -> list[Any]:
        card = read_card(model.uri)
        tables = [
            part_table.read_manifest(storage.join(table.uri, kind), kind=kind).checksums
            for kind in ("tiles", "queries", "pairs")
        ]
        weights = [card.weights_sha256, card.recipe_sha256]
        return [MEASUREMENT_VERSION, *weights, *tables, PROTOCOL_SEED, self.photos]

    def _uri(self, model: Model, table: TestTable, condition: Condition) -> str:
        name = f"{table.name}-{condition.name.replace(' ', '-')}.json"
        return storage.join(self.output, _FOLDER, f"{model.recipe}-seed{model.seed}", name)


def image_geometry(recipe: Recipe) -> str:
    """Sizes and field of a recipe's input images; recipes of the same geometry can share decoded images."""
    model = recipe.model
    return repr((model.tile_m, model.tile_px, model.panorama_px, model.elevation_deg))


def _identity_of(condition: Condition) -> Iterator[Any]:
    yield from (condition.name, condition.fov_deg, condition.heading_known)


def _read_kept(uri: str, identity: Sequence[Any]) -> Measurement | None:
    """The measurement in a file; None without a file, or where its identity differs.

    Raises `CorruptArtifact` for a file that is not a measurement.
    """
    if not storage.exists(uri):
        return None
    try:
        content = json.loads(storage.read_bytes(uri))
        same = content["identity"] == list(identity)
        return Measurement.model_validate(content["measured"]) if same else None
    except (ValueError, KeyError, TypeError) as error:  # pydantic's and json's errors are ValueErrors
        raise CorruptArtifact(f"{uri!r} is not a measurement; delete it and it is measured again.") from error


def _without_offset_limit(recipe: Recipe) -> Recipe:
    """The recipe for reading test pairs: photos count wherever on their tile the camera stood."""
    augmentation = recipe.training.augmentation.model_copy(update={"offset_m": _ANYWHERE_M})
    training = recipe.training.model_copy(update={"augmentation": augmentation})
    return recipe.model_copy(update={"training": training})


def _evenly_spaced(store: PairStore, photos: int | None) -> PairStore:
    """`photos` of a store's photos, evenly spaced, with all of its tiles."""
    if photos is None or photos >= len(store):
        return store
    rows = np.linspace(0, len(store) - 1, photos).round().astype(np.int64)
    return replace(store, index=store.index.pick(rows))
