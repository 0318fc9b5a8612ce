from __future__ import annotations

from pathlib import Path

import pytest

from geoloc.core.errors import ConfigError
from geoloc.recipe.recipe import Recipe, built_in_recipes


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


def test_a_recipe_may_start_from_another(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "base: geoloc\nname: mine\nmodel: {view: {radial_power: 1.5}}\ntraining: {steps: 7}\n",
        encoding="utf-8",
    )
    recipe, base = Recipe.load(str(mine)), Recipe.load("geoloc")
    view = base.model.view.model_copy(update={"radial_power": 1.5})
    assert recipe.model == base.model.model_copy(update={"view": view})
    assert recipe.training == base.training.model_copy(update={"steps": 7})
    assert recipe.loss == base.loss
    other = tmp_path / "other.yaml"
    other.write_text(
        f"base: {mine}\nname: other\nmodel: {{view: {{kind: none}}, tile_px: 256}}\n", encoding="utf-8"
    )
    further = Recipe.load(str(other))
    assert further.model.view.kind == "none"  # another kind replaces the section, its keys do not linger
    assert further.training.steps == 7
    assert "base" not in further.to_yaml()
    assert Recipe.from_yaml(further.to_yaml()) == further


def test_a_null_takes_a_part_of_the_base_away() -> None:
    assert Recipe.load("stn").loss.guidance_weight == 1.0
    assert Recipe.load("stn-tps").loss.guidance_weight is None
    assert Recipe.load("oricnn-small").training.schedule is None


def test_bases_that_lead_nowhere_are_one_sentence(tmp_path: Path) -> None:
    circle = tmp_path / "circle.yaml"
    circle.write_text(f"base: {circle}\nname: circle\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"circle\.yaml.*in a circle"):
        Recipe.load(str(circle))
    with pytest.raises(ConfigError, match="no recipe 'geolok'; did you mean 'geoloc'"):
        Recipe.from_yaml("base: geolok\nname: a\n")
    with pytest.raises(ConfigError, match="lacks the key 'name'"):
        Recipe.from_yaml("base: geoloc\n")
    with pytest.raises(ConfigError, match=r"unknown key 'loss\.guidance'; did you mean 'guidance_weight'"):
        Recipe.from_yaml("base: stn\nname: a\nloss: {guidance: 2}\n")


def test_parts_that_a_recipe_lacks_are_not_written() -> None:
    text = Recipe.load("geoloc").to_yaml()
    for word in ("null", "orientation", "triplet", "optimizer", "projection"):
        assert word not in text
    recipe = Recipe.from_yaml("name: a\nmodel: {orientation: null}\nloss: {triplet: null}\n")
    assert recipe.fingerprint() == Recipe.from_yaml("name: a\n").fingerprint()


def test_sections_without_a_kind_are_what_they_always_were() -> None:
    recipe = Recipe.from_yaml(
        "name: a\nmodel: {view: {height_px: 32}, backbone: {widths: [8, 8], strides: [4, 2]}}\n"
    )
    assert recipe.model.view.kind == "polar"
    assert recipe.model.backbone.kind == "plain_cnn"


SQUARE = "view: {kind: none}, aggregation: {kind: gap}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {view: {kind: tsp}}", "model.view"),
        ("model: {view: {kind: tps, span: 0}}", "model.view.tps.span"),
        ("model: {tile_px: 32, view: {kind: tps}}", "tile_px is 32; a view of kind tps needs 64"),
        ("model: {view: {kind: none}}", "panorama_px width is 256 but view width_px is 160"),
        (f"model: {{tile_px: 100, {SQUARE}}}", "tile_px is 100, not a multiple of the backbone's stride 8"),
        (
            "model: {view: {kind: affine}, orientation: {}}",
            "orientation maps need a view of kind none or polar (got 'affine')",
        ),
        (
            f"model: {{{SQUARE}, orientation: {{scheme: scales}}, backbone: {{kind: torchvision, name: resnet18}}}}",
            "orientation at all scales needs the backbone plain_cnn or oricnn",
        ),
        (
            "model: {backbone: {kind: torchvision, name: alexnet, stages: 2}}",
            "alexnet has 1 stages to choose from (got 2)",
        ),
        ("model: {backbone: {kind: torchvision, name: vgg16, max_pool: false}}", "only resnets go without"),
        ("model: {backbone: {kind: oricnn, widths: [8], maps: 2}}", "2 maps of 1 layers"),
        ("model: {branches: {street: aerial}}", "branch 'aerial' has ground and aerial views"),
        ("model: {hash: {bits: 64, prefixes: [8], layout: columns}}", "8 bits do not divide among"),
        ("loss: {guidance_weight: 1}", "loss.guidance_weight needs a learned view such as affine or tps"),
        (f"model: {{{SQUARE}}}\nloss: {{heading: unknown}}", "needs an aggregation that keeps"),
        ("training: {augmentation: {fov_deg: [90, 70]}}", "give smallest before largest"),
        ("training: {augmentation: {centre_crop: [0, 1]}}", "give a share above 0"),
        ("training: {augmentation: {whole: 0.5}}", "give fov_deg too"),
        (
            "model: {test_time: {flip: true}}",
            "test_time flip cannot be had with the aggregation column_attention",
        ),
        ("model: {test_time: {scales: [1, 1.25]}}", "its 32 columns are azimuths"),
        (f"model: {{{SQUARE}, test_time: {{}}}}", "test_time neither mirrors nor resizes"),
        (f"model: {{{SQUARE}, test_time: {{scales: [1]}}}}", "test_time neither mirrors nor resizes"),
        (
            f"model: {{{SQUARE}, test_time: {{scales: [1, 1.25, 1]}}}}",
            "scales has a number twice (x1-x1.25-x1)",
        ),
        (f"model: {{{SQUARE}, test_time: {{scales: [5]}}}}", "model.test_time.scales.0"),
        (f"model: {{{SQUARE}, orientation: {{}}, test_time: {{flip: true}}}}", "also sees orientation maps"),
        (f"model: {{{SQUARE}, cloud: {{}}, test_time: {{flip: true}}}}", "also sees point clouds"),
        (
            f"model: {{{SQUARE}, test_time: {{scales: [1, 1.1]}}}}",
            "at scale 1.1 the panorama_px height is 70, not a multiple of the backbone's stride 8",
        ),
        (
            f"model: {{{SQUARE}, tile_px: 168, test_time: {{scales: [1.25]}}}}",
            "at scale 1.25 the tile_px is 210, not a multiple of the backbone's stride 8",
        ),
        (
            "model: {view: {kind: none}, aggregation: {kind: safa}, test_time: {flip: true, scales: [1.25]}}",
            "safa takes pictures of one size alone; leave scales out",
        ),
    ],
)
def test_parts_that_do_not_fit_are_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_yaml(f"name: a\n{text}\n", where="'x.yaml'")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_is_looked_up_beside_the_recipe_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "below.yaml").write_text("base: geoloc\nname: below\nseed: 5\n", encoding="utf-8")
    (tmp_path / "middle.yaml").write_text("base: below.yaml\nname: middle\n", encoding="utf-8")
    (tmp_path / "inner" / "top.yaml").write_text("base: ../middle.yaml\nname: top\n", encoding="utf-8")
    assert Recipe.load(str(tmp_path / "inner" / "top.yaml")).seed == 5
    monkeypatch.chdir(tmp_path)
    assert Recipe.load("middle.yaml").seed == 5
    assert Recipe.load("inner/top.yaml").seed == 5
    with pytest.raises(ConfigError, match=r"no recipe 'geolok'"):
        Recipe.from_yaml("base: geolok\nname: a\n", beside="inner/x.yaml")


STUDIES = sorted((Path(__file__).resolve().parents[2] / "studies").rglob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recipes_of_the_studies_load_and_share_one_budget(path: Path) -> None:
    recipe = Recipe.load(str(path))
    assert recipe.name == f"{path.parent.name}-{path.stem}"
    base = Recipe.load(str(path.parent / "base.yaml"))
    assert (recipe.training.steps, recipe.training.batch_size) == (
        base.training.steps,
        base.training.batch_size,
    )
    assert recipe.fingerprint() != base.fingerprint() or path.stem == "base"
