"""A model that also embeds mirrored and resized pictures: from the stage to an index that refuses the plain model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_index import SmallIndex, build

from geoloc.core import part_table, storage
from geoloc.core.errors import ArtifactError, ConfigError, ModelMismatch
from geoloc.localization.localizer import Localizer
from geoloc.localization.query_photos import encode_photos, photo
from geoloc.models.card import read_recipe
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.stages import augment_model, encode, fit_codes, index_build
from geoloc.stages.augment_model import AugmentModelConfig, AugmentModelInputs
from geoloc.stages.encode import EncodeConfig, EncodeInputs
from geoloc.stages.encode_queries import encode_queries
from geoloc.stages.fit_codes import FitCodesConfig, FitCodesInputs
from geoloc.stages.index_build import IndexConfig, IndexInputs

POOLED = """
name: pooled
model:
  tile_px: 64
  tile_m: 51.2
  panorama_px: [32, 64]
  view: {kind: none}
  backbone: {widths: [8, 16], strides: [2, 2]}
  aggregation: {kind: gem}
  hash: {bits: 16, prefixes: [16]}
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallIndex:
    return build(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained model that pools the whole picture."""
    recipe = Recipe.from_yaml(POOLED)
    uri = str(tmp_path_factory.mktemp("pooled") / "model")
    save_model(GeoLocalizer(recipe.model), recipe, uri, metrics=[{"step": 1, "loss": 2.5}])
    return uri


def augmented(model: str, output: Path, **config: object) -> augment_model.AugmentModelResult:
    settings = AugmentModelConfig.model_validate({"flip": True, **config})
    return augment_model.run(settings, AugmentModelInputs(model=model), str(output))


def test_only_the_recipe_and_the_id_change(pooled: str, tmp_path: Path) -> None:
    result = augmented(pooled, tmp_path / "m", scales=(1.0, 1.25))
    before = Encoder.open(pooled, device="cpu")
    assert result.model_id == f"{before.model_id}-flip-x1-x1.25"
    for name in ("model.safetensors", "metrics.jsonl"):
        assert storage.read_bytes(storage.join(pooled, name)) == (tmp_path / "m" / name).read_bytes()
    changed = read_recipe(result.model_uri)
    assert changed.model.test_time is not None
    assert changed.model_copy(update={"model": changed.model.model_copy(update={"test_time": None})}) == (
        read_recipe(pooled)
    )


def test_a_second_run_is_the_first_and_other_settings_are_refused(pooled: str, tmp_path: Path) -> None:
    first, again = augmented(pooled, tmp_path / "m"), augmented(pooled, tmp_path / "m")
    assert again == first.model_copy(update={"reused": True})
    with pytest.raises(ArtifactError, match="--overwrite"):
        augmented(pooled, tmp_path / "m", scales=(1.0, 1.25))
    replaced = augmented(first.model_uri, tmp_path / "n", scales=(1.0, 1.25), flip=False)
    assert replaced.model_id == first.model_id.replace("-flip", "-x1-x1.25"), "in place of the one it had"


def test_a_model_that_keeps_the_azimuth_is_refused(small: SmallIndex, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its 16 columns are azimuths"):
        augmented(small.model, tmp_path / "m")
    assert not (tmp_path / "m" / "model.json").exists()


def test_a_fitted_encoder_stays_in_either_order(small: SmallIndex, pooled: str, tmp_path: Path) -> None:
    def fitted(model: str, name: str) -> fit_codes.FitCodesResult:
        inputs = FitCodesInputs(model=model, tiles=small.ingested)
        return fit_codes.run(FitCodesConfig(kind="itq", bits=16), inputs, str(tmp_path / name))

    codes_first = augmented(fitted(pooled, "codes").model_uri, tmp_path / "codes-flip").model_uri
    flip_first = fitted(augmented(pooled, tmp_path / "flip").model_uri, "flip-codes").model_uri
    pictures = np.stack(small.tiles[:4])
    plain = Encoder.open(str(tmp_path / "codes"), device="cpu")
    for uri in (codes_first, flip_first):
        encoder = Encoder.open(uri, device="cpu")
        assert "-flip-itq-" in encoder.model_id
        one, other = encoder.encode(pictures, "aerial"), encoder.encode(pictures[:, :, ::-1], "aerial")
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)
    arrays = Encoder.open(codes_first, device="cpu").hash_encoder.arrays()
    for name, array in plain.hash_encoder.arrays().items():
        np.testing.assert_array_equal(arrays[name], array)


@pytest.mark.usefixtures("parts_here")
def test_an_index_asks_with_the_augmentation_that_it_was_encoded_with(
    small: SmallIndex, pooled: str, tmp_path: Path, ray_local: None
) -> None:
    model = augmented(pooled, tmp_path / "m").model_uri
    codes, index, plain_codes = (str(tmp_path / name) for name in ("codes", "index", "plain"))
    encode.run(EncodeConfig(num_actors=1), EncodeInputs(tiles=small.ingested, model=model), codes)
    encode.run(EncodeConfig(num_actors=1), EncodeInputs(tiles=small.ingested, model=pooled), plain_codes)
    with pytest.raises(ModelMismatch):
        index_build.run(IndexConfig(), IndexInputs(codes=plain_codes, model=model), index)
    index_build.run(IndexConfig(), IndexInputs(codes=codes, model=model), index)
    localizer = Localizer.open(index, device="cpu", headings=1)
    mirrored = np.ascontiguousarray(small.tiles[17][:, ::-1])
    match = localizer.localize(mirrored, view="drone", heading_deg=0.0).matches[0]
    assert match.tile_id == small.tile_ids[17]
    assert match.similarity == pytest.approx(1.0, abs=2e-3)  # a mirror image has the embedding of its picture

    plain = Encoder.open(pooled, device="cpu")
    query = encode_photos(plain, [photo(mirrored, view="drone", heading_deg=0.0)], headings=1)
    with pytest.raises(ModelMismatch, match="use the model that lies in the index"):
        localizer.locator.search(query, k=1)

    queries = storage.join(small.ingested, "queries")
    encode_queries(queries, model, str(tmp_path / "encoded"), headings=1)
    table: pa.Table = part_table.read(str(tmp_path / "encoded"), columns=["query_id", "embedding"])
    stored = np.frombuffer(table["embedding"][0].as_py(), "<f2").astype(np.float32)
    number = int(table["query_id"][0].as_py().rpartition("-")[2])
    panorama = photo(small.panoramas[number], view="panorama", heading_deg=0.0, fov_deg=360.0)
    flipped, unflipped = (
        encode_photos(encoder, [panorama], headings=1).embedding[0, 0]
        for encoder in (Encoder.open(model, device="cpu"), plain)
    )
    np.testing.assert_allclose(stored, flipped, atol=1e-3)
    assert np.abs(flipped - unflipped).max() > 1e-2
