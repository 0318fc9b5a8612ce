from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from geoloc import storage
from geoloc.errors import ConfigError
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe import Recipe
from geoloc.training import compare
from geoloc.training.compare import CompareConfig, CompareInputs, Measured, make_page, run
from geoloc.training.conditions import CONDITIONS
from geoloc.training.stage import TrainConfig, TrainInputs


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
        save_model(GeoLocalizer(recipe.model), recipe, output)

    monkeypatch.setattr(compare, "train", train)
    return asked


def test_every_recipe_and_seed_is_trained_and_measured_once(
    trained: list[tuple[str, int, int | None]],
    ingest: Callable[..., None],
    tiny_path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(f"base: {tiny_path}\nname: other\nmodel: {{aggregation: {{channels: 2}}}}\n")
    for name, seed in (("near", 1), ("far", 2)):
        ingest(str(tmp_path / name), 12, seed=seed)
    config = CompareConfig(recipes=(tiny_path, str(other)), seeds=(0, 7), steps=5)
    inputs = CompareInputs(train="x", tests=(str(tmp_path / "near"), str(tmp_path / "far")))
    output = str(tmp_path / "out")
    result = run(config, inputs, output)
    assert trained == [("tiny", 0, 5), ("tiny", 7, 5), ("other", 0, 5), ("other", 7, 5)]
    assert len(result.rows) == 2 * 2 * 2 * len(CONDITIONS)
    assert {row.test for row in result.rows} == {"near", "far"}
    assert all(row.photos == row.tiles == 12 for row in result.rows)
    assert result.rows[0].heading_error_deg is None  # aligned
    page = storage.read_text(result.page)
    assert page == result.text()
    assert page.count("| tiny |") == page.count("| other |") == 2
    assert "±" in page
    assert json.loads(storage.read_text(result.table))[0]["recipe"] == "tiny"
    # Again: nothing is trained, nothing is measured.
    monkeypatch.setattr(compare, "measure", lambda *args: pytest.fail("measured again"))
    again = run(config, inputs, output)
    assert again == result
    assert len(trained) == 4
    # Another test table under the same name is measured anew.
    monkeypatch.undo()
    monkeypatch.setattr(compare, "train", lambda *args, **options: None)
    shutil.rmtree(tmp_path / "near")
    ingest(str(tmp_path / "near"), 14, seed=3)
    fresh = run(config, inputs, output)
    assert {row.photos for row in fresh.rows if row.test == "near"} == {14}


def test_photos_anywhere_on_their_tile_are_measured(
    trained: list[tuple[str, int, int | None]], ingested: str, tiny: Recipe, tiny_path: str, tmp_path: Path
) -> None:
    strict = tmp_path / "strict.yaml"
    strict.write_text(
        f"base: {tiny_path}\nname: strict\nmodel: {{tile_m: 40, tile_px: 40}}\n"
        "training: {augmentation: {offset_m: 0}}\n"
    )
    result = run(
        CompareConfig(recipes=(str(strict),)),
        CompareInputs(train="x", tests=(ingested,)),
        str(tmp_path / "out"),
    )
    assert result.rows[0].photos == 80  # training would leave out all that were taken off the centre


def measured(recipe: str, seed: int, condition: str, recall: float, error: float | None = None) -> Measured:
    return Measured(
        recipe=recipe,
        seed=seed,
        test="t",
        condition=condition,
        photos=1000,
        tiles=1000,
        recall_1=recall,
        recall_5=recall,
        recall_10=recall,
        heading_error_deg=error,
        within_10_deg=None if error is None else 90.0,
    )


def test_the_page_has_means_spreads_and_the_protocols_mean() -> None:
    rows = [
        measured("a", seed, condition.name, 50.0 + 10 * seed, 2.0 + seed if condition.name == "360" else None)
        for seed in (0, 1)
        for condition in CONDITIONS
    ]
    rows += [measured("b", 0, "aligned", 80.0)]
    page = make_page(rows)
    assert "## t: 1,000 photos, 1,000 tiles" in page
    (line,) = [line for line in page.splitlines() if line.startswith("| a |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:8] == ["55.0 ± 7.1"] * 7
    assert cells[8:] == ["55.0 ± 7.1", "2.5 ± 0.7", "90.0 ± 0.0"]
    (line,) = [line for line in page.splitlines() if line.startswith("| b |")]
    assert [cell.strip() for cell in line.strip("|").split("|")][1:3] == ["80.0", "-"]


def test_names_must_differ(tiny_path: str, tmp_path: Path) -> None:
    config = CompareConfig(recipes=(tiny_path, tiny_path))
    with pytest.raises(ConfigError, match="Two recipes are named 'tiny'"):
        run(config, CompareInputs(train="x", tests=("a/t",)), str(tmp_path))
    with pytest.raises(ConfigError, match="Two tests are named 't'"):
        run(CompareConfig(), CompareInputs(train="x", tests=("a/t", "b/t")), str(tmp_path))
    with pytest.raises(ConfigError, match="There is no test to compare"):
        run(CompareConfig(), CompareInputs(train="x", tests=()), str(tmp_path))
