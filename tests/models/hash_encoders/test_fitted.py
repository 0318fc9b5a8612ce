"""The fitted encoders: what each promises of its codes, on embeddings whose places are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geoloc.core.errors import ConfigError, InputError, ModelMismatch
from geoloc.models.hash_encoders.contrastive import Contrastive
from geoloc.models.hash_encoders.encoder import FitSample, HashEncoder, load_encoder
from geoloc.models.hash_encoders.itq import Itq, principal_components
from geoloc.models.hash_encoders.random_projection import RandomProjection
from geoloc.models.hash_encoders.two_stage import TwoStage
from geoloc.recipe.model import HashEncoderSection

DIM = 32
SMALL_MLP = TwoStage(hidden=64, epochs=4, learning_rate=0.3, negatives=64, batch_size=64)


def pairs(count: int, seed: int, noise: float = 0.15) -> FitSample:
    """Places on a curved sheet of 6 dimensions, photos as noisy tiles."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(6, DIM))
    tiles = np.tanh(rng.normal(size=(count, 6)) @ basis)
    photos = tiles + noise * rng.normal(size=tiles.shape)
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (tiles, photos)]
    return FitSample(unit[0], unit[1], np.arange(count))


def fit(section: HashEncoderSection, bits: int, sample: FitSample) -> HashEncoder:
    encoder: HashEncoder = section.network.fit(section, bits, sample)
    return encoder


@pytest.mark.parametrize(
    "section",
    [RandomProjection(), Itq(), Itq(prefixes=(8, 16)), Contrastive(prefixes=(8,), steps=3), SMALL_MLP],
)
def test_a_fitted_encoder_survives_its_file_and_a_seed_fixes_it(
    tmp_path: Path, section: HashEncoderSection
) -> None:
    sample = pairs(200, 0)
    encoder, again = fit(section, 24, sample), fit(section, 24, sample)
    assert encoder.card == again.card
    loaded = load_encoder(str(tmp_path), section, 24, encoder.save(str(tmp_path)))
    for side, x in (("ground", sample.photos), ("aerial", sample.tiles)):
        assert x is not None
        logits = encoder.logits(x, side)  # type: ignore[arg-type]
        assert logits.shape == (200, 24)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(loaded.logits(x, side), logits, atol=1e-6)  # type: ignore[arg-type]
        assert np.array_equal(encoder.codes(x, side), np.packbits(logits > 0, axis=1))  # type: ignore[arg-type]
    shaped = encoder.logits(sample.tiles[:6].reshape(2, 3, DIM), "aerial")
    np.testing.assert_allclose(shaped.reshape(6, 24), encoder.logits(sample.tiles[:6], "aerial"), atol=1e-6)
    with pytest.raises(ModelMismatch):
        load_encoder(str(tmp_path), section, 16, encoder.save(str(tmp_path)))


def test_itq_ends_where_another_step_of_it_changes_nothing() -> None:
    tiles = pairs(400, 1).tiles
    logits = fit(Itq(iterations=200), 16, FitSample(tiles)).logits(tiles, "aerial")
    # A step of ITQ: signs, then the rotation that brings the logits nearest to them (Procrustes).
    left, _, right = np.linalg.svd(np.sign(logits).T @ logits)
    np.testing.assert_allclose(left @ right, np.eye(16), atol=0.02)


def test_itq_loses_less_by_signs_than_the_components_it_rotates() -> None:
    tiles = pairs(600, 2).tiles
    encoder = fit(Itq(), 16, FitSample(tiles))
    mean, directions = principal_components(tiles)

    def loss(logits: np.ndarray) -> float:
        return float(np.square(np.sign(logits) - logits / logits.std()).mean())

    components = (tiles - mean) @ directions[:16].T
    logits = encoder.logits(tiles, "aerial")
    np.testing.assert_allclose(
        np.square(logits).sum(1), np.square(components).sum(1), rtol=1e-3
    )  # a rotation
    assert loss(logits) < loss(components)


def test_prefixes_are_rotated_apart() -> None:
    tiles = pairs(600, 3).tiles
    nested, short = fit(Itq(prefixes=(8,)), 24, FitSample(tiles)), fit(Itq(), 8, FitSample(tiles))
    assert nested.nested
    assert not short.nested
    assert np.array_equal(nested.codes(tiles, "aerial")[:, :1], short.codes(tiles, "aerial"))


def test_directions_of_a_random_projection_are_orthogonal_and_a_prefix_is_a_shorter_one() -> None:
    sample = pairs(50, 4)
    wide, short = fit(RandomProjection(), 48, sample), fit(RandomProjection(), 16, sample)
    weight = wide.arrays()["weight"]
    np.testing.assert_allclose(weight[:DIM] @ weight[:DIM].T, np.eye(DIM), atol=1e-5)
    assert np.array_equal(wide.codes(sample.tiles, "aerial")[:, :2], short.codes(sample.tiles, "aerial"))
    other = fit(RandomProjection(seed=2), 16, sample)
    assert not np.array_equal(other.codes(sample.tiles, "aerial"), short.codes(sample.tiles, "aerial"))


def nearer_than_own(encoder: HashEncoder, sample: FitSample) -> float:
    """Share of the tiles whose logits are nearer to a photo's than those of its own tile; 0.5 by chance."""
    assert sample.photos is not None
    photos, tiles = encoder.logits(sample.photos, "ground"), encoder.logits(sample.tiles, "aerial")
    cosine = (photos / np.linalg.norm(photos, axis=1, keepdims=True)) @ (
        tiles / np.linalg.norm(tiles, axis=1, keepdims=True)
    ).T
    return float((cosine > cosine.diagonal()[:, None]).mean())


def test_the_two_stage_encoder_learns_what_photos_and_tiles_share() -> None:
    learned = fit(SMALL_MLP.model_copy(update={"epochs": 25}), 32, pairs(256, 5))
    assert nearer_than_own(learned, pairs(60, 6)) < 0.2  # 0.11 on places that it never saw
    untrained = fit(SMALL_MLP.model_copy(update={"epochs": 1, "learning_rate": 1e-9}), 32, pairs(256, 5))
    assert nearer_than_own(untrained, pairs(60, 6)) > 0.35


def test_hidden_columns_favour_no_value_of_a_bit() -> None:
    encoder = fit(Itq(), 16, pairs(300, 7))
    mean = encoder.arrays()["mean"].reshape(4, 8)
    shown = np.arange(8) < 4
    part = (mean * shown).ravel()[None]
    whole = encoder.logits_of_parts(part / np.sqrt(0.5), shown[None], "ground")
    assert np.abs(whole).max() < 1e-6


def test_samples_and_lengths_that_cannot_be_are_refused() -> None:
    sample = pairs(20, 8)
    with pytest.raises(ConfigError, match="32 dimensions"):
        fit(Itq(), 40, sample)
    with pytest.raises(InputError, match="cannot give 24"):
        fit(Itq(), 24, sample)
    with pytest.raises(InputError, match="photos and their tiles"):
        fit(TwoStage(), 24, FitSample(sample.tiles))
    assert sample.photos is not None
    with pytest.raises(InputError, match="single pair"):
        fit(SMALL_MLP, 24, FitSample(sample.tiles, sample.photos[:1], np.zeros(1, np.int64)))
