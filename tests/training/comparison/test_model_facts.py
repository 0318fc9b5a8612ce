from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from geoloc.core import storage
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.models.views.spatial_transformers import AffineView
from geoloc.recipe.recipe import Recipe
from geoloc.training.comparison.model_facts import (
    CurvePoint,
    bridge_titles,
    count_parameters,
    read_curve,
    read_model_facts,
    recipe_summary,
)

STUDIES = Path(__file__).resolve().parents[3] / "studies" / "views"

WORDS = {
    "": "polar image, 32 columns of 16",
    "model: {view: {kind: none}, aggregation: {kind: gap}}": "no transform, global mean",
    "model: {view: {kind: none}, aggregation: {kind: gem}, orientation: {scheme: scales}}": (
        "no transform, GeM, maps at all scales (II)"
    ),
    "{model: {orientation: {scheme: input}}, training: {augmentation: {turn: quarters}}}": (
        "polar image, 32 columns of 16, maps at the input (I), views turned apart by quarters"
    ),
    "{model: {view: {kind: affine}, aggregation: {kind: safa}}, loss: {guidance_weight: 1}}": (
        "affine transformer, SAFA with 8 heads, L1 to the polar image (1)"
    ),
    "model: {view: {kind: tps}}": "thin plate spline from the identity, 32 columns of 16",
    "model: {view: {kind: tps, start: polar}}": "thin plate spline from the polar image, 32 columns of 16",
    "model: {view: {kind: polar, sampling: paper, radial_power: 1.5}}": (
        "polar image (published formula), radius to the power 1.5, 32 columns of 16"
    ),
    "{loss: {heading: unknown}, training: {augmentation: {turn: any, fov_deg: [70, 240], whole: 0.4}}}": (
        "polar image, 32 columns of 16, trained at the best turn, views turned apart, "
        "trained on views of 70 to 240 degrees (40% whole)"
    ),
    "training: {augmentation: {roll: false}}": "polar image, 32 columns of 16, trained north up",
    "{model: {aggregation: {kind: height_mean}, shared_weights: true}, loss: {triplet: {}}}": (
        "polar image, 32 mean columns of 16, one backbone, triplet loss"
    ),
}


@pytest.mark.parametrize("changes", WORDS)
def test_a_recipe_in_words(changes: str) -> None:
    base = {"name": "x", "model": {"shared_weights": False}}
    own = yaml.safe_load(changes) or {}
    model = base["model"] | own.get("model", {})  # type: ignore[operator]
    assert recipe_summary(Recipe.model_validate(base | own | {"model": model})) == WORDS[changes]


def test_no_two_recipes_of_the_study_read_alike() -> None:
    leaves = [path for path in sorted(STUDIES.glob("*.yaml")) if path.stem not in ("base", "north")]
    words = [recipe_summary(Recipe.load(str(path))) for path in leaves]
    assert len(words) > 20
    assert len(set(words)) == len(words)
    assert {line.split(",")[0].split(" from")[0] for line in words} == set(bridge_titles())


def test_parameters_are_those_of_the_layers() -> None:
    recipe = Recipe.from_yaml(
        "name: t\nmodel:\n  panorama_px: [16, 64]\n  tile_px: 32\n  view: {height_px: 16, width_px: 64}\n"
        "  backbone: {widths: [4, 8], strides: [2, 2]}\n  aggregation: {kind: gap}\n"
        "  hash: {bits: 16, prefixes: [16]}\n"
    )
    backbone = (3 * 4 * 9 + 2 * 4) + (4 * 8 * 9 + 2 * 8)  # convolutions and batch norms
    whole = count_parameters(recipe)
    apart = recipe.model_copy(update={"model": recipe.model.model_copy(update={"shared_weights": False})})
    assert count_parameters(apart) - whole == backbone
    assert whole == backbone + 8 * 16  # and the hash head


def test_what_a_model_cost(tiny: Recipe, tmp_path: Path) -> None:
    uri = str(tmp_path / "m")
    log = [
        {"step": 10, "loss": 4.5, "batch_accuracy": 0.5, "pairs_per_s": 31.0, "seconds": 3.0},
        {"step": 40, "loss": 1.5, "batch_accuracy": 0.75, "pairs_per_s": 32.0, "seconds": 20.0},
    ]
    save_model(GeoLocalizer(tiny.model), tiny, uri, metrics=log)
    assert read_curve(uri) == [CurvePoint(10, 4.5, 50.0), CurvePoint(40, 1.5, 75.0)]
    found = read_model_facts(uri, tiny, "tiny", 3, 2)
    assert (found.step_core_s, found.pairs_per_s, found.steps, found.batch_size) == (1.0, 32.0, 40, 16)
    assert (found.bridge, found.embedding_dim) == ("polar image", 64)
    save_model(GeoLocalizer(tiny.model), tiny, uri, metrics=[log[0], log[1] | {"cpu_seconds": 12.0}])
    assert read_model_facts(uri, tiny, "tiny", 3, 2).step_core_s == 0.6
    storage.delete(storage.join(uri, "metrics.jsonl"))
    without = read_model_facts(uri, tiny, "tiny", 3, 2)
    assert (without.step_core_s, without.pairs_per_s) == (None, None)


def test_a_transformer_adds_its_parameters(tiny: Recipe) -> None:
    model = tiny.model.model_copy(update={"tile_px": 64, "view": AffineView(height_px=16, width_px=64)})
    learned = tiny.model_copy(update={"model": model})
    plain = tiny.model_copy(update={"model": tiny.model.model_copy(update={"tile_px": 64})})
    assert count_parameters(learned) > count_parameters(plain)
