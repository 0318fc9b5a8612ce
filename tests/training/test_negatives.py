"""Photos of one place are no negatives of each other: the mask itself, and every loss that has to obey it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoloc.geometry.panorama import turn_panorama
from geoloc.models.geolocalizer import flatten
from geoloc.models.preprocessing import to_unit
from geoloc.recipe.recipe import Recipe
from geoloc.training import step
from geoloc.training.augment import draw_drone, draw_pairs
from geoloc.training.pair_trainer import PairTrainer
from geoloc.training.step import PairBatch, PairInputs, same_place_pairs
from training.test_step import changed, noise

NAN = float("nan")
# Pairs 0 and 3 share tile 5, far apart; 1 and 2 are 4.99 m apart, 1 and 4 exactly 5 m; 5 has no position, 6 has
# none either but shares the tile of 5.
EAST_M = [0.0, 100.0, 104.99, 900.0, 100.0, NAN, NAN, 300.0]
NORTH_M = [0.0, 0.0, 0.0, 0.0, 5.0, NAN, NAN, 0.0]
TILE = [5, 1, 2, 5, 4, 7, 7, 0]
SAME_PLACE = {(0, 3), (3, 0), (1, 2), (2, 1), (5, 6), (6, 5)}


def batch_of(rows: slice) -> PairBatch:
    return PairBatch(
        tiles=torch.empty(0),
        panoramas=torch.empty(0),
        east_m=torch.tensor(EAST_M)[rows],
        north_m=torch.tensor(NORTH_M)[rows],
        tile=torch.tensor(TILE)[rows],
    )


def expected_mask() -> torch.Tensor:
    mask = torch.eye(8, dtype=torch.bool)
    for i, j in SAME_PLACE:
        mask[i, j] = True
    return mask


def test_pairs_of_one_tile_or_of_near_cameras_show_one_place() -> None:
    torch.testing.assert_close(same_place_pairs(batch_of(slice(None)), 5.0), expected_mask())


def test_without_positions_and_shared_tiles_every_other_pair_is_a_negative() -> None:
    nothing = torch.full((3,), NAN)
    batch = PairBatch(torch.empty(0), torch.empty(0), nothing, nothing, torch.arange(3))
    torch.testing.assert_close(same_place_pairs(batch, 5.0), torch.eye(3, dtype=torch.bool))


def test_workers_know_the_places_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the second worker come after those of the first; within 1 km only unknown positions are apart."""
    there = batch_of(slice(4, 8))
    rows_of = {2: torch.stack([there.east_m, there.north_m], 1), 1: there.tile}
    monkeypatch.setattr(step, "gather_rows", lambda rows: torch.cat([rows, rows_of[rows.ndim]]))
    torch.testing.assert_close(same_place_pairs(batch_of(slice(0, 4)), 5.0), expected_mask())
    known = ~torch.isnan(torch.tensor(EAST_M))
    expected = (known[:, None] & known[None]) | expected_mask()
    torch.testing.assert_close(same_place_pairs(batch_of(slice(0, 4)), 1e3), expected)


def info_nce(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Both directions of the cross-entropy over the entries that count, pair by pair."""
    others = mask & ~torch.eye(len(mask), dtype=torch.bool)
    kept = logits.masked_fill(others, -torch.inf)
    own = logits.diagonal()
    return ((kept.logsumexp(1) - own) + (kept.logsumexp(0) - own)).mean() / 2


def relaxed(codes: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(codes.tanh()[:, None], references.tanh()[None], dim=2)


@pytest.mark.parametrize("masked", [True, False])
def test_every_term_of_the_loss_leaves_out_pairs_of_one_place(masked: bool) -> None:
    """Embeddings, codes and drone looks against InfoNCE over the negatives alone; so is the accuracy."""
    recipe = changed(
        Recipe.load("geoloc"),
        loss={
            "label_smoothing": 0.0,
            "quantisation_weight": 0.0,
            "orthogonality_weight": 0.0,
            "hashing_weight": 0.7,
            "aerial_weight": 0.3,
        },
        training={
            "batch_size": 8,
            "bfloat16": False,
            "negative_distance_m": 5.0,
            "augmentation": {"offset_m": 0, "photometric": 0, "roll": False, "flip": False},
        },
    )
    store = noise(recipe)
    # Tiles 0 and 3 are nearly the same and their photos are exchanged: each photo is most like the other's tile.
    for images in (store.tiles, store.panoramas):
        images[3] = (0.9 * images[0] + 0.1 * images[3]).round()
    store.panoramas[[0, 3]] = store.panoramas[[3, 0]]
    trainer = PairTrainer(store, recipe)
    model = trainer.model
    model.heads["aerial"].load_state_dict(model.heads["panorama"].state_dict())
    batch = trainer._batch(np.arange(8))
    mask = torch.eye(8, dtype=torch.bool)
    if masked:
        places = batch_of(slice(None))
        batch = PairBatch(batch.tiles, batch.panoramas, places.east_m, places.north_m, places.tile)
        mask = expected_mask()
    augmentation, zeros = recipe.training.augmentation, torch.zeros(8)
    generator = torch.Generator().manual_seed(3)
    draw = draw_pairs(zeros, zeros, augmentation, width_px=256, reach_m=0.0, generator=generator)
    drone = draw_drone(draw, augmentation, reach_m=0.0, generator=generator)
    trainer._pair_step.train()
    with torch.no_grad():
        result = trainer._pair_step(
            PairInputs(batch, 8, draw, drone, [None, None, None], torch.zeros(8, dtype=torch.int64))
        )
        tiles = to_unit(batch.tiles)
        looks = [
            to_unit(turn_panorama(batch.panoramas, draw.columns, draw.mirrored)),
            model.convert_view(tiles, draw.aerial),
            model.convert_view(tiles, drone),
        ]
        columns = model.columns_of(looks, ["panorama", "aerial", "drone"], [None, None, None])
        queries, references, drones = (flatten(look) for look in columns)
        expected = torch.zeros(())
        for weight, views in ((1.0, queries), (0.3, drones)):
            term = info_nce(views @ references.T / recipe.loss.temperature, mask)
            codes, own = model.hash(torch.cat([views, references])).chunk(2)
            prefixes = recipe.model.hash.prefixes
            for k in prefixes:
                similar = relaxed(codes[:, :k], own[:, :k]) / recipe.loss.hashing_temperature
                term = term + 0.7 / len(prefixes) * info_nce(similar, mask)
            expected = expected + weight * term
        similarity = queries @ references.T
        nearest = similarity.masked_fill(mask & ~torch.eye(8, dtype=torch.bool), -2).argmax(1)
    torch.testing.assert_close(result.loss, expected, rtol=1e-4, atol=1e-4)
    assert similarity.argmax(1)[[0, 3]].tolist() == [3, 0]
    assert nearest[[0, 3]].tolist() == ([0, 3] if masked else [3, 0])
    assert result.accuracy == (nearest == torch.arange(8)).float().mean()
