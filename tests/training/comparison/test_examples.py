from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.training.comparison import examples
from geoloc.training.comparison.examples import draw_examples
from geoloc.training.comparison.measurements import MeasurementStore, Model, TestTable
from geoloc.training.comparison.model_facts import read_model_facts


def test_places_are_shown_for_every_transform_and_circles_where_azimuth_is_kept(
    tiny: Recipe, tiny_path: str, ingested: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "polar-a": "{tile_px: 64}",
        "polar-b": "{tile_px: 64, aggregation: {kind: gap}}",
        "tps": "{tile_px: 64, view: {kind: tps, height_px: 16, width_px: 64}, aggregation: {kind: gap}}",
        "small": "{tile_px: 32, aggregation: {kind: gap}}",
    }
    models, facts = [], []
    for name, text in changes.items():
        (tmp_path / f"{name}.yaml").write_text(f"base: {tiny_path}\nname: {name}\nmodel: {text}\n")
        recipe = Recipe.load(str(tmp_path / f"{name}.yaml"))
        torch.manual_seed(0)
        uri = str(tmp_path / "models" / name)
        save_model(GeoLocalizer(recipe.model), recipe, uri)
        models.append(Model(name, 3, uri))
        facts.append(read_model_facts(uri, recipe, name, 3, 1))
    titles: list[list[str]] = []
    really = examples.draw_place

    def noted(panorama, tile, views, place):  # type: ignore[no-untyped-def]
        titles.append([named.title for named in views])
        return really(panorama, tile, views, place)

    monkeypatch.setattr(examples, "draw_place", noted)
    measuring = MeasurementStore(str(tmp_path), None, 1)
    shown = list(draw_examples(models, facts, TestTable("t", ingested, ()), measuring))
    seen, circles = "What the aerial branch sees", "Scores against heading"
    assert [each.heading for each in shown] == [seen, seen, seen, circles, seen, seen, seen]
    assert titles[0] == [
        "polar-a and 1 more: polar image",
        "tps: thin plate spline from the identity, global mean, one backbone",
    ]
    assert titles[3] == ["small: polar image"]
    assert shown[0].words.startswith("q0013. ")  # the middle of the first third of 80 photos
    for each in shown:
        assert Image.open(io.BytesIO(each.picture)).width > 500
