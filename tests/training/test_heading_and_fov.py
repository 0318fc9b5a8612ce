from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from geoloc.models.encoder import Encoder
from geoloc.models.geolocalizer import GeoLocalizer
from geoloc.models.preprocessing import prepare_panorama
from geoloc.models.store import save_model
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import LossRecipe
from geoloc.training import validation
from geoloc.training.heading_and_fov import (
    CONDITIONS,
    PROTOCOL,
    Condition,
    measure_conditions,
    protocol_photos,
)
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, load_pairs
from geoloc.training.pair_trainer import PairTrainer

WIDTH = 64


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def panoramas(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, (count, 16, WIDTH, 3), dtype=np.uint8)


def test_the_heading_is_that_of_the_canvas_middle() -> None:
    images = panoramas()
    shown = protocol_photos(images, 360.0, heading_known=False, rng=rng())
    assert len(set(shown.heading_deg.tolist())) > 3
    assert shown.shown_px.all()
    for image, canvas, degrees in zip(images, shown.canvases, shown.heading_deg, strict=True):
        assert (canvas != image).any()
        # Brought to north by the rule of every other part of the house, it is the panorama again.
        recipe = Recipe.load("geoloc").model.model_copy(update={"panorama_px": (16, WIDTH)})
        np.testing.assert_array_equal(prepare_panorama(canvas, recipe, heading_deg=float(degrees)), image)


@pytest.mark.parametrize("fov", [180.0, 90.0, 70.0])
def test_a_limited_view_keeps_the_published_columns(fov: float) -> None:
    images = panoramas()
    kept = int(fov / 360 * WIDTH)
    unknown = protocol_photos(images, fov, heading_known=False, rng=rng())
    known = protocol_photos(images, fov, heading_known=True, rng=rng())
    turns = rng().integers(0, WIDTH, len(images))
    assert not known.heading_deg.any()
    left = (WIDTH - kept) // 2
    for row, image in enumerate(images):
        np.testing.assert_array_equal(
            unknown.canvases[row, :, left : left + kept], np.roll(image, -turns[row], axis=1)[:, :kept]
        )
        assert unknown.heading_deg[row] == (turns[row] - left) % WIDTH * 360 / WIDTH
        for each in (unknown, known):
            np.testing.assert_array_equal(each.canvases[row].any((0, 2)), each.shown_px[row])
            assert each.shown_px[row].sum() == kept
        seen = known.shown_px[row]
        np.testing.assert_array_equal(known.canvases[row][:, seen], image[:, seen])  # at its true place


@pytest.fixture(scope="module")
def trained(
    ingested: str, tiny: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Encoder, PairStore]:
    store = load_pairs(ingested, read_index(ingested), tiny)
    trainer = PairTrainer(store, tiny)
    for step in range(24):
        trainer.step(step / 24)
    uri = str(tmp_path_factory.mktemp("conditions") / "m")
    save_model(trainer.model, tiny, uri)
    return Encoder.open(uri), store


def test_recall_falls_as_less_is_known(trained: tuple[Encoder, PairStore]) -> None:
    results = {result.condition: result for result in measure_conditions(*trained)}
    assert list(results) == [condition.name for condition in CONDITIONS]
    assert set(PROTOCOL) <= set(results)
    assert results["aligned"].recall_1 > 70
    assert results["aligned"].recall_1 >= results["360"].recall_1 > 40
    assert results["360"].recall_1 > results["90"].recall_1
    assert results["90 known"].recall_1 >= results["90"].recall_1
    assert results["90"].recall_1 < results["90"].recall_10
    assert results["360"].heading_error_deg < 360 / 16
    assert results["360"].within_10_deg > 80
    assert results["aligned"].heading_error_deg is None
    assert (results["360"].photos, results["360"].tiles) == (80, 80)


def test_correlation_finds_what_turning_every_photo_finds(trained: tuple[Encoder, PairStore]) -> None:
    """The same tiles by encoding every heading of every photo, without any correlation."""
    encoder, store = trained
    (result,) = measure_conditions(encoder, store, [Condition("360")])
    shown = protocol_photos(store.panoramas, 360.0, heading_known=False, rng=np.random.default_rng(2019))
    tiles = encoder.encode(encoder.prepare(list(store.tiles), "aerial", extent_m=40.0), "aerial").embedding
    candidates = encoder.encode_headings(shown.canvases, "panorama", 16).embedding
    scores = np.einsum("qrd,td->qtr", candidates, tiles)
    own = store.tile_of
    first = scores.max(-1).argmax(1) == own
    assert result.recall_1 == pytest.approx(100 * first.mean(), abs=0.01)
    turn = scores[np.arange(80), own].argmax(-1) * 360 / 16
    coarse = np.abs((turn - shown.heading_deg + 180) % 360 - 180)[first]
    assert result.heading_error_deg < np.median(coarse)  # between the columns it is better


class Embeddings:
    """An encoder of fixed embeddings: `photos` [Q, D] and `tiles` [T, D], whatever the pictures are."""

    recipe = SimpleNamespace(
        loss=LossRecipe(), model=SimpleNamespace(turns_by_rolling=False, metres_per_pixel=1.0)
    )
    takes_clouds = False

    def __init__(self, photos: list[list[float]], tiles: list[list[float]]) -> None:
        self.photos, self.tiles = np.array(photos, np.float32), np.array(tiles, np.float32)

    def prepare(self, images: object, view: str, extent_m: float) -> None:
        return None

    def encode(self, images: object, view: str, clouds: object = None) -> SimpleNamespace:
        return SimpleNamespace(embedding=self.photos if view == "panorama" else self.tiles)

    def encode_headings(self, images: object, view: str, count: int) -> SimpleNamespace:
        return SimpleNamespace(embedding=self.photos[:, None].repeat(count, axis=1))


# Photo 0 ties with 1 other tile (rank 1.5), photo 1 with 7 (rank 4.5), photo 2 with 11 (rank 6.5); photo 3 has
# 10 better tiles and ties with none (rank 11).
TIED_TILES = [[1.0, 1, 1, 0]] * 2 + [[0, 1, 1, 1.0]] * 6 + [[0, 0, 1, 1.0]] * 4 + [[0, 0, 0, 0.5]]
TIED_PHOTOS = np.eye(4).tolist()
TIED_TILE_OF = np.array([1, 7, 0, 12])


def test_half_of_the_tied_tiles_stand_before_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, panoramas = np.zeros((13, 8, 8, 3), np.uint8), np.zeros((4, 8, 16, 3), np.uint8)
    store: Any = SimpleNamespace(tiles=tiles, panoramas=panoramas, tile_of=TIED_TILE_OF)
    encoder: Any = Embeddings(TIED_PHOTOS, TIED_TILES)
    (result,) = measure_conditions(encoder, store, [Condition("aligned", heading_known=True)])
    assert (result.recall_1, result.recall_5, result.recall_10) == (25.0, 50.0, 75.0)
    monkeypatch.setattr(validation.Encoder, "open", lambda uri: encoder)
    monkeypatch.setattr(validation, "read_index", lambda uri: None)
    monkeypatch.setattr(validation, "load_pairs", lambda *_: store)
    assert validation.validation_recall("model", "pairs") == {
        "validation_pairs": 4.0,
        "validation_recall_1": 25.0,
        "validation_recall_5": 50.0,
        "validation_recall_10": 75.0,
    }


def test_models_without_columns_try_headings(tmp_path: Path, ingested: str) -> None:
    recipe = Recipe.from_yaml(
        "name: square\nmodel: {tile_m: 32, tile_px: 32, panorama_px: [16, 64], view: {kind: none},"
        " backbone: {widths: [8, 8], strides: [2, 2]}, aggregation: {kind: gap}, orientation: {},"
        " hash: {bits: 64, prefixes: [64]}}\ntraining: {batch_size: 16, augmentation: {offset_m: 2}}\n"
    )
    torch.manual_seed(0)
    save_model(GeoLocalizer(recipe.model), recipe, str(tmp_path / "m"))
    store = load_pairs(ingested, read_index(ingested).take(np.arange(20)), recipe)
    (result,) = measure_conditions(Encoder.open(str(tmp_path / "m")), store, [Condition("90", 90.0)])
    assert 0 <= result.recall_1 <= result.recall_10 <= 100
    assert result.tiles == 20
