from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.stages import compare
from geoloc.stages.compare import CompareConfig, CompareInputs, run
from geoloc.stages.train import TrainConfig, TrainInputs
from geoloc.training.comparison import measurements
from geoloc.training.heading_and_fov import CONDITIONS

LOG = [
    {"step": 2, "loss": 3.0, "batch_accuracy": 0.25, "pairs_per_s": 90.0, "seconds": 1.0},
    {"step": 5, "loss": 2.0, "batch_accuracy": 0.5, "pairs_per_s": 100.0, "seconds": 4.0},
]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int | None]]:
    """Trainings that were asked for; a model with its first weights stands for a trained one."""
    asked: list[tuple[str, int, int | None]] = []

    def train(config: TrainConfig, inputs: TrainInputs, output: str, *, overwrite: bool) -> None:
        recipe = Recipe.load(config.recipe)
        if storage.exists(storage.join(output, "model.json")):
            return
        asked.append((recipe.name, recipe.seed, config.steps))
        torch.manual_seed(recipe.seed)
        save_model(GeoLocalizer(recipe.model), recipe, output, metrics=LOG)

    monkeypatch.setattr(compare, "train", train)
    monkeypatch.setattr(compare, "draw_examples", lambda *args: [])  # see comparison/test_examples.py
    return asked


def another(path: Path, base: str) -> str:
    path.write_text(f"base: {base}\nname: {path.stem}\nmodel: {{aggregation: {{channels: 2}}}}\n")
    return str(path)


def test_every_recipe_and_seed_is_trained_and_measured_once(
    trained: list[tuple[str, int, int | None]],
    ingest: Callable[..., None],
    tiny_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = another(tmp_path / "other.yaml", tiny_path)
    for name, seed in (("near", 1), ("far", 2)):
        ingest(str(tmp_path / name), 12, seed=seed)
    config = CompareConfig(recipes=(tiny_path, other), seeds=(0, 7), steps=5)
    inputs = CompareInputs(train="x", tests=(str(tmp_path / "near"),), aligned=(str(tmp_path / "far"),))
    output = str(tmp_path / "out")
    # Two commands for one recipe each, into one output, then one for both.
    for recipe in config.recipes:
        run(config.model_copy(update={"recipes": (recipe,)}), inputs, output)
    assert trained == [("tiny", 0, 5), ("tiny", 7, 5), ("other", 0, 5), ("other", 7, 5)]
    with monkeypatch.context() as patched:
        patched.setattr(measurements, "measure_conditions", lambda *args: pytest.fail("measured again"))
        result = run(config, inputs, output)
    assert len(trained) == 4
    assert [(row.recipe, row.seed, row.test) for row in result.rows if row.condition == "aligned"] == [
        (name, seed, test) for name in ("tiny", "other") for seed in (0, 7) for test in ("near", "far")
    ]
    assert len(result.rows) == 2 * 2 * (len(CONDITIONS) + 1)
    assert all(row.photos == row.tiles == 12 for row in result.rows)
    assert result.rows[0].heading_error_deg is None  # aligned
    text = storage.read_text(result.markdown)
    assert text == result.text()
    assert text.count("| tiny | polar image, 16 columns of 4, one backbone |") == 3
    assert "±" in text
    page = storage.read_text(result.page)
    assert "<h2>near: 12 photos, 12 tiles</h2>" in page
    assert page.count("data:image/png;base64,") == 3  # dots of both tests, and the curves
    first = json.loads(storage.read_text(result.table))[0]
    assert (first["recipe"], first["condition"], first["steps"], first["step_core_s"]) == (
        "tiny",
        "aligned",
        5,
        1.6,  # 4 s of two workers for 5 steps
    )
    # Another test table under the same name is measured anew, the other one is not.
    shutil.rmtree(tmp_path / "near")
    ingest(str(tmp_path / "near"), 14, seed=3)
    fresh = run(config, inputs, output)
    assert {row.photos for row in fresh.rows if row.test == "near"} == {14}
    assert [row for row in fresh.rows if row.test == "far"] == [
        row for row in result.rows if row.test == "far"
    ]


def test_photos_anywhere_on_their_tile_are_measured(
    trained: list[tuple[str, int, int | None]], ingested: str, tiny_path: str, tmp_path: Path
) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        f"base: {tiny_path}\nname: strict\nmodel: {{tile_m: 40, tile_px: 40}}\n"
        "training: {augmentation: {offset_m: 0}}\n"
    )
    result = run(
        CompareConfig(recipes=(str(strict),)),
        CompareInputs(train="x", aligned=(ingested,)),
        str(tmp_path / "out"),
    )
    assert result.rows[0].photos == 80  # training would leave out all that were taken off the centre


def test_names_must_differ(tiny_path: str, tmp_path: Path) -> None:
    config = CompareConfig(recipes=(tiny_path, tiny_path))
    with pytest.raises(ConfigError, match="Two recipes are named 'tiny'"):
        run(config, CompareInputs(train="x", tests=("a/t",)), str(tmp_path))
    with pytest.raises(ConfigError, match="Two tests are named 't'"):
        run(CompareConfig(), CompareInputs(train="x", tests=("a/t",), aligned=("b/t",)), str(tmp_path))
    with pytest.raises(ConfigError, match="There is no test to compare"):
        run(CompareConfig(), CompareInputs(train="x"), str(tmp_path))


def test_recipes_of_places_are_not_compared(tmp_path: Path) -> None:
    config = CompareConfig(recipes=("university1652-small",))
    with pytest.raises(ConfigError, match="trains by places"):
        run(config, CompareInputs(train="x", tests=("a/t",)), str(tmp_path))
