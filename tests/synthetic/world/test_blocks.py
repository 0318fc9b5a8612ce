from __future__ import annotations

import numpy as np
import pytest

from geoloc.synthetic.world.block_layouts import lay_out
from geoloc.synthetic.world.blocks import PARK, PARKING, SPORT, Block
from geoloc.synthetic.world.buildings import corners
from geoloc.synthetic.world.network import Network, clearance_m
from geoloc.synthetic.world.style import Style


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(11, Style())


@pytest.fixture(scope="module")
def blocks(network: Network) -> dict[tuple[int, int], Block]:
    return {(i, j): lay_out(network, i, j) for i in range(10) for j in range(10)}


def test_blocks_do_not_depend_on_the_order(network: Network, blocks: dict[tuple[int, int], Block]) -> None:
    for i, j in ((9, 9), (0, 3), (5, 5)):
        again = lay_out(Network(11, Style()), i, j)
        assert again.buildings.tobytes() == blocks[i, j].buildings.tobytes()
        assert again.trees.tobytes() == blocks[i, j].trees.tobytes()
        assert [line[1:] for line in again.lines] == [line[1:] for line in blocks[i, j].lines]


def test_building_ids_are_unique_and_tell_the_block(blocks: dict[tuple[int, int], Block]) -> None:
    ids = np.concatenate([block.buildings["id"] for block in blocks.values()])
    assert len(ids) > 500
    assert len(np.unique(ids)) == len(ids)


def test_every_kind_of_block_is_there_and_none_rules(blocks: dict[tuple[int, int], Block]) -> None:
    kinds = np.bincount([block.kind for block in blocks.values()], minlength=7)
    assert kinds[[PARK, PARKING, SPORT]].sum() < 35
    assert (kinds > 0).sum() >= 5


def test_no_building_stands_on_an_avenue(network: Network, blocks: dict[tuple[int, int], Block]) -> None:
    avenues = network.edges_of(np.arange(-1, 12), np.arange(-1, 12), (2, 3))
    assert len(avenues) > 0
    for block in blocks.values():
        plan = corners(block.buildings).reshape(-1, 2)
        if len(plan):
            assert clearance_m(avenues, plan).min() > 2.5


def test_trees_stand_outside_walls(blocks: dict[tuple[int, int], Block]) -> None:
    for block in blocks.values():
        table = block.buildings
        if not len(table) or not len(block.trees):
            continue
        offset = block.trees[:, None, :2] - np.stack([table["x"], table["y"]], -1)[None]
        u = offset[..., 0] * table["cos"] + offset[..., 1] * table["sin"]
        v = offset[..., 1] * table["cos"] - offset[..., 0] * table["sin"]
        inside = (np.abs(u) < table["half_u"]) & (np.abs(v) < table["half_v"])
        assert not inside.any()


def test_buildings_are_no_taller_than_the_shadow_range_allows(blocks: dict[tuple[int, int], Block]) -> None:
    tallest = max(
        float((b.buildings["wall_m"] + b.buildings["gable_m"]).max(initial=0)) for b in blocks.values()
    )
    assert tallest < 60
