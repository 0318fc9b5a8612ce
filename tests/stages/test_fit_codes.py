"""A trained model with another hash encoder, from the stage to the index."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError, InputError
from geoloc.index.format.commit import read_head
from geoloc.index.format.manifest import read_manifest
from geoloc.localization.localizer import Localizer
from geoloc.models.card import read_card
from geoloc.models.encoder import Encoder
from geoloc.recipe.recipe import Recipe
from geoloc.stages import encode, fit_codes, index_build
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from geoloc.stages.fit_codes import FitCodesConfig, FitCodesInputs
from geoloc.stages.index_build import IndexConfig, IndexInputs
from geoloc.training.step import PairStep
from tests.small_index import SmallIndex, build


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    return build(tmp_path_factory.mktemp("small"))


def fitted(small: SmallIndex, output: Path, **config: object) -> fit_codes.FitCodesResult:
    settings = FitCodesConfig.model_validate({"kind": "itq", "bits": 32, **config})
    return fit_codes.run(settings, FitCodesInputs(model=small.model, tiles=small.ingested), str(output))


def test_itq_codes_are_signs_of_rotated_components_of_the_models_embeddings(
    small: SmallIndex, tmp_path: Path
) -> None:
    result = fitted(small, tmp_path / "m")
    assert (result.encoder, result.bits, result.nested, result.fitted_on) == ("itq", 32, False, 60)
    before, after = Encoder.open(small.model, device="cpu"), Encoder.open(str(tmp_path / "m"), device="cpu")
    batch = before.prepare(small.tiles[:8], "aerial")
    one, two = before.encode(batch, "aerial"), after.encode(batch, "aerial")
    np.testing.assert_allclose(two.embedding, one.embedding, atol=1e-6)  # the weights stay
    arrays = after.hash_encoder.arrays()
    expected = (one.embedding - arrays["mean"]) @ arrays["weight"].T > 0
    assert np.array_equal(two.code, np.packbits(expected, axis=1))
    np.testing.assert_allclose(arrays["weight"] @ arrays["weight"].T, np.eye(32), atol=1e-4)
    assert re.fullmatch(r"small-[0-9a-f]{12}-itq-[0-9a-f]{8}", result.model_id)


@pytest.mark.usefixtures("parts_here")
def test_the_recipe_the_card_and_the_manifest_name_the_encoder(
    small: SmallIndex, tmp_path: Path, ray_local: None
) -> None:
    model = str(tmp_path / "m")
    fitted(small, tmp_path / "m", prefixes=(16,))
    recipe = Recipe.load(storage.join(model, "recipe.yaml")).model.hash
    assert recipe.encoder is not None
    assert (recipe.encoder.kind, recipe.bits, recipe.prefixes) == ("itq", 32, (16, 32))
    codes, index = str(tmp_path / "codes"), str(tmp_path / "index")
    encode.run(EncodeConfig(num_actors=1), EncodeInputs(tiles=small.ingested, model=model), codes)
    index_build.run(IndexConfig(), IndexInputs(codes=codes, model=model), index)
    manifest = read_manifest(index, str(read_head(index).snapshot_id))
    entry, card = manifest.model.hash_encoder, read_card(model).hash_encoder
    assert entry is not None
    assert card is not None
    assert entry.model_dump() == card.model_dump()
    assert entry.nested
    localizer = Localizer.open(index, device="cpu")
    fix = localizer.localize(small.panoramas[17], view="panorama", heading_deg=0.0)
    assert fix.matches[0].tile_id == small.tile_ids[17]
    itself = localizer.localize(small.tiles[17], view="drone", heading_deg=0.0).matches[0]
    assert (itself.tile_id, itself.distance_bits) == (small.tile_ids[17], 0), "tiles have the encoder's codes"


def test_a_second_run_is_the_first_and_other_settings_are_refused(small: SmallIndex, tmp_path: Path) -> None:
    first, again = fitted(small, tmp_path / "m"), fitted(small, tmp_path / "m")
    assert again.reused
    assert again.model_id == first.model_id
    with pytest.raises(ArtifactError, match="--overwrite"):
        fitted(small, tmp_path / "m", seed=2)
    assert fitted(small, tmp_path / "n").model_id == first.model_id  # a seed fixes the fit


def test_the_two_stage_encoder_needs_pairs(small: SmallIndex, tmp_path: Path) -> None:
    result = fitted(small, tmp_path / "m", kind="two_stage", hidden=32, epochs=2)
    assert result.encoder == "two_stage"
    photo = Encoder.open(str(tmp_path / "m"), device="cpu")
    x = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    assert not np.array_equal(photo.hash_encoder.codes(x, "ground"), photo.hash_encoder.codes(x, "aerial"))


def test_the_contrastive_encoder_learns_from_pairs_and_keeps_prefixes(
    small: SmallIndex, tmp_path: Path
) -> None:
    result = fitted(small, tmp_path / "m", kind="contrastive", prefixes=(16,), steps=2)
    assert (result.encoder, result.bits, result.nested) == ("contrastive", 32, True)
    recipe = Recipe.load(str(tmp_path / "m" / "recipe.yaml")).model.hash
    assert recipe.prefixes == (16, 32)
    arrays = Encoder.open(str(tmp_path / "m"), device="cpu").hash_encoder.arrays()
    assert np.array_equal(arrays["ground.weight"], arrays["aerial.weight"])
    assert not np.allclose(arrays["ground.mean"], arrays["aerial.mean"])
    with pytest.raises(ConfigError, match="'itq' has no steps"):
        fitted(small, tmp_path / "n", steps=2)


def test_what_cannot_be_is_refused(small: SmallIndex, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'random' has no prefixes"):
        fitted(small, tmp_path / "m", kind="random", prefixes=(8,))
    with pytest.raises(ConfigError, match="longer than the code"):
        fitted(small, tmp_path / "m", prefixes=(16, 64))
    for kind in ("trained", "itQ"):
        with pytest.raises(ConfigError, match="itq, random, two_stage"):
            fitted(small, tmp_path / "m", kind=kind)
    with pytest.raises(InputError, match="cannot give 64"):
        fitted(small, tmp_path / "m", bits=64)
    assert not (tmp_path / "m" / "model.json").exists()
    fitted(small, tmp_path / "m")
    recipe = Recipe.load(str(tmp_path / "m" / "recipe.yaml"))
    model = Encoder.open(str(tmp_path / "m"), device="cpu")._model
    with pytest.raises(ConfigError, match=r"model\.hash\.encoder"):
        PairStep(model, recipe).model.hash_head.parameters()
