"""Clouds of training pairs: read, thinned, varied; and the recipes of 2.5D maps take steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from geoloc.core import part_table, schemas, storage
from geoloc.core.errors import InputError
from geoloc.models.orientation_maps import Pose
from geoloc.recipe.recipe import Recipe
from geoloc.recipe.training import AugmentationRecipe, CloudAugmentation, TwoViews
from geoloc.training.augment import draw_seeds, draw_twice, erase, roll_apart
from geoloc.training.cloud_store import load_clouds, vary_clouds
from geoloc.training.pair_trainer import PairTrainer
from tests.small_ingest import write_ingest
from tests.training.test_step import changed, noise

STILL = CloudAugmentation(jitter_m=0.0, drop=(0.0, 0.0))


def spread_clouds(count: int, points: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    places = rng.uniform(-100, 100, (count, points, 2))
    others = rng.uniform(0, 20, (count, points, 1)), rng.integers(0, 25, (count, points, 1))
    return np.concatenate([places, *others], axis=2).astype(np.float32)


def small(name: str) -> Recipe:
    return changed(
        Recipe.load(name).with_overrides(batch_size=4, steps=10),
        model={"tile_px": 32},
        training={"bfloat16": False},
    )


@pytest.mark.parametrize("name", ["map25d-small", "map25d-tile-small", "map25d-cloud-small"])
def test_recipes_of_maps_take_steps(name: str) -> None:
    recipe = small(name)
    store = noise(recipe)
    if recipe.model.cloud is not None:
        store = replace(store, clouds=spread_clouds(len(store.tiles), 600))
    trainer = PairTrainer(store, recipe)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    for step in range(3):
        assert torch.isfinite(trainer.step(step / 10).loss)
    after = trainer.model.state_dict()
    still = [key for key in before if after[key].is_floating_point() and torch.equal(before[key], after[key])]
    assert not still
    assert ("aerial" in trainer.model.backbones) == (name != "map25d-cloud-small")


def test_sharpness_sees_the_same_draws_twice_and_keeps_one_statistic() -> None:
    """With a radius of nothing, a step of SAM is the plain step, with its statistics too."""
    recipe = small("map25d-tile-small")
    flat = changed(recipe, training={"sharpness": {"rho": 1e-12, "adaptive": False}})
    store = noise(recipe)
    trainers = [PairTrainer(store, each) for each in (recipe, flat)]
    for trainer in trainers:
        for step in range(2):
            trainer.step(0.2 + step / 10)
    for (name, one), two in zip(
        trainers[0].model.state_dict().items(), trainers[1].model.state_dict().values(), strict=True
    ):
        if "num_batches" not in name:
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    sharp = PairTrainer(store, changed(recipe, training={"sharpness": {"rho": 0.5, "adaptive": True}}))
    sharp.step(0.2)
    plain = PairTrainer(store, recipe)
    plain.step(0.2)
    weights = [each.model.state_dict()["backbones.aerial.layers.0.0.weight"] for each in (sharp, plain)]
    assert not torch.equal(*weights)


def test_two_views_are_three_terms_of_the_same_loss() -> None:
    recipe = small("map25d-tile-small")
    store = noise(recipe)

    def loss(**weights: float) -> float:
        views = {"cross": 0.0, "references": 0.0, "queries": 0.0} | weights
        only = changed(recipe, loss={"two_views": views, "hashing_weight": 0.0})
        return float(PairTrainer(store, only).step(0.0).loss.detach())

    terms = [loss(cross=1.0), loss(references=1.0), loss(queries=1.0)]
    assert all(term > 0 for term in terms)
    assert loss(cross=1.0, references=2.0, queries=0.5) == pytest.approx(
        terms[0] + 2 * terms[1] + 0.5 * terms[2], rel=1e-4
    )


def test_both_views_of_a_pair_share_their_turn_and_nothing_else() -> None:
    recipe = AugmentationRecipe(offset_m=5.0, roll_apart_deg=10.0)
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(500)
    draw = draw_twice(zeros, zeros, recipe, width_px=360, reach_m=9.0, generator=generator)
    apart = roll_apart(draw, recipe, 360, generator)
    first, second = slice(0, 500), slice(500, 1000)
    assert torch.equal(draw.columns[first], draw.columns[second])
    assert torch.equal(draw.mirrored[first], draw.mirrored[second])
    assert torch.equal(apart.heading_deg[first], apart.heading_deg[second])
    assert (draw.east_m[first] != draw.east_m[second]).all()
    more = apart.columns - draw.columns
    assert set(more.tolist()) == set(range(-10, 11))
    assert not torch.equal(more[first], more[second])
    assert torch.equal(apart.heading_deg, draw.columns.float())


def test_erasing_hides_one_rectangle_of_its_share() -> None:
    seeds = draw_seeds(400, torch.Generator().manual_seed(1))
    images = torch.full((400, 3, 24, 40), -1.0)
    changed = erase(images, 0.75, seeds)
    assert torch.equal(
        erase(images[100:140], 0.75, seeds[100:140]), changed[100:140]
    )  # by each picture's own seed
    hidden = (changed >= 0)[:, 0]
    erased = hidden.flatten(1).any(1)
    assert 0.68 < float(erased.float().mean()) < 0.82
    for picture in hidden[erased]:
        rows, columns = picture.any(1).nonzero().flatten(), picture.any(0).nonzero().flatten()
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert int(box) == int(picture.sum())  # a whole rectangle
        assert int(box) <= 0.3 * 24 * 40


def test_clouds_are_jittered_within_their_limit_and_lose_their_share() -> None:
    clouds = torch.from_numpy(spread_clouds(20, 400)) * torch.tensor([0.5, 0.5, 1.0, 1.0])
    seeds = draw_seeds(20, torch.Generator().manual_seed(2))
    same = vary_clouds(clouds, Pose(), 76.0, 400, STILL, seeds)
    assert torch.equal(same, clouds)
    moved = vary_clouds(clouds, Pose(), 76.0, 400, CloudAugmentation(drop=(0.0, 0.0)), seeds)
    some = vary_clouds(clouds[5:9], Pose(), 76.0, 400, CloudAugmentation(drop=(0.0, 0.0)), seeds[5:9])
    assert torch.equal(some, moved[5:9])  # by each cloud's own seed
    apart = (moved - clouds)[..., :3]
    assert float(apart.abs().max()) <= 2.0 + 1e-5
    assert float(apart.std()) == pytest.approx(
        0.96, abs=0.02
    )  # of a normal distribution clipped at two sigma
    assert torch.equal(moved[..., 3], clouds[..., 3])
    fewer = vary_clouds(clouds, Pose(), 76.0, 400, CloudAugmentation(jitter_m=0.0, drop=(0.2, 0.3)), seeds)
    shares = [1 - len({tuple(row) for row in each.tolist()}) / 400 for each in fewer]
    assert min(shares) > 0.12
    assert max(shares) < 0.4
    assert np.std(shares) > 0.005


def write_with_points(uri: str, clouds: list[np.ndarray | None]) -> None:
    """The tiles of `write_ingest` with points."""
    write_ingest(uri, len(clouds))
    tiles = storage.join(uri, "tiles")
    table = part_table.read(tiles, kind="tiles")
    flat = [None if each is None else each.ravel().tolist() for each in clouds]
    import pyarrow as pa

    index = table.column_names.index("points")
    table = table.set_column(index, "points", pa.array(flat, schemas.TILES.field("points").type))
    with part_table.begin(tiles, "with points", overwrite=True) as draft:
        draft.publish(kind="tiles", parts=[draft.write_part(0, table)], quarantined={}, details={})


def test_clouds_are_read_by_their_tiles_and_thinned_evenly(tmp_path: Path) -> None:
    recipe = small("map25d-small")
    clouds = [each for each in spread_clouds(3, 3000, seed=3)]
    uri = str(tmp_path)
    write_with_points(uri, list(clouds))
    ids = part_table.read(storage.join(uri, "tiles"), columns=["tile_id"])["tile_id"].to_pylist()
    rows = {ids[2]: 0, ids[0]: 1}
    loaded = load_clouds(uri, rows, recipe, reach_m=0.0, limit_bytes=2**20)
    assert loaded is not None
    assert recipe.model.cloud is not None
    assert loaded.shape == (2, 640, 4)
    for row, source in ((0, clouds[2]), (1, clouds[0])):
        known = {tuple(point) for point in source.tolist()}
        assert {tuple(point) for point in loaded[row].tolist()} <= known
        assert len({tuple(point) for point in loaded[row].tolist()}) == 640
    plain = small("map25d-tile-small")
    assert load_clouds(uri, rows, plain, reach_m=0.0, limit_bytes=2**20) is None


def test_tiles_without_points_cannot_train(tmp_path: Path) -> None:
    write_with_points(str(tmp_path), [spread_clouds(1, 50)[0], None])
    ids = part_table.read(storage.join(str(tmp_path), "tiles"), columns=["tile_id"])["tile_id"].to_pylist()
    with pytest.raises(InputError, match=f"1 tiles of .* have no points, '{ids[1]}'"):
        load_clouds(
            str(tmp_path), {ids[0]: 0, ids[1]: 1}, small("map25d-small"), reach_m=0.0, limit_bytes=2**20
        )


def test_views_need_no_weight_to_be_named() -> None:
    assert TwoViews() == TwoViews(cross=1.0, references=1.0, queries=1.0)
