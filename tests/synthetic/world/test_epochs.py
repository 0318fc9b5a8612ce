from __future__ import annotations

import numpy as np
import pytest

from geoloc.synthetic.world.blocks import Block
from geoloc.synthetic.world.epochs import FELLED_SHARE, GONE_SHARE, REPAVED_SHARE, paving_epochs
from geoloc.synthetic.world.network import clearance_m
from geoloc.synthetic.world.raster import City

GRID = [(i, j) for i in range(11) for j in range(11)]


@pytest.fixture(scope="module")
def ages() -> list[dict[tuple[int, int], Block]]:
    cities = [City(seed=11, epoch=epoch, chunks=20) for epoch in range(3)]
    return [{name: made.block(*name) for name in GRID} for made in cities]


def rows_by_id(blocks: dict[tuple[int, int], Block]) -> dict[int, bytes]:
    table = np.concatenate([block.buildings for block in blocks.values()])
    assert len(np.unique(table["id"])) == len(table)
    return {int(row["id"]): row.tobytes() for row in table}


def test_a_few_buildings_come_and_go_and_the_others_keep_every_byte(
    ages: list[dict[tuple[int, int], Block]],
) -> None:
    before, after = rows_by_id(ages[0]), rows_by_id(ages[1])
    common = before.keys() & after.keys()
    assert all(before[name] == after[name] for name in common)
    gone, new = 1 - len(common) / len(before), 1 - len(common) / len(after)
    assert 0.6 * GONE_SHARE < gone < 1.4 * GONE_SHARE
    assert 0.02 < new < 0.09


def test_each_epoch_builds_on_the_one_before(ages: list[dict[tuple[int, int], Block]]) -> None:
    first, second, third = (set(rows_by_id(blocks)) for blocks in ages)
    assert len(third - second - first) > 10
    assert len((second - first) & third) > 0.8 * len(second - first)
    assert not (first - second) & third  # what is gone stays gone


def test_trees_grow_where_they_stand_and_few_are_felled(ages: list[dict[tuple[int, int], Block]]) -> None:
    trees = [np.concatenate([blocks[name].trees for name in GRID]) for blocks in ages[:2]]
    place = [{(x, y): (r, h) for x, y, r, h, _ in part} for part in trees]
    assert place[1].keys() <= place[0].keys()
    felled = 1 - len(place[1]) / len(place[0])
    assert 0.6 * FELLED_SHARE < felled < 1.6 * FELLED_SHARE
    grown = np.array([np.divide(place[1][at], place[0][at]) for at in place[1]])
    assert grown.min() >= 1
    assert 1.05 < grown.mean() < 1.2


def test_new_buildings_stand_free(ages: list[dict[tuple[int, int], Block]]) -> None:
    network = City(seed=11).network
    for name in GRID:
        before, after = ages[0][name].buildings, ages[1][name].buildings
        avenues = network.avenues_near(*name)
        for row in after[~np.isin(after["id"], before["id"])]:
            centre = np.array([[row["x"], row["y"]]])
            assert clearance_m(avenues, centre)[0] > 3
            assert network.river(row["x"], row["y"]) > 0.003


def test_streets_stay_and_some_are_repaved() -> None:
    now, then = City(seed=11, epoch=1), City(seed=11)
    bounds = (0.0, 0.0, 2000.0, 2000.0)
    edges, old = now.network.edges_in(bounds), then.network.edges_in(bounds)
    np.testing.assert_array_equal(edges.curve, old.curve)
    share = (paving_epochs(edges, 11, 1) == 1).mean()
    assert 0.6 * REPAVED_SHARE < share < 1.4 * REPAVED_SHARE, paving_epochs
    assert not paving_epochs(edges, 11, 0).any()


def test_most_of_a_picture_is_the_same_in_the_next_epoch() -> None:
    one, two = (City(seed=11, epoch=epoch).chunk(1, 1)[0] for epoch in (0, 1))
    assert 0.001 < (one.material != two.material).mean() < 0.12
    assert (one.height_cm != two.height_cm).mean() < 0.08
    assert 0.01 < (one.canopy_dm != two.canopy_dm).mean() < 0.25
    untouched = (one.canopy_dm == two.canopy_dm) & (one.height_cm == two.height_cm)
    assert (one.albedo == two.albedo).all(-1)[untouched].mean() > 0.85
