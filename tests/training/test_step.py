"""The training step of the recipes oricnn, stn and of unknown headings, over a handful of pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from geoloc.geometry.azimuth import best_turn_similarity
from geoloc.geometry.panorama import limit_view, turn_panorama
from geoloc.geometry.polar import aerial_to_polar
from geoloc.losses.contrastive import masked, symmetric_info_nce
from geoloc.models.geolocalizer import flatten
from geoloc.models.orientation_maps import Pose
from geoloc.models.preprocessing import to_unit
from geoloc.recipe.recipe import Recipe
from geoloc.training.augment import PairDraw, draw_pairs
from geoloc.training.pair_index import PairIndex
from geoloc.training.pair_store import PairStore
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.step import PairBatch, PairInputs, _turn_back

COUNT = 12


def noise(recipe: Recipe, seed: int = 0) -> PairStore:
    """Tiles of blotches with a margin of a quarter, their polar images as panoramas; no tables, no decoding."""
    rng = np.random.default_rng(seed)
    model = recipe.model
    side = model.tile_px * 5 // 4
    coarse = torch.from_numpy(rng.uniform(0, 255, (COUNT, 3, 12, 12))).float()
    tiles = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 255)
    height, width = model.panorama_px
    panoramas = aerial_to_polar(tiles, height_px=height, width_px=width, radius_px=model.tile_px / 2)
    zeros = np.zeros(COUNT)
    rows = np.arange(COUNT)
    index = PairIndex(
        photo=rows,
        tile=rows,
        camera_east_m=zeros,
        camera_north_m=zeros,
        east_m=rows * 100.0,
        north_m=zeros,
        photo_rows=rows,
        tile_rows=rows,
    )

    def pixels(images: torch.Tensor) -> np.ndarray:
        return images.permute(0, 2, 3, 1).round().byte().contiguous().numpy()

    return PairStore(pixels(tiles), pixels(panoramas), index, model.tile_m / 8)


def inputs_of(batch: PairBatch, draw: PairDraw) -> PairInputs:
    """Pairs that are seen once, in the light they have."""
    count = len(draw.columns)
    return PairInputs(batch, count, draw, None, [None, None, None], torch.zeros(count, dtype=torch.int64))


def changed(recipe: Recipe, **sections: dict[str, Any]) -> Recipe:
    data = recipe.model_dump(mode="json", exclude_none=True)
    for section, values in sections.items():
        data[section] = data[section] | values
    return Recipe.model_validate(data)


TRAINED = [
    "oricnn-small",
    "oricnn-scales-small",
    "stn-small",
    "stn-affine-l1-small",
    "stn-composed-small",
]


@pytest.mark.parametrize("name", TRAINED)
def test_small_recipes_take_steps(name: str) -> None:
    recipe = Recipe.load(name).with_overrides(batch_size=4, steps=10)
    trainer = PairTrainer(noise(recipe), recipe)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    for step in range(3):
        assert torch.isfinite(trainer.step(step / 10).loss)
    after = trainer.model.state_dict()
    still = [key for key in before if after[key].is_floating_point() and torch.equal(before[key], after[key])]
    assert not still  # every part learns or at least keeps statistics


def test_oricnn_learns_from_the_maps_alone_how_views_belong_together() -> None:
    recipe = changed(
        Recipe.load("oricnn-small"), training={"batch_size": 12, "learning_rate": 0.002, "bfloat16": False}
    )
    trainer = PairTrainer(noise(recipe), recipe)
    draws: list[PairDraw] = []
    inner = trainer._step.forward

    def kept(inputs: PairInputs) -> Any:
        draws.append(inputs.draw)
        return inner(inputs)

    trainer._step.forward = kept  # type: ignore[method-assign]
    trainer.step(0.0)
    (draw,) = draws
    assert draw.turned_apart
    assert set((draw.heading_deg % 90).tolist()) == {0.0}
    assert len(set(draw.columns.tolist())) > 4  # the panorama's turn is its own


def test_turned_maps_belong_to_turned_pictures() -> None:
    """A world turned together with its maps is the same world: what the views were shown must say so."""
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe.load("oricnn-small").training.augmentation
    draw = draw_pairs(
        torch.zeros(64), torch.zeros(64), recipe, width_px=256, reach_m=0.0, generator=generator
    )
    ground, above = draw.orientation_poses(256)
    assert ground is not None
    assert above is not None
    torch.testing.assert_close(ground.heading_deg, draw.columns * (360 / 256))
    torch.testing.assert_close(above.heading_deg, draw.heading_deg)
    assert draw.scale is None
    cropped = recipe.model_copy(update={"centre_crop": (0.683, 0.316)})
    draw = draw_pairs(
        torch.zeros(4000), torch.zeros(4000), cropped, width_px=256, reach_m=0.0, generator=generator
    )
    assert draw.scale is not None
    assert 0.683 <= draw.scale.min() < 0.7
    assert (draw.scale < 1).float().mean().item() == pytest.approx(0.316, abs=0.03)
    together = recipe.model_copy(update={"turn": None})
    draw = draw_pairs(
        torch.zeros(4), torch.zeros(4), together, width_px=256, reach_m=0.0, generator=generator
    )
    assert draw.orientation_poses(256) == (None, None)


def test_the_guided_loss_has_the_weighted_distance_added() -> None:
    base = changed(Recipe.load("stn-small"), training={"batch_size": 3, "bfloat16": False})
    store = noise(base)
    losses = []
    for weight in (None, 1.0, 3.0):
        recipe = changed(base, loss={"guidance_weight": weight})
        losses.append(float(PairTrainer(store, recipe).step(0.0).loss.detach()))
    assert losses[1] > losses[0] + 0.01
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)


def test_triplets_are_mined_from_the_stated_epoch_on() -> None:
    recipe = changed(
        Recipe.load("stn-none-small"),
        training={"batch_size": 4},
        loss={"triplet": {"mining": [[1, 1.0], [2, 0.1]]}},
    )
    trainer = PairTrainer(noise(recipe), recipe)
    seen = []
    for step in range(4):  # three batches of 4 are an epoch
        trainer.step(step / 10)
        seen.append((trainer._pair_step.pair_loss.hardest, trainer.epoch))
    assert seen == [(1.0, 1), (1.0, 1), (1.0, 2), (0.1, 2)]


def unknown(fov_deg: tuple[float, float] | None = None) -> Recipe:
    return changed(
        Recipe.load("geoloc"),
        loss={"heading": "unknown", "aerial_weight": 0.0},
        training={
            "batch_size": 8,
            "bfloat16": False,
            "augmentation": {"offset_m": 0, "photometric": 0, "turn": "any", "fov_deg": fov_deg},
        },
    )


def test_unknown_headings_are_compared_at_their_best_turn() -> None:
    recipe = changed(unknown(), loss={"hashing_weight": 0.0, "label_smoothing": 0.0})
    store = noise(recipe)
    trainer = PairTrainer(store, recipe)
    batch = trainer._batch(np.arange(8))
    draw = draw_pairs(
        torch.zeros(8),
        torch.zeros(8),
        recipe.training.augmentation,
        width_px=256,
        reach_m=0.0,
        generator=torch.Generator().manual_seed(3),
    )
    trainer._pair_step.train()
    with torch.no_grad():
        result = trainer._pair_step(inputs_of(batch, draw))
        model = trainer.model
        turned = to_unit(turn_panorama(batch.panoramas, draw.columns, draw.mirrored))
        polar = model.to_polar(to_unit(batch.tiles), draw.aerial)
        queries, references = (
            flatten(look) for look in model.columns_of([turned, polar], ["panorama", "aerial"])
        )
        logits = best_turn_similarity(queries, references, 32) / recipe.loss.temperature
        expected = symmetric_info_nce(masked(logits, None))
    torch.testing.assert_close(result.loss, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heading", ["unknown", None])
def test_of_a_limited_view_only_the_columns_it_shows_are_compared(heading: str | None) -> None:
    augmentation = {"offset_m": 0, "photometric": 0, "turn": heading and "any", "fov_deg": (70, 200)}
    recipe = changed(
        unknown(),
        loss={"hashing_weight": 0.0, "label_smoothing": 0.0, "heading": heading},
        training={"augmentation": augmentation},
    )
    trainer = PairTrainer(noise(recipe), recipe)
    batch = trainer._batch(np.arange(8))
    zeros, generator = torch.zeros(8), torch.Generator().manual_seed(4)
    draw = draw_pairs(
        zeros, zeros, recipe.training.augmentation, width_px=256, reach_m=0.0, generator=generator
    )
    assert draw.first is not None
    assert draw.kept is not None
    trainer._pair_step.train()
    with torch.no_grad():
        result = trainer._pair_step(inputs_of(batch, draw))
        model = trainer.model
        turned = turn_panorama(batch.panoramas, draw.columns, draw.mirrored)
        shown = to_unit(limit_view(turned, draw.first, draw.kept))
        polar = model.to_polar(to_unit(batch.tiles), draw.aerial)
        queries, references = model.columns_of([shown, polar], ["panorama", "aerial"])
    best = torch.full((8, 8), -1.0)
    for row in range(8):
        columns = {int(draw.first[row] + pixel) % 256 // 8 for pixel in range(int(draw.kept[row]))}
        seen = [c for c in columns if _pixels_shown(draw, row, c) >= 4]
        for turn in range(32) if heading else [0]:
            part = queries[row][:, seen].flatten()
            there = references[:, :, [(c + turn) % 32 for c in seen]].flatten(1)
            similar = torch.nn.functional.cosine_similarity(part[None], there)
            best[row] = torch.maximum(best[row], similar)
    expected = symmetric_info_nce(best / recipe.loss.temperature)
    torch.testing.assert_close(result.loss, expected, rtol=1e-3, atol=1e-3)


def _pixels_shown(draw: PairDraw, row: int, column: int) -> int:
    assert draw.first is not None
    assert draw.kept is not None
    pixels = range(8 * column, 8 * column + 8)
    return sum((pixel - int(draw.first[row])) % 256 < int(draw.kept[row]) for pixel in pixels)


def test_a_query_is_turn_back_before_it_is_coded() -> None:
    recipe = unknown()
    store = noise(recipe)
    trainer = PairTrainer(store, recipe)
    trainer.model.eval()
    tiles = to_unit(torch.from_numpy(store.tiles[:4]))
    columns = torch.tensor([0, 64, 200, 24])
    heading = torch.tensor([0.0, 45.0, 90.0, 315.0])
    mirrored = torch.tensor([False, False, True, True])
    zeros = torch.zeros(4)
    draw = PairDraw(columns, mirrored, zeros, zeros, heading, turned_apart=True)
    with torch.no_grad():
        # The panorama is the polar image itself, so its turn relative to the aerial look is exact in pixels.
        turned = trainer.model.to_polar(tiles, Pose(heading_deg=columns * (360 / 256), mirrored=mirrored))
        polar = trainer.model.to_polar(tiles, draw.aerial)
        query, reference = trainer.model.columns(turned, "aerial"), trainer.model.columns(polar, "aerial")
        aligned = _turn_back(query, draw.relative_turn(256))
    similarity = (flatten(aligned) * flatten(reference)).sum(1)
    assert similarity.min() > 0.99
    assert (flatten(query) * flatten(reference)).sum(1)[1:].max() < 0.9


def test_a_limited_view_leaves_the_rest_black() -> None:
    recipe = unknown((70.0, 90.0))
    draw = draw_pairs(
        torch.zeros(500),
        torch.zeros(500),
        recipe.training.augmentation,
        width_px=256,
        reach_m=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert draw.kept is not None
    assert draw.first is not None
    assert int(draw.kept.min()) == 49  # int(70 / 360 * 256)
    assert int(draw.kept.max()) == 63
    assert len(set(draw.first.tolist())) > 200
    trainer = PairTrainer(noise(recipe), recipe)
    assert torch.isfinite(trainer.step(0.0).loss)


def test_adam_has_the_papers_constants_and_a_constant_rate() -> None:
    recipe = changed(
        Recipe.load("stn-none-small"),
        training={
            "batch_size": 4,
            "optimizer": {"kind": "adam", "betas": [0.5, 0.999]},
            "schedule": "constant",
        },
    )
    trainer = PairTrainer(noise(recipe), recipe)
    assert type(trainer._optimizer) is torch.optim.Adam
    for progress in (0.0, 0.9):
        trainer.step(progress)
        group = trainer._optimizer.param_groups[0]
        assert group["lr"] == recipe.training.learning_rate
        assert group["betas"] == (0.5, 0.999)


def test_codes_without_a_loss_are_centred_all_the_same() -> None:
    recipe = changed(Recipe.load("oricnn-small"), loss={"hashing_weight": 0.0}, training={"batch_size": 8})
    trainer = PairTrainer(noise(recipe), recipe)
    weight = trainer.model.hash.project.weight.detach().clone()
    trainer.step(0.0)
    assert torch.equal(trainer.model.hash.project.weight, weight)
    assert trainer.model.hash.centre.running_mean.abs().max() > 0
