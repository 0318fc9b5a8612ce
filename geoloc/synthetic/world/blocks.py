"""City blocks: lots, buildings, trees, hedges and grounds between the streets.

Each block has its own random generator, so it does not depend on the order in which blocks are generated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world.buildings import BUILDING, Buildings, corners, furnish
from geoloc.synthetic.world.network import Network, clearance_m
from geoloc.synthetic.world.noise import generator, hash_array, hash_int
from geoloc.synthetic.world.zones import quarter_index

(LAWN, PAVING, ASPHALT, CLAY, GRAVEL, SOIL, WATER, POOL, HEDGE, BED, KERB, CONCRETE, SETTS, BRICK) = range(14)
"""Materials of the ground, as stored in the material layer."""

PARK, PARKING, SPORT, WORKS_QUARTER, HOUSES, TERRACES, TOWERS = range(7)
"""Kinds of block."""


@dataclass
class Block:
    """One block. Coordinates are city metres (x east, y north).

    outline: float64[4, 2]; grounds: (polygon float64[K, 2], material, tone 0..255) painted in order;
    lines: (polyline, material, width_m, height_m) of hedges, fences, walls and paths;
    ponds: (x, y, half_x, half_y, material); buildings: `BUILDING`[N]; trees: float64[T, 5] of x, y, radius_m,
    height_m, hue 0..1.
    """

    kind: int
    outline: FloatArray
    tone: int
    grounds: list[tuple[FloatArray, int, int]] = field(default_factory=list)
    lines: list[tuple[FloatArray, int, float, float]] = field(default_factory=list)
    ponds: list[tuple[float, float, float, float, int]] = field(default_factory=list)
    buildings: Buildings = field(default_factory=lambda: np.zeros(0, BUILDING))
    trees: FloatArray = field(default_factory=lambda: np.zeros((0, 5)))


class Plan:
    """An unfinished block: its frame, its random generator and the objects in it so far.

    Convention: u runs 0..1 along the block's southern side, v 0..1 along its western side, both inside the
    pavements. A side's frame is (a, b): a along the side, b into the block; sides are south, north, west, east.
    """

    def __init__(self, network: Network, i: int, j: int) -> None:
        self.network = network
        self.name = (i, j)
        self.avenues = network.avenues_near(i, j)
        self.rng = generator(network.seed + 100, i, j)
        quad = network.nodes(np.array([i, i + 1, i + 1, i]), np.array([j, j, j + 1, j + 1]))
        length_u = (np.hypot(*(quad[1] - quad[0])) + np.hypot(*(quad[2] - quad[3]))) / 2
        length_v = (np.hypot(*(quad[3] - quad[0])) + np.hypot(*(quad[2] - quad[1]))) / 2
        side = network.style.pavement_m + 0.6
        gap_u = (network.half_width_m(1, np.array([i, i + 1])) + side) / length_u
        gap_v = (network.half_width_m(0, np.array([j, j + 1])) + side) / length_v
        u = np.array([gap_u[0], 1 - gap_u[1]])
        v = np.array([gap_v[0], 1 - gap_v[1]])
        self.outline = _bilinear(quad, u[[0, 1, 1, 0]], v[[0, 0, 1, 1]])
        self.u_m = float(length_u * (u[1] - u[0]))
        self.v_m = float(length_v * (v[1] - v[0]))
        self.centre = self.outline.mean(0)
        self.sites: list[FloatArray] = []
        self.woods: list[FloatArray] = []
        self.block = Block(PARK, self.outline, int(self.rng.integers(90, 166)))

    def at(self, u: ArrayLike, v: ArrayLike) -> FloatArray:
        """City coordinates of block coordinates: float64[..., 2]."""
        return _bilinear(self.outline, np.asarray(u, np.float64), np.asarray(v, np.float64))

    def side_m(self, side: int) -> tuple[float, float]:
        """Length along a side and depth behind it, metres."""
        return (self.u_m, self.v_m) if side < 2 else (self.v_m, self.u_m)

    def on_side(self, side: int, a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Block coordinates u, v of a side's (a, b), which broadcast: float64[...] twice."""
        a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
        return ((a, b), (a, 1 - b), (b, a), (1 - b, a))[side]

    def build(
        self, u: ArrayLike, v: ArrayLike, size_u_m: ArrayLike, size_v_m: ArrayLike, wall_m: ArrayLike,
        gable_m: ArrayLike, kind: int,
    ) -> None:  # fmt: skip
        """Propose buildings centred at (u, v), sizes along the block's axes in metres."""
        parts = (u, v, size_u_m, size_v_m, wall_m, gable_m, float(kind))
        rows = np.broadcast_arrays(*(np.asarray(part, np.float64) for part in parts))
        self.sites.append(np.stack([row.ravel() for row in rows], -1))

    def build_on_side(
        self, side: int, a: ArrayLike, b: ArrayLike, along_m: ArrayLike, deep_m: ArrayLike,
        wall_m: ArrayLike, gable_m: ArrayLike, kind: int,
    ) -> None:  # fmt: skip
        """Propose buildings in a side's frame: `along_m` wide along the street, `deep_m` away from it."""
        u, v = self.on_side(side, a, b)
        size = (along_m, deep_m) if side < 2 else (deep_m, along_m)
        self.build(u, v, *size, wall_m, gable_m, kind)

    def plant(self, points: FloatArray, radius_m: ArrayLike) -> None:
        """Propose trees at city points float64[..., 2] with crowns of the given radius."""
        points = points.reshape(-1, 2)
        count = len(points)
        radius = np.broadcast_to(np.asarray(radius_m, np.float64).ravel(), count)
        height = radius * self.rng.uniform(1.5, 2.6, count) + 1.8
        self.woods.append(np.column_stack([points, radius, height, self.rng.random(count)]))

    def rows(self, length_m: float, low_m: float, high_m: float) -> tuple[FloatArray, FloatArray]:
        """Cut a side into lots of random width: centres and widths as shares of it, float64[N] twice."""
        count = max(1, int(length_m / self.rng.uniform(low_m, high_m)))
        cuts = np.concatenate([[0.0], np.cumsum(self.rng.uniform(0.7, 1.35, count))])
        cuts /= cuts[-1]
        return (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)

    def finish(self) -> Block:
        """The block with all proposals that stand free of avenues, the river and each other's walls."""
        if self.sites:
            self._raise_buildings(np.concatenate(self.sites))
        if self.woods:
            self._keep_trees(np.concatenate(self.woods))
        return self.block

    def _raise_buildings(self, sites: FloatArray) -> None:
        u, v, size_u, size_v, wall, gable, kind = sites.T
        wall = wall * self.network.style.low
        centre = self.at(u, v)
        ahead = self.at(u + 0.01, v) - centre
        angle = np.arctan2(ahead[:, 1], ahead[:, 0])
        table = furnish(self.rng, kind.astype(np.int64), gable <= 0, self.network.style.palette)
        table["id"] = hash_array(self.network.seed + 101, *self.name, np.arange(len(sites)))
        table["cos"], table["sin"] = np.cos(angle), np.sin(angle)
        table["half_u"], table["half_v"] = size_u / 2, size_v / 2
        table["wall_m"], table["gable_m"] = wall, gable
        table["x"], table["y"] = centre.T
        points = np.concatenate([corners(table), centre[:, None]], 1)
        clear = clearance_m(self.avenues, points.reshape(-1, 2)).reshape(-1, 5).min(1)
        dry = self.network.river(points[..., 0], points[..., 1]).min(1) > 0.003
        keep = (clear > 3.0) & dry & (size_u > 3) & (size_v > 3)
        self.block.buildings = table[keep]

    def _keep_trees(self, woods: FloatArray) -> None:
        clear = clearance_m(self.avenues, woods[:, :2])
        keep = (clear > woods[:, 2] * 0.3 + 0.5) & (self.network.river(woods[:, 0], woods[:, 1]) > 0.002)
        table = self.block.buildings
        if len(table):
            offset = woods[:, None, :2] - np.stack([table["x"], table["y"]], -1)[None]
            u = np.abs(offset[..., 0] * table["cos"] + offset[..., 1] * table["sin"]) - table["half_u"]
            v = np.abs(offset[..., 1] * table["cos"] - offset[..., 0] * table["sin"]) - table["half_v"]
            keep &= np.maximum(u, v).min(1) > woods[:, 2] * 0.35
        self.block.trees = woods[keep]


def _bilinear(quad: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    u, v = u[..., None], v[..., None]
    south = quad[0] * (1 - u) + quad[1] * u
    north = quad[3] * (1 - u) + quad[2] * u
    return np.asarray(south * (1 - v) + north * v)


def quarter(network: Network, point: FloatArray) -> int:
    """The kind of quarter (`WORKS_QUARTER`, `HOUSES`, `TERRACES` or `TOWERS`) at a city point float64[2].

    Convention: x east, y north in city metres.
    """
    return WORKS_QUARTER + int(quarter_index(network.seed, network.style, point[0], point[1]))


def choose_kind(network: Network, i: int, j: int, centre: FloatArray) -> int:
    """The kind of block (i, j): park, parking and sport by chance, else its quarter's.

    Convention: centre float64[2] is x east, y north in city metres.
    """
    style = network.style
    draw = hash_int(network.seed + 102, i, j) / 2**32
    for kind, share in ((PARK, style.park_share), (PARKING, style.parking_share), (SPORT, style.sport_share)):
        if draw < share:
            return kind
        draw -= share
    return quarter(network, centre)


def street_trees(plan: Plan) -> None:
    """Trees along the pavements, at a spacing and density of the block's own."""
    rng = plan.rng
    green = plan.network.style.street_trees[max(plan.block.kind - WORKS_QUARTER, 0)]
    if plan.block.kind < WORKS_QUARTER:  # parks and the like
        green = max(plan.network.style.street_trees)
    spacing, density = rng.uniform(7, 15), rng.random() * green
    for side in range(4):
        length, depth = plan.side_m(side)
        along = np.arange(4.0, length - 4.0, spacing) + rng.uniform(-2, 2)
        along = along[rng.random(len(along)) < density]
        if len(along) and rng.random() < 0.75:
            u, v = plan.on_side(side, along / length, np.full(len(along), -rng.uniform(0.5, 1.6) / depth))
            plan.plant(plan.at(u, v), rng.uniform(1.3, 3.2, len(along)))
