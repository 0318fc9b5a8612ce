"""Layout of each kind of block: houses with gardens, terraces, towers, works, parks, parking, sport."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world import blocks as kinds
from geoloc.synthetic.world.blocks import Block, Plan, choose_kind, street_trees
from geoloc.synthetic.world.buildings import HOUSE, TERRACE, TOWER, WORKS
from geoloc.synthetic.world.network import Network
from geoloc.synthetic.world.noise import value_noise


def lay_out(network: Network, i: int, j: int) -> Block:
    """The block between the nodes (i, j) and (i + 1, j + 1)."""
    plan = Plan(network, i, j)
    kind = choose_kind(network, i, j, plan.centre)
    plan.block.kind = kind
    _LAYOUTS[kind](plan)
    street_trees(plan)
    return plan.finish()


def _rectangle(plan: Plan, side: int, a0: float, a1: float, b0: float, b1: float) -> FloatArray:
    return plan.at(*plan.on_side(side, [a0, a1, a1, a0], [b0, b0, b1, b1]))


def _houses(plan: Plan) -> None:
    """Two rows of lots back to back; each has a house, a drive and a garden of its own."""
    first = int(plan.rng.integers(2)) * 2
    length, depth = plan.side_m(first)
    low = plan.rng.uniform(12, 17)
    for side in (first, first + 1):
        middle, share = plan.rows(length, low, low + 4)
        setback = plan.rng.uniform(2.5, 8)
        for a, width in zip(middle, share, strict=True):
            _garden(plan, side, float(a), float(width))
            if plan.rng.random() > 0.06:
                _house(plan, side, float(a), float(width) * length, length, depth, setback)


def _garden(plan: Plan, side: int, a: float, width: float) -> None:
    """The ground of one lot, its hedges and the trees of its back garden."""
    rng = plan.rng
    a0, a1 = a - width / 2, a + width / 2
    material = int(
        rng.choice([kinds.LAWN, kinds.LAWN, kinds.LAWN, kinds.LAWN, kinds.BED, kinds.GRAVEL, kinds.PAVING])
    )
    plan.block.grounds.append((_rectangle(plan, side, a0, a1, 0, 0.5), material, int(rng.integers(70, 186))))
    if rng.random() < 0.3:
        b0 = rng.uniform(0.3, 0.42)
        bed = _rectangle(plan, side, a0 + width * 0.1, a1 - width * rng.uniform(0.2, 0.6), b0, b0 + 0.07)
        plan.block.grounds.append(
            (bed, int(rng.choice([kinds.BED, kinds.SOIL, kinds.CONCRETE])), int(rng.integers(70, 186)))
        )
    barrier, height = (
        (kinds.HEDGE, rng.uniform(1.0, 2.2))
        if rng.random() < 0.6
        else (kinds.CONCRETE, rng.uniform(0.8, 1.8))
    )
    front = rng.uniform(0, 0.1)
    if rng.random() < 0.55:
        line = plan.at(*plan.on_side(side, [a1, a1], [front, 0.5]))
        plan.block.lines.append((line, barrier, 0.8, height))
    if rng.random() < 0.45:
        line = plan.at(*plan.on_side(side, [a0, a0 + width * rng.uniform(0.4, 0.75)], [0.004, 0.004]))
        plan.block.lines.append((line, barrier, 0.8, height * 0.7))
    count = int(rng.integers(0, 5))
    where = plan.on_side(side, a + width * rng.uniform(-0.42, 0.42, count), rng.uniform(0.26, 0.49, count))
    plan.plant(plan.at(*where), rng.uniform(1.2, 4.2, count))
    if rng.random() < 0.35:
        where = plan.on_side(side, a + width * rng.uniform(-0.4, 0.4, 1), rng.uniform(0.02, 0.06, 1))
        plan.plant(plan.at(*where), rng.uniform(0.9, 2.6))
    if rng.random() < 0.12:
        x, y = plan.at(*plan.on_side(side, a, rng.uniform(0.33, 0.42)))
        plan.block.ponds.append((float(x), float(y), rng.uniform(2, 4), rng.uniform(1.5, 2.5), kinds.POOL))


def _house(
    plan: Plan, side: int, a: float, width_m: float, length: float, depth: float, setback: float
) -> None:
    """One house with its drive, sometimes with a wing or a garage."""
    rng = plan.rng
    wide, deep = width_m * rng.uniform(0.52, 0.8), rng.uniform(7.5, 12)
    front = setback + rng.uniform(-1, 1.5)
    b = (front + deep / 2) / depth
    shift = (width_m - wide) * rng.uniform(-0.4, 0.4) / length
    wall = float(rng.choice([3.0, 3.2, 5.6, 6.0, 6.4, 8.4]))
    gable = rng.uniform(1.6, 3.8) if rng.random() < 0.82 else 0.0
    plan.build_on_side(side, a + shift, b, wide, deep, wall, gable, HOUSE)
    if rng.random() < 0.35:
        at = a + shift + rng.choice([-1, 1]) * wide * 0.22 / length
        plan.build_on_side(
            side, at, b + deep * 0.75 / depth, wide * 0.5, deep * 0.7, wall * 0.6, gable * 0.4, HOUSE
        )
    edge = rng.choice([-1, 1])
    drive = a + edge * (width_m / 2 - 2.0) / length
    if rng.random() < 0.6:
        lane = _rectangle(
            plan, side, drive - 1.4 / length, drive + 1.4 / length, -2.5 / depth, (front + 4) / depth
        )
        material = int(rng.choice([kinds.PAVING, kinds.ASPHALT, kinds.GRAVEL, kinds.CONCRETE]))
        plan.block.grounds.append((lane, material, int(rng.integers(90, 170))))
    if wide < width_m - 5 and rng.random() < 0.4:
        plan.build_on_side(side, drive, (front + 6) / depth, 3.4, 6.0, 2.6, 0.0, HOUSE)


def _terraces(plan: Plan) -> None:
    """A closed row along each street around a yard."""
    rng = plan.rng
    deep, wall = rng.uniform(10, 14), rng.uniform(9, 20)
    yard = int(rng.choice([kinds.LAWN, kinds.LAWN, kinds.PAVING, kinds.GRAVEL, kinds.BED]))
    plan.block.grounds.append(
        (plan.outline, int(rng.choice([kinds.LAWN, kinds.PAVING, kinds.PAVING])), plan.block.tone)
    )
    inner = plan.at([0.2, 0.8, 0.8, 0.2], [0.2, 0.2, 0.8, 0.8])
    plan.block.grounds.append((inner, yard, int(rng.integers(80, 176))))
    for side in range(4):
        length, depth = plan.side_m(side)
        middle, share = plan.rows(length, 12, 26)
        keep = rng.random(len(middle)) > 0.12
        if side > 1:
            keep &= np.abs(middle - 0.5) * length + share * length / 2 < length / 2 - deep + 2
        count = int(keep.sum())
        thick = deep * rng.uniform(0.8, 1.15, count)
        height = np.maximum(5.5, wall + rng.normal(0, 3, count))
        gable = np.where(rng.random(count) < 0.4, rng.uniform(2, 4, count), 0)
        plan.build_on_side(
            side, middle[keep], thick / 2 / depth, share[keep] * length * 0.985, thick, height, gable, TERRACE
        )
    if rng.random() < 0.5:
        u, v = rng.uniform(0.35, 0.65, 2)
        plan.build(u, v, rng.uniform(7, 16), rng.uniform(7, 16), rng.uniform(3, 8), 0.0, TERRACE)
    points = plan.at(*rng.uniform(0.22, 0.78, (2, int(rng.integers(3, 15)))))
    plan.plant(points, rng.uniform(1.4, 4.2, len(points)))


def _towers(plan: Plan) -> None:
    """Tall buildings on a paved base, with squares, beds and trees between them."""
    rng = plan.rng
    columns, rows = (max(1, int(m / rng.uniform(25, 40))) for m in (plan.u_m, plan.v_m))
    base = int(rng.choice([kinds.PAVING, kinds.PAVING, kinds.CONCRETE, kinds.LAWN]))
    plan.block.grounds.append((plan.outline, base, plan.block.tone))
    for a in range(columns):
        for b in range(rows):
            u, v = (a + 0.5) / columns, (b + 0.5) / rows
            if rng.random() < 0.14:
                _square(plan, u, v, 0.4 / columns, 0.4 / rows)
                continue
            wide, deep = rng.uniform(0.55, 0.94, 2) * (plan.u_m / columns, plan.v_m / rows)
            tall = rng.uniform(12, 28) if rng.random() < 0.65 else rng.uniform(28, 50)
            if rng.random() < 0.4:
                plan.build(u, v, wide, deep, tall * 0.45, 0.0, TOWER)
                plan.build(u, v, wide * 0.6, deep * 0.6, tall, 0.0, TOWER)
            else:
                plan.build(u, v, wide, deep, tall, 0.0, TOWER)
    for _ in range(int(rng.integers(4, 12))):
        side, start = int(rng.integers(4)), rng.uniform(0.05, 0.8)
        length, depth = plan.side_m(side)
        bed = _rectangle(
            plan, side, start, start + rng.uniform(4, 14) / length, 0.4 / depth, rng.uniform(2.5, 5) / depth
        )
        plan.block.grounds.append(
            (bed, int(rng.choice([kinds.LAWN, kinds.BED, kinds.CLAY])), int(rng.integers(80, 180)))
        )
        plan.plant(bed.mean(0), rng.uniform(1.0, 2.4))


def _square(plan: Plan, u: float, v: float, half_u: float, half_v: float) -> None:
    """An open square: another ground, sometimes a pond, and trees."""
    rng = plan.rng
    corners = plan.at(u + half_u * np.array([-1, 1, 1, -1]), v + half_v * np.array([-1, -1, 1, 1]))
    plan.block.grounds.append(
        (
            corners,
            int(rng.choice([kinds.LAWN, kinds.GRAVEL, kinds.CLAY, kinds.CONCRETE])),
            int(rng.integers(80, 180)),
        )
    )
    if rng.random() < 0.3:
        x, y = plan.at(u, v)
        plan.block.ponds.append((float(x), float(y), rng.uniform(3, 6), rng.uniform(3, 6), kinds.WATER))
    count = int(rng.integers(2, 9))
    points = plan.at(u + half_u * rng.uniform(-1, 1, count), v + half_v * rng.uniform(-1, 1, count))
    plan.plant(points, rng.uniform(1.4, 3.6, count))


def _works(plan: Plan) -> None:
    """Halls on concrete yards behind a fence, with stacks of goods."""
    rng = plan.rng
    yard = int(rng.choice([kinds.CONCRETE, kinds.ASPHALT, kinds.GRAVEL]))
    plan.block.grounds.append((plan.outline, yard, plan.block.tone))
    columns = int(rng.integers(1, 4))
    for a in range(columns):
        for _ in range(int(rng.integers(1, 3))):
            u, v = (a + rng.uniform(0.4, 0.6)) / columns, rng.uniform(0.25, 0.75)
            wide, deep = plan.u_m / columns * rng.uniform(0.45, 0.85), plan.v_m * rng.uniform(0.28, 0.62)
            gable = rng.uniform(1, 3) if rng.random() < 0.35 else 0.0
            plan.build(u, v, wide, deep, rng.uniform(5, 13), gable, WORKS)
    count = int(rng.integers(3, 14))
    u, v = rng.uniform(0.06, 0.94, (2, count))
    turned = rng.random(count) < 0.5
    plan.build(
        u,
        v,
        np.where(turned, 6.1, 3.2),
        np.where(turned, 3.2, 6.1),
        rng.choice([2.6, 5.2], count),
        0.0,
        WORKS,
    )
    _border(plan, kinds.CONCRETE if rng.random() < 0.6 else kinds.HEDGE, 2.0)
    points = plan.at(*plan.on_side(int(rng.integers(4)), rng.random(8), np.full(8, 0.05)))
    plan.plant(points, rng.uniform(1.4, 3.2, 8))


def _border(plan: Plan, material: int, height_m: float) -> None:
    """A fence, wall or hedge on the block's edge, with gates left open."""
    rng = plan.rng
    for side in range(4):
        depth = plan.side_m(side)[1]
        if rng.random() < 0.3:
            continue
        gate = rng.uniform(0.15, 0.75)
        for a0, a1 in ((0.01, gate), (gate + 0.12, 0.99)):
            line = plan.at(*plan.on_side(side, [a0, a1], [0.6 / depth] * 2))
            plan.block.lines.append((line, material, 0.6, height_m))


def _park(plan: Plan) -> None:
    """Lawns with groves, paths, beds, sometimes a pond or a pavilion."""
    rng = plan.rng
    plan.block.grounds.append((plan.outline, kinds.LAWN, plan.block.tone))
    for _ in range(int(rng.integers(2, 6))):
        u, v, du, dv = *rng.uniform(0.1, 0.8, 2), *rng.uniform(0.05, 0.2, 2)
        bed = plan.at([u, u + du, u + du, u], [v, v, v + dv, v + dv])
        plan.block.grounds.append(
            (
                bed,
                int(rng.choice([kinds.BED, kinds.LAWN, kinds.CLAY, kinds.SOIL])),
                int(rng.integers(70, 186)),
            )
        )
    hub = rng.uniform(0.35, 0.65, 2)
    for side in range(4):
        gate = plan.on_side(side, rng.uniform(0.1, 0.9), 0.0)
        path = plan.at([gate[0], hub[0]], [gate[1], hub[1]])
        plan.block.lines.append((path, kinds.GRAVEL, rng.uniform(2.0, 3.2), 0.0))
    if rng.random() < 0.4:
        x, y = plan.at(*hub)
        plan.block.ponds.append((float(x), float(y), rng.uniform(6, 14), rng.uniform(4, 10), kinds.WATER))
    elif rng.random() < 0.5:
        plan.build(hub[0] + 0.1, hub[1] + 0.1, rng.uniform(6, 12), rng.uniform(6, 12), 3.5, 2.5, HOUSE)
    if rng.random() < 0.6:
        _border(plan, kinds.HEDGE, rng.uniform(0.8, 1.6))
    points = plan.at(*rng.random((2, int(plan.u_m * plan.v_m / 75))))
    grove = value_noise(points[:, 0], points[:, 1], 25, plan.network.seed + 40) > 0.42
    plan.plant(points[grove], rng.uniform(1.8, 5, int(grove.sum())))


def _parking(plan: Plan) -> None:
    """Rows of bays and a low hall."""
    rng = plan.rng
    plan.block.grounds.append((plan.outline, kinds.ASPHALT, plan.block.tone))
    plan.build(
        rng.uniform(0.25, 0.75),
        0.84,
        plan.u_m * rng.uniform(0.3, 0.7),
        plan.v_m * 0.24,
        rng.uniform(4, 9),
        0.0,
        WORKS,
    )
    pitch = 2.8 / plan.u_m
    for row in rng.uniform(0.08, 0.14) + np.arange(3) * rng.uniform(0.18, 0.21):
        for u in np.arange(0.06, 0.94, pitch):
            plan.block.lines.append((plan.at([u, u], [row, row + 5.0 / plan.v_m]), kinds.KERB, 0.4, 0.0))
        count = int(rng.integers(0, 7))
        plan.plant(plan.at(rng.random(count), np.full(count, row - 0.02)), rng.uniform(1.1, 2.2, count))
    _border(plan, kinds.HEDGE, rng.uniform(0.7, 1.4))


def _sport(plan: Plan) -> None:
    """A pitch with its lines, a stand and trees around."""
    rng = plan.rng
    plan.block.grounds.append((plan.outline, kinds.LAWN, plan.block.tone))
    u0, u1, v0, v1 = (
        *np.sort(rng.uniform([0.14, 0.72], [0.28, 0.86])),
        *np.sort(rng.uniform([0.14, 0.72], [0.28, 0.86])),
    )
    pitch = plan.at([u0, u1, u1, u0], [v0, v0, v1, v1])
    plan.block.grounds.append(
        (pitch, int(rng.choice([kinds.CLAY, kinds.LAWN, kinds.SOIL, kinds.BED])), int(rng.integers(90, 190)))
    )
    closed = np.concatenate([pitch, pitch[:1]])
    middle = plan.at([(u0 + u1) / 2] * 2, [v0, v1])
    plan.block.lines += [(closed, kinds.KERB, 0.4, 0.0), (middle, kinds.KERB, 0.4, 0.0)]
    side = int(rng.integers(4))
    plan.build_on_side(
        side, rng.uniform(0.3, 0.7), 0.06, rng.uniform(14, 30), 5.0, rng.uniform(3, 6), 1.0, WORKS
    )
    _border(plan, kinds.HEDGE if rng.random() < 0.5 else kinds.CONCRETE, 1.4)
    points = plan.at(*plan.on_side(int(rng.integers(4)), rng.random(12), rng.uniform(0.01, 0.09, 12)))
    plan.plant(points, rng.uniform(1.8, 4.5, 12))


_LAYOUTS: dict[int, Callable[[Plan], None]] = {
    kinds.PARK: _park,
    kinds.PARKING: _parking,
    kinds.SPORT: _sport,
    kinds.WORKS_QUARTER: _works,
    kinds.HOUSES: _houses,
    kinds.TERRACES: _terraces,
    kinds.TOWERS: _towers,
}
