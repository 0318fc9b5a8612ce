from __future__ import annotations

from pathlib import Path

import pytest

from geoloc.errors import ConfigError
from geoloc.recipe import Recipe, built_in_recipes


def test_built_in_recipes_load_and_survive_yaml() -> None:
    assert "geoloc" in built_in_recipes()
    for name in built_in_recipes():
        recipe = Recipe.load(name)
        assert recipe.name == name
        again = Recipe.from_yaml(recipe.to_yaml())
        assert again == recipe
        assert again.fingerprint() == recipe.fingerprint()


def test_fingerprint_is_of_the_meaning() -> None:
    short = Recipe.from_yaml("name: a\n")
    assert Recipe.from_yaml("name: a\nseed: 0\nmodel: {tile_m: 64}\n").fingerprint() == short.fingerprint()
    assert Recipe.from_yaml("name: a\nseed: 1\n").fingerprint() != short.fingerprint()
    assert short.with_overrides(steps=7).fingerprint() != short.fingerprint()
    assert short.with_overrides(steps=None) == short


def test_an_unknown_key_is_named_with_the_file_and_the_near_match(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntraining: {stepz: 3}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Recipe.load(str(path))
    assert "mine.yaml" in str(caught.value)
    assert "unknown key 'training.stepz'; did you mean 'steps'?" in str(caught.value)


def test_an_unknown_key_of_a_tagged_section_is_matched_there() -> None:
    with pytest.raises(
        ConfigError, match=r"'model\.aggregation\.height_mean\.colums'; did you mean 'columns'"
    ):
        Recipe.from_yaml("name: a\nmodel: {aggregation: {kind: height_mean, colums: 8}}\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {}\n", "lacks the key 'name'; add it"),
        ("name: a\ntraining: {steps: 0}\n", "training.steps: Input should be greater than 0"),
        ("name: a\nmodel: {tile_m: .nan}\n", "model.tile_m"),
        ("name: a\nmodel: {aggregation: {kind: column_attention, columns: 5}}\n", "5 columns do not divide"),
        ("name: a\nmodel: {backbone: {widths: [8], strides: [2, 2]}}\n", "1 widths for 2 strides"),
        ("name: a\nmodel: {view: {width_px: 128}}\n", "make them equal"),
        ("name: a\nmodel: {view: {height_px: 60}}\n", "not a multiple of the backbone's stride 8"),
        ("name: a\nmodel: {hash: {bits: 64, prefixes: [128]}}\n", "prefix 128"),
        ("name: a\nmodel: {elevation_deg: [30, -40]}\n", "lowest before highest"),
        ("- 1\n", "holds list"),
        ("name: [\n", "is not YAML"),
        ("name: a\nmodel: {aggregation: {kind: magic}}\n", "model.aggregation"),
    ],
)
def test_what_does_not_fit_is_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_yaml(text, where="'x.yaml'")
    assert sentence in str(caught.value)
    assert "x.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe 'geolok'; did you mean 'geoloc'"):
        Recipe.load("geolok")
    with pytest.raises(ConfigError, match=r"cannot be read.*missing\.yaml"):
        Recipe.load(str(tmp_path / "missing.yaml"))
    with pytest.raises(ConfigError, match=r"training\.steps"):
        Recipe.load("geoloc").with_overrides(steps=-1)


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.load("geoloc").seed = 3  # type: ignore[misc]
