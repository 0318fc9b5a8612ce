"""Changes over the years: buildings disappear and appear, trees grow and are felled, roads are repaved.

Streets, lots, and every building and tree that is not touched stay as they were, to the byte. Each epoch builds on
the one before; what happens to a thing is drawn from its own name, so that any part of the city ages on its own.
"""

from __future__ import annotations

import numpy as np

from geoloc.core.arrays import FloatArray, IntArray
from geoloc.synthetic.world.blocks import Block
from geoloc.synthetic.world.buildings import Buildings, furnish
from geoloc.synthetic.world.network import Edges, Network, clearance_m
from geoloc.synthetic.world.noise import generator, hash_array, uniform

GONE_SHARE = 0.05
"""Of the buildings, in each epoch; about half of their sites are built on again."""
REBUILT_SHARE = 0.5
NEW_SHARE = 0.35
"""Of the blocks: a new building on free ground, where there is room."""
FELLED_SHARE = 0.06
REPAVED_SHARE = 0.12
"""Of the streets: another surface, fresh marks."""
_GROWTH = (1.03, 1.2)
_TRIES = 8


def age_block(network: Network, name: tuple[int, int], block: Block, epoch: int) -> None:
    """Carry a block from epoch 0 to the given one, in place."""
    for turn in range(1, epoch + 1):
        seed = network.seed + 700 + 20 * turn
        _change_buildings(network, name, block, seed)
        _build_anew(network, name, block, seed)
        _grow(block, seed)


def paving_epochs(edges: Edges, seed: int, epoch: int) -> IntArray:
    """The epoch in which each street was last paved: int64[N], 0 for the first."""
    last = np.zeros(len(edges), np.int64)
    for turn in range(1, epoch + 1):
        last[edges.draw(seed + 715, turn) < REPAVED_SHARE] = turn
    return last


def _change_buildings(network: Network, name: tuple[int, int], block: Block, seed: int) -> None:
    """Some buildings are pulled down; on some of their sites others stand."""
    table = block.buildings
    gone = uniform(seed, table["id"]) < GONE_SHARE
    if not gone.any():
        return
    again = table[gone & (uniform(seed + 1, table["id"]) < REBUILT_SHARE)].copy()
    kept = table[~gone]
    if len(again):
        rng = generator(seed + 2, *name)
        _refurnish(rng, again, network.style.palette)
        again["id"] = hash_array(seed + 3, again["id"])
        again["half_u"] *= rng.uniform(0.75, 1.0, len(again))
        again["half_v"] *= rng.uniform(0.75, 1.0, len(again))
        again["wall_m"] *= rng.uniform(0.8, 1.5, len(again))
    block.buildings = np.concatenate([kept, again])


def _refurnish(rng: np.random.Generator, table: Buildings, palette: str) -> None:
    """Other colours, storeys and windows; geometry and kind stay."""
    fresh = furnish(rng, table["kind"].astype(np.int64), table["gable_m"] <= 0, palette)
    for field in ("facade", "roof", "trim", "storey_m", "bay_m", "window", "phase"):
        table[field] = fresh[field]


def _build_anew(network: Network, name: tuple[int, int], block: Block, seed: int) -> None:
    """One more building on free ground of some blocks, modelled on a neighbour; trees make room for it."""
    rng = generator(seed + 4, *name)
    if not len(block.buildings) or rng.random() >= NEW_SHARE:
        return
    model = block.buildings[rng.integers(len(block.buildings), size=1)].copy()
    radius = float(np.hypot(model["half_u"][0], model["half_v"][0])) + 0.5
    avenues = network.avenues_near(*name)
    for _ in range(_TRIES):
        u, v = rng.uniform(0.1, 0.9, 2)
        south, north = (block.outline[a] * (1 - u) + block.outline[b] * u for a, b in ((0, 1), (3, 2)))
        centre = south * (1 - v) + north * v
        if _is_free(network, block, avenues, centre, radius):
            _refurnish(rng, model, network.style.palette)
            model["id"] = hash_array(seed + 5, *name, 0)
            model["x"], model["y"] = centre
            block.buildings = np.concatenate([block.buildings, model])
            away = np.hypot(*(block.trees[:, :2] - centre).T)
            block.trees = block.trees[away > radius + 0.5 * block.trees[:, 2]]
            return


def _is_free(network: Network, block: Block, avenues: Edges, centre: FloatArray, radius_m: float) -> bool:
    """Whether a disc lies inside a block, off avenues, buildings and water."""
    table = block.buildings
    apart = np.hypot(table["x"] - centre[0], table["y"] - centre[1])
    if (apart < radius_m + np.hypot(table["half_u"], table["half_v"])).any():
        return False
    edge = np.roll(block.outline, -1, 0) - block.outline
    offset = centre - block.outline
    inside = (edge[:, 0] * offset[:, 1] - edge[:, 1] * offset[:, 0]) / np.hypot(edge[:, 0], edge[:, 1])
    dry = network.river(centre[0], centre[1]) > 0.003 + 0.0006 * radius_m
    return bool(inside.min() > radius_m and dry and clearance_m(avenues, centre[None])[0] > radius_m + 3)


def _grow(block: Block, seed: int) -> None:
    """Trees grow by a factor of their own; some are felled."""
    trees = block.trees
    if not len(trees):
        return
    place = np.floor(trees[:, :2] * 50).astype(np.int64).T
    kept = uniform(seed + 6, *place) >= FELLED_SHARE
    low, high = _GROWTH
    factor = low + (high - low) * uniform(seed + 7, *place)
    grown = trees.copy()
    grown[:, 2] = np.minimum(trees[:, 2] * factor, np.maximum(trees[:, 2], 5.5))
    grown[:, 3] = np.minimum(trees[:, 3] * factor, np.maximum(trees[:, 3], 20.0))
    block.trees = grown[kept]
