from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from geoloc.core import storage
from geoloc.core.errors import ArtifactError, ConfigError, CorruptArtifact, InputError, ModelMismatch
from geoloc.models.card import read_card
from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.store import load_model, save_model
from geoloc.recipe.recipe import Recipe

TEXT = """
name: small
model:
  tile_m: 40
  tile_px: 32
  panorama_px: [16, 64]
  elevation_deg: [-45, 45]
  view: {height_px: 16, width_px: 64}
  backbone: {widths: [8, 16], strides: [2, 2]}
  aggregation: {kind: column_attention, columns: 16, channels: 4}
  hash: {bits: 64, prefixes: [32, 64]}
"""


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    recipe = Recipe.from_yaml(TEXT)
    uri = str(tmp_path_factory.mktemp("model") / "m")
    save_model(GeoLocalizer(recipe.model), recipe, uri, metrics=[{"step": 1, "loss": 2.5}], fingerprint="f")
    return uri


@pytest.fixture(scope="module")
def encoder(model_uri: str) -> Encoder:
    return Encoder.open(model_uri)


POOLED = """
name: pooled
model:
  tile_m: 40
  tile_px: 32
  panorama_px: [32, 64]
  street: whole
  view: {kind: none}
  backbone: {widths: [8, 16], strides: [2, 2]}
  aggregation: {kind: gem}
  hash: {bits: 64, prefixes: [64]}
"""


def plain_and_augmented(text: str = POOLED, **test_time: object) -> tuple[Encoder, Encoder]:
    """Two encoders with the same weights, the second with an augmentation at test time."""
    torch.manual_seed(3)
    recipe = Recipe.from_yaml(text)
    model = GeoLocalizer(recipe.model)
    return Encoder(model, recipe, "m"), Encoder(model, recipe.with_test_time(**test_time), "m-augmented")


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def test_a_model_survives_its_directory(model_uri: str, encoder: Encoder) -> None:
    card = read_card(model_uri)
    assert encoder.model_id == card.model_id == f"small-{card.weights_sha256[:12]}"
    assert (card.bits, card.embedding_dim, card.tile_m, card.fingerprint) == (64, 64, 40.0, "f")
    model, recipe, _ = load_model(model_uri)
    assert recipe == Recipe.from_yaml(TEXT)
    torch.manual_seed(0)
    fresh = GeoLocalizer(recipe.model).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, fresh[name])
    assert storage.read_text(storage.join(model_uri, "metrics.jsonl")) == '{"step": 1, "loss": 2.5}\n'


def test_wrong_directories_are_one_sentence(model_uri: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished model"):
        Encoder.open(str(tmp_path / "nothing"))

    def copy(name: str) -> Path:
        target = tmp_path / name
        for file in storage.list_files(model_uri):
            storage.copy_file(file.uri, str(target / file.name))
        return target

    damaged = copy("damaged") / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(bytes(data))
    with pytest.raises(CorruptArtifact, match="does not match the checksum"):
        load_model(str(damaged.parent))
    (copy("card") / "model.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptArtifact, match="not a model card"):
        load_model(str(tmp_path / "card"))


def test_weights_of_another_recipe_are_refused(model_uri: str) -> None:
    import safetensors.torch

    from geoloc.models.store import load_weights

    state = safetensors.torch.load(storage.read_bytes(storage.join(model_uri, "model.safetensors")))
    other = Recipe.from_yaml(TEXT.replace("channels: 4", "channels: 8"))
    with pytest.raises(ModelMismatch, match="has shape"):
        load_weights(GeoLocalizer(other.model), state, where="x")
    unshared = Recipe.from_yaml(TEXT + "  shared_weights: false\n")
    with pytest.raises(ModelMismatch, match="lack"):
        load_weights(GeoLocalizer(unshared.model), state, where="x")
    with pytest.raises(ModelMismatch, match="unknown 'extra'"):
        load_weights(GeoLocalizer(Recipe.from_yaml(TEXT).model), state | {"extra": torch.zeros(1)}, where="x")


def test_rows_do_not_depend_on_their_batch(encoder: Encoder) -> None:
    batch = encoder.prepare(list(noise(70, 40, 40, 3)), "aerial")
    whole = encoder.encode(batch, "aerial")
    assert whole.embedding.shape == (70, 64)
    assert whole.code.shape == (70, 8)
    np.testing.assert_allclose(np.linalg.norm(whole.embedding, axis=1), 1.0, rtol=1e-5)
    again = encoder.encode(batch, "aerial")
    np.testing.assert_array_equal(again.embedding, whole.embedding)
    for row in (0, 33, 69):
        one = encoder.encode(batch[row : row + 1], "aerial")
        np.testing.assert_allclose(one.embedding[0], whole.embedding[row], atol=2e-6)
    empty = encoder.encode(batch[:0], "aerial")
    assert empty.embedding.shape == (0, 64)


@pytest.mark.parametrize("headings", [1, 4, 16, 32, 64])
def test_a_heading_candidate_is_the_picture_turned_to_north(encoder: Encoder, headings: int) -> None:
    panorama = noise(16, 64, 3)
    unknown = encoder.encode_headings(encoder.prepare([panorama], "panorama"), "panorama", headings)
    assert unknown.embedding.shape == (1, headings, 64)
    assert unknown.code.shape == (1, headings, 8)
    for candidate in range(headings):
        known = encoder.prepare([panorama], "panorama", heading_deg=candidate * 360 / headings)
        expected = encoder.encode(known, "panorama")
        np.testing.assert_allclose(unknown.embedding[0, candidate], expected.embedding[0], atol=1e-5)


@pytest.mark.parametrize(("headings", "passes"), [(8, 1), (32, 2)])  # the stride is 4 of 64 columns
@pytest.mark.parametrize("aggregation", [{"kind": "gem"}, {"kind": "safa", "heads": 3}], ids=["gem", "safa"])
def test_candidates_of_whole_map_heads_share_passes_and_equal_passes_of_their_own(
    aggregation: dict[str, object], headings: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    data = Recipe.from_yaml(TEXT).model_dump()
    data["model"]["aggregation"] = aggregation
    recipe = Recipe.model_validate(data)
    model = GeoLocalizer(recipe.model)
    for parameter in model.heads.parameters():
        torch.nn.init.normal_(parameter)  # as they start, SAFA's weights are all but equal at all positions
    encoder = Encoder(model, recipe, "m")
    seen: list[int] = []
    model.backbones["panorama"].register_forward_hook(lambda *_: seen.append(1))
    for view, size in (("panorama", (16, 64)), ("drone", (32, 32))):
        picture = noise(*size, 3)
        picture[:, : size[1] // 3] = 255  # unlike its turned self
        batch = encoder.prepare([picture, picture[:, ::-1]], view)  # type: ignore[arg-type]
        seen.clear()
        shared = encoder.encode_headings(batch, view, headings)  # type: ignore[arg-type]
        assert len(seen) == passes
        with monkeypatch.context() as patched:
            patched.setattr(type(recipe.model), "map_turns_by_rolling", False)
            alone = encoder.encode_headings(batch, view, headings)  # type: ignore[arg-type]
        assert len(seen) == passes + headings
        np.testing.assert_allclose(shared.embedding, alone.embedding, atol=1e-5)
        turned = np.abs(shared.embedding[:, 0] - shared.embedding[:, headings // 2]).max()
        assert (turned > 0.01) == (aggregation["kind"] == "safa")  # a pool over all positions sees no roll


def test_a_turned_drone_picture_is_found_at_its_heading(encoder: Encoder) -> None:
    tile = noise(32, 32, 3)
    reference = encoder.encode(encoder.prepare([tile], "aerial"), "aerial").embedding[0]
    for turns in range(4):
        # The drone flies towards turns * 90 degrees: that direction is at the top of its picture.
        photo = np.rot90(tile, turns).copy()
        candidates = encoder.encode_headings(encoder.prepare([photo], "drone"), "drone", 16).embedding[0]
        assert int((candidates @ reference).argmax()) == 4 * turns
        assert float((candidates @ reference).max()) > 0.999


def test_aerial_pictures_are_cut_to_the_field(encoder: Encoder) -> None:
    large = noise(96, 128, 3)  # 120 m on the shorter side: the field of 40 m is its middle third
    prepared = encoder.prepare([large], "drone", extent_m=120.0)
    np.testing.assert_array_equal(prepared[0], large[32:64, 48:80])
    with pytest.raises(ModelMismatch, match=r"covers 35 m, the model needs 40 m .*use larger tiles"):
        encoder.prepare([large], "aerial", extent_m=35.0)
    with pytest.raises(InputError, match="2 values for 1 pictures"):
        encoder.prepare([large], "aerial", extent_m=[50.0, 60.0])


def test_panoramas_are_cut_and_turned(encoder: Encoder) -> None:
    sphere = np.zeros((32, 64, 3), np.uint8)
    sphere[8:24] = 200  # elevations -45 to 45
    assert (encoder.prepare([sphere], "panorama") == 200).all()
    strip = np.zeros((16, 64, 3), np.uint8)
    strip[:, 0] = 255  # the left edge of a picture that looks east lies in the west
    west = encoder.prepare([strip], "panorama", heading_deg=90.0)
    assert west[0, 0].argmax(axis=0).tolist() == [16, 16, 16]
    photo = np.full((16, 20, 3), 90, np.uint8)
    street = encoder.prepare([photo], "street", fov_deg=90.0, heading_deg=0.0)
    assert (street[0, :, 24:40] == 90).all()
    assert street[0, :, :24].max() == 0
    for fov, heading in ((0.0, 0.0), (360.0, float("inf"))):
        with pytest.raises(InputError):
            encoder.prepare([strip], "panorama", fov_deg=fov, heading_deg=heading)


def test_misuse_is_one_sentence(encoder: Encoder, model_uri: str) -> None:
    with pytest.raises(InputError, match="call prepare first"):
        encoder.encode(noise(1, 8, 8, 3), "aerial")
    with pytest.raises(InputError, match="is not a view"):
        encoder.prepare([noise(8, 8, 3)], "submarine")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="headings is 7"):
        encoder.encode_headings(encoder.prepare([noise(16, 64, 3)], "panorama"), "panorama", 7)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no usable GPU"):
            Encoder.open(model_uri, device="cuda")


@pytest.mark.parametrize("view", ["aerial", "drone", "panorama", "street"])
def test_flip_adds_the_embedding_of_the_mirror_image(view: str) -> None:
    plain, flipped = plain_and_augmented(flip=True)
    batch = noise(20, 32, 32 if view in ("aerial", "drone") else 64, 3)
    one = plain.encode(batch, view).embedding  # type: ignore[arg-type]
    mirrored = plain.encode(batch[:, :, ::-1], view).embedding  # type: ignore[arg-type]
    assert np.abs(one - mirrored).max() > 1e-3  # else nothing would be shown
    both = flipped.encode(batch, view)  # type: ignore[arg-type]
    np.testing.assert_allclose(both.embedding, unit(one + mirrored), atol=1e-6)
    again = flipped.encode(np.ascontiguousarray(batch[:, :, ::-1]), view)  # type: ignore[arg-type]
    np.testing.assert_allclose(again.embedding, both.embedding, atol=1e-6)
    weight = plain._model.hash_head.state_dict()["project.weight"].numpy()
    logits = both.embedding @ weight.T / np.sqrt(1 + 1e-5)  # batch norm before any training
    np.testing.assert_allclose(both.logits, logits, atol=1e-5)


def test_scales_add_the_embeddings_of_resized_pictures() -> None:
    plain, scaled = plain_and_augmented(flip=True, scales=(1.0, 1.5))
    batch = noise(3, 32, 32, 3)
    parts = []
    for pictures in (batch, batch[:, :, ::-1].copy()):
        parts.append(plain.encode(pictures, "drone").embedding)
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        larger = torch.nn.functional.interpolate(images, (48, 48), mode="bicubic", align_corners=False)
        with torch.inference_mode():
            parts.append(plain._model(larger, "drone").numpy())
    np.testing.assert_allclose(scaled.encode(batch, "drone").embedding, unit(sum(parts)), atol=2e-6)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3


@pytest.mark.parametrize("test_time", [{"flip": True}, {"flip": True, "scales": (1.0, 1.5)}])
def test_a_candidate_of_an_augmented_model_is_the_picture_turned_first(test_time: dict[str, object]) -> None:
    _, encoder = plain_and_augmented(**test_time)
    panoramas, drone = noise(2, 32, 64, 3), noise(2, 32, 32, 3)
    found = encoder.encode_headings(panoramas, "panorama", 8).embedding
    for candidate in range(8):
        turned = encoder.encode(np.roll(panoramas, candidate * 8, axis=2), "panorama").embedding
        np.testing.assert_allclose(found[:, candidate], turned, atol=2e-6)
    found = encoder.encode_headings(drone, "drone", 4).embedding
    for candidate in range(4):  # the top looks along 90 * candidate degrees: north comes to the top
        turned = encoder.encode(np.rot90(drone, -candidate, axes=(1, 2)), "drone").embedding
        np.testing.assert_allclose(found[:, candidate], turned, atol=1e-4)


def test_a_polar_image_that_is_pooled_may_be_mirrored() -> None:
    text = POOLED.replace("{kind: none}", "{kind: polar, height_px: 32, width_px: 64}")
    plain, flipped = plain_and_augmented(text, flip=True)
    tiles = noise(4, 32, 32, 3)
    expected = plain.encode(tiles, "aerial").embedding + plain.encode(tiles[:, :, ::-1], "aerial").embedding
    np.testing.assert_allclose(flipped.encode(tiles, "aerial").embedding, unit(expected), atol=1e-6)
    found = flipped.encode_headings(tiles, "drone", 4).embedding
    turned = flipped.encode(np.rot90(tiles, -1, axes=(1, 2)), "drone").embedding
    np.testing.assert_allclose(found[:, 1], turned, atol=1e-4)


def test_an_augmentation_is_part_of_a_models_id(tmp_path: Path) -> None:
    plain, _ = plain_and_augmented(flip=True)
    recipe = plain.recipe.with_test_time(flip=True, scales=(1.0, 1.5))
    card = save_model(plain._model, recipe, str(tmp_path / "m"))
    assert card.model_id == f"pooled-{card.weights_sha256[:12]}-flip-x1-x1.5"
    batch = noise(2, 32, 32, 3)
    opened = Encoder.open(str(tmp_path / "m"), device="cpu")
    expected = Encoder(plain._model, recipe, "m").encode(batch, "aerial").embedding
    np.testing.assert_allclose(opened.encode(batch, "aerial").embedding, expected, atol=2e-6)


def test_columns_of_azimuth_are_not_mirrored(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="its 16 columns are azimuths"):
        encoder.recipe.with_test_time(flip=True)
