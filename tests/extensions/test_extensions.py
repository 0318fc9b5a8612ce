"""A view, a backbone, a head, a loss and a data set, each one module outside the package that registers itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from geoloc.core import extensions, part_table
from geoloc.core.errors import ConfigError
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import load_model, save_model
from geoloc.recipe import registry as parts
from geoloc.recipe.recipe import ModelRecipe, Recipe
from geoloc.recipe.registry import register
from geoloc.sources.datasets import registry
from geoloc.stages import ingest
from geoloc.stages.ingest import IngestConfig, IngestInputs
from geoloc.training.comparison.aerial_views import aerial_view
from geoloc.training.comparison.model_facts import bridge_titles, recipe_summary
from geoloc.training.pair_trainer import PairTrainer
from tests.training.test_step import noise

MODULES = ",".join(
    f"tests.extensions.{name}" for name in ("half", "patches", "peak", "margin", "named_by_place")
)
RECIPE = """
name: extended
model:
  tile_px: 64
  panorama_px: [16, 64]
  view: {height_px: 16, width_px: 64}
  backbone: {kind: patches, channels: 6, stride: 8}
  aggregation: {kind: column_attention, columns: 8, channels: 4}
  hash: {bits: 64, prefixes: [64]}
loss: {pair_loss: {kind: margin, margin: 0.25}, hashing_weight: 0.0}
training: {batch_size: 4, steps: 4, bfloat16: false}
"""


@pytest.fixture(autouse=True, scope="module")
def _named_by_the_user() -> Iterator[None]:
    """The modules are named for these tests alone: later tests see the built-in kinds again."""
    for package in (*(family.package for family in parts.Part.__subclasses__()), "geoloc.sources.datasets"):
        extensions.import_modules(package)  # the built-in kinds stay registered
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            parts, "_REGISTERED", {name: dict(kinds) for name, kinds in parts._REGISTERED.items()}
        )
        patched.setattr(parts, "_ADAPTERS", {})
        patched.setattr(registry, "_DATASETS", dict(registry._DATASETS))
        patched.setenv(extensions.VARIABLE, MODULES)
        yield


def test_a_new_backbone_embeds_and_survives_its_directory(tmp_path: Path) -> None:
    recipe = Recipe.from_yaml(RECIPE)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert recipe.model.turns_by_rolling
    assert "patches of 8" in recipe_summary(recipe)
    model = GeoLocalizer(recipe.model).eval()
    images = torch.rand(2, 3, 16, 64)
    embedded = model(images, "panorama")
    assert embedded.shape == (2, 32)
    save_model(model, recipe, str(tmp_path / "m"))
    loaded, read, _ = load_model(str(tmp_path / "m"))
    assert read == recipe
    torch.testing.assert_close(loaded(images, "panorama"), embedded)
    # Another process, as a worker of Ray is one, knows the kinds from its environment, and only from there.
    code = f"from geoloc.models.store import load_model; load_model({str(tmp_path / 'm')!r})"
    for value, found in ((MODULES, True), ("", False)):
        environment = os.environ | {extensions.VARIABLE: value}
        child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (child.returncode == 0) == found, child.stderr
        assert found or "'patches'" in child.stderr


def test_a_new_backbone_takes_orientation_maps_and_refuses_what_the_base_refuses() -> None:
    changes = {"backbone": {"kind": "patches", "stride": 8}, "orientation": {"scheme": "input"}}
    base = Recipe.from_yaml(RECIPE).model.model_dump(exclude_none=True)
    model = GeoLocalizer(ModelRecipe.model_validate(base | changes))
    assert model(torch.rand(1, 3, 16, 64), "aerial").shape == (1, 32)
    for text, sentence in (
        (
            "backbone: {kind: patches, strid: 4}",
            r"unknown key 'model\.backbone\.patches\.strid'; did you mean 'str",
        ),
        (
            "backbone: {kind: patches, stride: 0}",
            r"model\.backbone\.patches\.stride: Input should be greater than 0",
        ),
        ("backbone: {kind: patches, stride: 512}", "smaller than the backbone's stride 512"),
        ("backbone: {kind: patches}, orientation: {scheme: scales}", "use scheme input"),
        ("backbone: {kind: patchez}", "'patchez' .* does not match any .*'patches'"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            Recipe.from_yaml(f"name: a\nmodel: {{{text}}}\n")


def test_a_new_view_is_seen_by_the_aerial_branch() -> None:
    base = Recipe.from_yaml(RECIPE).model.model_dump(exclude_none=True)
    recipe = ModelRecipe.model_validate(base | {"view": {"kind": "half"}, "aggregation": {"kind": "peak"}})
    assert recipe.aerial_px == (32, 64)
    model, tile = GeoLocalizer(recipe), np.zeros((1, 64, 64, 3), np.uint8)
    tile[:, :32] = 255
    view = aerial_view(model.eval(), tile)
    assert view.pictures.shape == (1, 32, 64, 3)
    assert view.pictures.min() == 255
    assert view.places[..., 1].max() < 0
    assert bridge_titles()[-1] != "northern half" in bridge_titles()  # learned transforms come last


def test_a_new_head_is_named_by_a_recipe() -> None:
    base = Recipe.from_yaml(RECIPE).model.model_dump(exclude_none=True)
    recipe = ModelRecipe.model_validate(base | {"aggregation": {"kind": "peak"}})
    assert (recipe.columns, recipe.embedding_dim) == (1, 6)
    assert GeoLocalizer(recipe)(torch.rand(2, 3, 16, 64), "panorama").shape == (2, 6)


def test_a_new_loss_trains() -> None:
    recipe = Recipe.from_yaml(RECIPE)
    assert "margin loss" in recipe_summary(recipe)
    trainer = PairTrainer(noise(recipe), recipe)
    before = trainer.model.backbones["panorama"].patches.weight.clone()
    result = trainer.step(0.5)
    assert 0 < float(result.loss.detach()) < 2.25  # a hinge of cosines with a margin of 0.25
    assert not torch.equal(before, trainer.model.backbones["panorama"].patches.weight)
    with pytest.raises(ConfigError, match="give one of them"):
        Recipe.from_yaml("name: a\nloss: {triplet: {}, pair_loss: {kind: margin}}\n")


@pytest.mark.usefixtures("ray_local", "parts_here")
def test_a_new_data_set_is_ingested(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for place in ("48.1_11.5", "48.2_11.6"):
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "data" / f"{place}.png")
    inputs = IngestInputs(dataset="named_by_place", root=str(tmp_path / "data"), split="all")
    ingest.run(IngestConfig(), inputs, str(tmp_path / "out"))
    tiles = part_table.read(str(tmp_path / "out" / "tiles"), kind="tiles").to_pydict()
    assert sorted(zip(tiles["lat"], tiles["lon"], strict=True)) == [(48.1, 11.5), (48.2, 11.6)]


def test_what_cannot_be_registered_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.extensions import named_by_place, patches

    namespace = {"__module__": "elsewhere", "__qualname__": "Other"}
    other = type(patches.Patches)("Other", (patches.Patches,), namespace)
    with pytest.raises(ConfigError, match=r"elsewhere registers the kind 'patches', which tests\.extensions"):
        register(other)(torch.nn.Identity)
    named = registry.find("named_by_place")
    assert registry.register(named) is named
    taken = registry.DataSet("xyz", (), "", named_by_place.plan)
    with pytest.raises(ConfigError, match="registers the data set 'xyz', which geoloc"):
        registry.register(taken)
    monkeypatch.setenv(extensions.VARIABLE, "no_such_module")
    with pytest.raises(ConfigError, match="GEOLOC_EXTENSIONS names the module 'no_such_module'"):
        Recipe.from_yaml("name: a\n")
