from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from geoloc.core.errors import ArtifactError, ConfigError
from geoloc.models.encoder import Encoder
from geoloc.recipe.recipe import Recipe
from geoloc.training import mining
from geoloc.training.mining import Miner
from geoloc.training.neighbours import NeighbourLists
from geoloc.training.pair_index import read_index
from geoloc.training.pair_store import PairStore, encode_tiles, load_pairs
from geoloc.training.pair_trainer import PairTrainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(ingested: str, tiny: Recipe) -> PairStore:
    return load_pairs(ingested, read_index(ingested), tiny)


@pytest.fixture(scope="module")
def mined(tiny: Recipe) -> Recipe:
    """5 batches of 16 an epoch; a mining before every second epoch."""
    hard = {"candidates": 20, "chosen": 8, "mine_every": 2}
    return tiny.with_overrides(sampler="similarity", hard_negatives=hard, bfloat16=False)


def lists_of(trainer: PairTrainer, store: PairStore, recipe: Recipe, wanted: int) -> np.ndarray:
    miner = Miner(trainer.model, recipe, store, workers=1, rank=0, device=CPU)
    return np.concatenate([block for _, block in miner.parts(wanted, number=1)])


def test_lists_are_the_tiles_nearest_by_code(
    store: PairStore, tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against all Hamming distances, block by block."""
    monkeypatch.setattr(mining, "_PAIRS", 7)
    monkeypatch.setattr(mining, "_TILES", 30)
    monkeypatch.setattr(mining, "PART_ROWS", 32)
    trainer = PairTrainer(store, tiny)
    found = lists_of(trainer, store, tiny, 10)
    encoder = Encoder(trainer.model, tiny, "m")
    tiles, photos = encode_tiles(encoder, store).code, encoder.encode(store.panoramas, "panorama").code
    distance = np.bitwise_count(photos[:, None] ^ tiles[None]).sum(2).astype(float)
    distance[np.arange(len(store)), store.tile_of] = (
        np.inf
    )  # cameras are 50 m apart: no other place is the same
    for row, candidates in enumerate(found):
        nearest = np.argsort(distance[row], kind="stable")[:10]
        # Tiles and pairs are one to one here; codes may differ in a bit by the micro-batch they are in.
        assert len(set(candidates.tolist()) & set(nearest.tolist())) >= 9
        assert row not in candidates


def test_tiles_that_look_the_same_are_no_candidates(store: PairStore, tiny: Recipe) -> None:
    """A tile that is there twice under two numbers, far apart, is the first to be confused."""
    tiles = np.array(store.tiles)
    noise = np.random.default_rng(0).integers(-1, 2, tiles[7].shape)
    tiles[50] = np.clip(tiles[7].astype(int) + noise, 0, 255)
    twins = replace(store, tiles=tiles)
    trainer = PairTrainer(twins, tiny)
    found = lists_of(trainer, twins, tiny, 40)
    assert 50 not in found[7]
    assert 7 not in found[50]
    assert sum(50 in each for each in found) > 5  # others have it


def test_photos_of_one_tile_or_near_each_other_are_no_candidates(store: PairStore, tiny: Recipe) -> None:
    tile = np.array(store.index.tile)
    tile[1] = tile[0]
    east = np.array(store.index.east_m)
    east[20:23] = east[20] + np.arange(3)
    north = np.array(store.index.north_m)
    north[20:23] = north[20]
    crowded = replace(store, index=replace(store.index, tile=tile, east_m=east, north_m=north))
    found = lists_of(PairTrainer(store, tiny), crowded, tiny, 70)
    for row, candidates in enumerate(found):
        kept = candidates[candidates >= 0].astype(np.int64)
        assert not crowded.index.same_place(np.array([row]), kept, 3.0).any()
        assert len(kept) == len(set(kept.tolist()))
    assert not {0, 1} & set(found[0].tolist())
    assert not {20, 21, 22} & set(found[21].tolist())


def test_a_run_mines_and_a_resumed_one_takes_the_same_batches(
    store: PairStore, mined: Recipe, tmp_path: Path
) -> None:
    """Killed after the first mining, whose weights it no longer has, and in the middle of an epoch."""
    whole = PairTrainer(store, mined, lists=NeighbourLists(str(tmp_path / "whole")))
    losses = []
    for step in range(14):
        if step == 12:
            state = whole.state()
        losses.append(float(whole.step(step / 40).loss.detach()))
    assert whole.lists.mined(1) is not None
    assert whole.lists.mined(2) is None
    resumed = PairTrainer(store, mined, lists=NeighbourLists(str(tmp_path / "whole")))
    resumed.restore(state)
    again = [float(resumed.step(step / 40).loss.detach()) for step in (12, 13)]
    assert again == pytest.approx(losses[12:], rel=1e-6)
    lost = PairTrainer(store, mined, lists=NeighbourLists(str(tmp_path / "other")))
    lost.restore(state)
    with pytest.raises(ArtifactError, match="mined at step 10, and its folder no longer has them"):
        lost.step(0.3)


def work(rank: int, workers: int, folder: str, uri: str, text: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=workers)
    recipe = Recipe.from_yaml(text)
    data = load_pairs(uri, read_index(uri), recipe)
    lists = NeighbourLists(f"{folder}/mined")
    trainer = PairTrainer(data, recipe, workers=workers, rank=rank, lists=lists)
    rows = batches_of(trainer)
    np.save(f"{folder}/rows-{rank}.npy", rows)
    dist.destroy_process_group()


def batches_of(trainer: PairTrainer) -> np.ndarray:
    """The batches of three epochs, with a mining before the last; no weight changes, so all count with the same."""
    batches = trainer._batches_from(0)
    rows = []
    for step in range(15):
        trainer.steps_done = step
        rows.append(next(batches))
    return np.stack(rows)


def test_two_workers_mine_the_batches_of_one(
    ingested: str, store: PairStore, mined: Recipe, tmp_path: Path
) -> None:
    alone = batches_of(PairTrainer(store, mined))
    mp.spawn(work, args=(2, str(tmp_path), ingested, mined.to_yaml()), nprocs=2)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"rows-{rank}.npy"), alone)


def test_recipes_name_samplers_that_fit(tiny: Recipe) -> None:
    with pytest.raises(ConfigError, match="hard_negatives need the sampler neighbours or similarity"):
        tiny.with_overrides(hard_negatives={"chosen": 4})
    with pytest.raises(ConfigError, match="chosen is 9, more than the 8 candidates"):
        tiny.with_overrides(sampler="neighbours", hard_negatives={"candidates": 8, "chosen": 9})
    assert "hard_negatives" not in tiny.to_yaml()
