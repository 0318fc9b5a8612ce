from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pytest
import torch

from geoloc.core import storage
from geoloc.core.arrays import AnyArray, Float32Array
from geoloc.core.errors import ArtifactError, CorruptArtifact, ModelMismatch
from geoloc.models.card import read_card
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.hash_encoders.encoder import (
    FILE_NAME,
    FitSample,
    HashEncoder,
    Side,
    load_encoder,
    pack_codes,
)
from geoloc.models.hash_encoders.trained import TrainedEncoder
from geoloc.models.store import load_model, save_model
from geoloc.recipe.model import HashEncoderSection
from geoloc.recipe.recipe import Recipe

SMALL = """
name: small
model:
  tile_px: 64
  panorama_px: [16, 64]
  view: {height_px: 16, width_px: 64}
  backbone: {widths: [8, 8], strides: [4, 2]}
  aggregation: {kind: column_attention, columns: 8, channels: 4}
  hash: {bits: 64, prefixes: [32, 64]}
"""


class Halves(HashEncoderSection):
    """Signs of the first values, turned over for one side."""

    kind: Literal["halves"] = "halves"
    flip: bool = False


class HalvesEncoder(HashEncoder):
    """An encoder of one module, as an extension may bring it."""

    nested = True  # type: ignore[assignment]

    def __init__(self, section: Halves, bits: int, shift: Float32Array) -> None:
        super().__init__(section, bits, len(shift))
        self._shift = shift

    @classmethod
    def fit(cls, section: HashEncoderSection, bits: int, sample: FitSample) -> Self:
        return cls(section, bits, sample.tiles.mean(0))  # type: ignore[arg-type]

    def logits(self, embeddings: Float32Array, side: Side) -> Float32Array:
        centred = embeddings - self._shift
        wide = np.concatenate([centred] * -(-self.bits // self.embedding_dim), axis=-1)[..., : self.bits]
        return -wide if side == "ground" else wide

    def arrays(self) -> dict[str, AnyArray]:
        return {"shift": self._shift}

    @classmethod
    def from_arrays(cls, section: HashEncoderSection, bits: int, arrays: Mapping[str, AnyArray]) -> Self:
        return cls(section, bits, arrays["shift"])  # type: ignore[arg-type]


Halves.network = HalvesEncoder


@pytest.fixture
def fitted() -> HalvesEncoder:
    rng = np.random.default_rng(0)
    return HalvesEncoder.fit(Halves(), 64, FitSample(rng.normal(size=(9, 32)).astype(np.float32)))


def test_bit_0_is_the_highest_bit_of_byte_0() -> None:
    logits = -np.ones((2, 16), np.float32)
    logits[0, 0] = logits[1, 15] = 1
    assert pack_codes(logits).tolist() == [[128, 0], [0, 1]]


def test_an_encoder_survives_its_file_and_its_fingerprint_follows_its_content(
    tmp_path: Path, fitted: HalvesEncoder
) -> None:
    sha256 = fitted.save(str(tmp_path))
    loaded = load_encoder(str(tmp_path), fitted.section, 64, sha256)
    x = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)
    assert np.array_equal(loaded.logits(x, "aerial"), fitted.logits(x, "aerial"))
    assert loaded.card == fitted.card
    moved = HalvesEncoder(Halves(), 64, fitted._shift + 1)
    others = {
        moved.fingerprint,
        HalvesEncoder(Halves(flip=True), 64, fitted._shift).fingerprint,
        HalvesEncoder(Halves(), 32, fitted._shift).fingerprint,
    }
    assert len(others | {fitted.fingerprint}) == 4


def test_a_file_that_is_missing_damaged_or_of_another_kind_is_refused(
    tmp_path: Path, fitted: HalvesEncoder
) -> None:
    with pytest.raises(ArtifactError):
        load_encoder(str(tmp_path), fitted.section, 64, "0" * 64)
    sha256 = fitted.save(str(tmp_path))
    data = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptArtifact, match="checksum"):
        load_encoder(str(tmp_path), fitted.section, 64, sha256)
    (tmp_path / FILE_NAME).write_bytes(data.replace(b"shift", b"shaft"))
    changed = storage.sha256_bytes((tmp_path / FILE_NAME).read_bytes())
    with pytest.raises(ModelMismatch, match="fit the codes again"):
        load_encoder(str(tmp_path), fitted.section, 64, changed)


def test_the_trained_head_gives_the_codes_it_gave_without_the_interface(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = Recipe.from_yaml(SMALL)
    model = GeoLocalizer(recipe.model).eval()
    with torch.no_grad():
        model.hash.centre.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
    card = save_model(model, recipe, str(tmp_path))
    assert card.hash_encoder is not None
    assert card.hash_encoder.name == "trained"
    encoder = Encoder.open(str(tmp_path), device="cpu")
    assert encoder.hash_encoder.card == card.hash_encoder
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 64, 3), dtype=np.uint8)
    encoded = encoder.encode(pictures, "panorama")
    with torch.inference_mode():
        expected = load_model(str(tmp_path))[0].hash(torch.from_numpy(encoded.embedding)).numpy()
    np.testing.assert_allclose(encoded.logits, expected, atol=1e-6)
    assert np.array_equal(encoded.code, np.packbits(expected > 0, axis=-1))


def test_hidden_columns_favour_no_value_of_a_bit() -> None:
    torch.manual_seed(0)
    head = GeoLocalizer(Recipe.from_yaml(SMALL).model).eval().hash
    columns = torch.randn(4, 8)
    mean = (columns / columns.norm(dim=0) / 8**0.5).flatten()  # every column has its share of the length
    with torch.no_grad():
        head.centre.running_mean.copy_(head.project.weight @ mean)  # type: ignore[union-attr, operator]
    shown = np.arange(8)[None] < 4
    part = (mean.view(4, 8) * torch.from_numpy(shown[0])).flatten().numpy()[None]
    logits = TrainedEncoder(head, 64, 32).logits_of_parts(part / np.linalg.norm(part), shown, "ground")
    assert np.abs(logits).max() < 1e-5  # the mean place, half seen, is as undecided as the mean place


def test_a_recipe_that_names_an_encoder_that_was_never_fitted_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.from_yaml(SMALL)
    save_model(GeoLocalizer(recipe.model), recipe, str(tmp_path))
    assert read_card(str(tmp_path)).hash_encoder_sha256 is None
    assert "encoder" not in recipe.to_yaml()  # recipes of before keep their text and their fingerprint
