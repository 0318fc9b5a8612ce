from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc.core.errors import CorruptArtifact
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.training.comparison import measurements
from geoloc.training.comparison.measurements import MeasurementStore, Model, TestTable
from geoloc.training.heading_and_fov import CONDITIONS

ALIGNED = CONDITIONS[:1]


@pytest.fixture
def model(tiny: Recipe, tmp_path: Path) -> Model:
    torch.manual_seed(0)
    uri = str(tmp_path / "models" / "tiny-seed3")
    save_model(GeoLocalizer(tiny.model), tiny, uri)
    return Model("tiny", 3, uri)


@pytest.fixture
def table(ingest: Callable[..., None], tmp_path: Path) -> TestTable:
    uri = str(tmp_path / "t")
    ingest(uri, 12)
    return TestTable("t", uri, CONDITIONS)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the conditions that were measured, in order."""
    names: list[str] = []
    really = measurements.measure_conditions

    def counted(encoder, store, conditions):  # type: ignore[no-untyped-def]
        for result in really(encoder, store, conditions):
            names.append(result.condition)
            yield result

    monkeypatch.setattr(measurements, "measure_conditions", counted)
    return names


def test_what_is_kept_is_what_was_measured(
    model: Model, table: TestTable, asked: list[str], tmp_path: Path
) -> None:
    names = [condition.name for condition in CONDITIONS]
    rows = MeasurementStore(str(tmp_path), None, 7).measure(model, table)
    assert asked == [row.condition for row in rows] == names
    again = MeasurementStore(str(tmp_path), None, 7)
    assert again.measure(model, table) == rows
    assert (asked, again.done) == (names, 7)


def test_a_measuring_that_was_killed_goes_on(
    model: Model, table: TestTable, asked: list[str], tmp_path: Path
) -> None:
    whole = MeasurementStore(str(tmp_path), None, 7).measure(model, table)
    (tmp_path / "measured" / "tiny-seed3" / "t-180-known.json").unlink()
    del asked[:]
    assert MeasurementStore(str(tmp_path), None, 7).measure(model, table) == whole
    assert asked == ["180 known"]


def test_other_weights_photos_and_versions_are_measured_anew(
    model: Model,
    table: TestTable,
    asked: list[str],
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = TestTable(table.name, table.uri, ALIGNED)

    def run(photos: int | None = None) -> int:
        del asked[:]
        MeasurementStore(str(tmp_path), photos, 1).measure(model, table)
        return len(asked)

    assert [run(), run()] == [1, 0]
    assert [run(5), run(5), run(6), run()] == [1, 0, 1, 1]
    monkeypatch.setattr(measurements, "MEASUREMENT_VERSION", -1)
    assert [run(), run()] == [1, 0]
    torch.manual_seed(1)
    save_model(GeoLocalizer(tiny.model), tiny, model.uri)
    assert [run(), run()] == [1, 0]


def test_some_photos_are_taken_evenly_among_all_tiles(model: Model, table: TestTable, tiny: Recipe) -> None:
    whole = MeasurementStore("unused", None, 1).pairs(table, tiny)
    some = MeasurementStore("unused", 4, 1).pairs(table, tiny)
    rows = [0, 4, 7, 11]
    np.testing.assert_array_equal(some.panoramas, whole.panoramas[rows])
    np.testing.assert_array_equal(some.tile_of, whole.tile_of[rows])
    np.testing.assert_array_equal(some.tiles, whole.tiles)
    np.testing.assert_array_equal(some.index.photo, whole.index.photo[rows])
    np.testing.assert_array_equal(some.index.photo_rows, whole.index.photo_rows)
    assert len(MeasurementStore("unused", 50, 1).pairs(table, tiny)) == 12


def test_recipes_that_take_pictures_alike_share_them(table: TestTable, tiny: Recipe) -> None:
    measuring = MeasurementStore("unused", None, 1)
    first = measuring.pairs(table, tiny)
    other = Recipe.model_validate(tiny.model_dump() | {"name": "other", "seed": 9})
    assert measuring.pairs(table, other) is first
    model = tiny.model.model_copy(update={"tile_px": 16})
    assert measuring.pairs(table, tiny.model_copy(update={"model": model})) is not first


def test_a_file_that_is_no_measurement_is_refused(model: Model, table: TestTable, tmp_path: Path) -> None:
    place = tmp_path / "measured" / "tiny-seed3" / "t-aligned.json"
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    with pytest.raises(CorruptArtifact, match="is not a measurement; delete it"):
        MeasurementStore(str(tmp_path), None, 1).measure(model, table)
