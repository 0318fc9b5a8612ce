"""Positions at which photos are taken and tiles are cut: points on streets, no closer to each other than a spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.network import CURVE_POINTS, Bounds, Network
from geoloc.synthetic.world.noise import hash_array, uniform

_PLACES_PER_EDGE = 40
_ASPHALT_SHARE = 0.62
"""Cameras keep to the middle of the street: this share of its half width."""


@dataclass(frozen=True)
class Positions:
    """Cameras and the tile centres that belong to them: x, y, centre_x, centre_y float64[N] in city metres."""

    x: FloatArray
    y: FloatArray
    centre_x: FloatArray
    centre_y: FloatArray

    def __len__(self) -> int:
        return len(self.x)


def street_points(network: Network, bounds: Bounds, seed: int) -> FloatArray:
    """Candidate camera points on the asphalt within bounds, in random order: float64[N, 2].

    Convention: x east, y north in city metres. A point depends on its street and the seed alone.
    """
    edges = network.edges_in(bounds)
    place = np.arange(_PLACES_PER_EDGE)
    key = (edges.i[:, None], edges.j[:, None], edges.kind[:, None], place[None])
    along = (place + uniform(seed, *key)) / _PLACES_PER_EDGE * (CURVE_POINTS - 1)
    lower = np.minimum(along.astype(int), CURVE_POINTS - 2)
    fraction = (along - lower)[..., None]
    row = np.arange(len(edges))[:, None]
    points = edges.curve[row, lower] * (1 - fraction) + edges.curve[row, lower + 1] * fraction
    side = (2 * uniform(seed + 1, *key) - 1) * _ASPHALT_SHARE * edges.half_width_m[:, None]
    points = (points + edges.normals()[row, lower] * side[..., None]).reshape(-1, 2)
    order = np.argsort(hash_array(seed + 2, *key).ravel(), kind="stable")
    points = points[order]
    west, south, east, north = bounds
    inside = (points[:, 0] > west) & (points[:, 0] < east) & (points[:, 1] > south) & (points[:, 1] < north)
    return np.asarray(points[inside])


def street_positions(
    network: Network, bounds: Bounds, count: int, spacing_m: float, seed: int, *,
    offset_m: float = 5.0, clear_of: FloatArray | None = None, clear_m: float = 0.0,
) -> Positions:  # fmt: skip
    """`count` cameras on streets and, for each, a tile centre uniform in a disc of `offset_m` around it.

    Centres lie in `bounds`, at least `spacing_m` from each other and `clear_m` from `clear_of` float64[M, 2].
    Raises `ConfigError` when the streets do not hold that many.

    Convention: x east, y north in city metres.
    """
    points = street_points(network, bounds, seed)
    number = np.arange(len(points))
    radius = offset_m * np.sqrt(uniform(seed + 3, number))
    angle = 2 * np.pi * uniform(seed + 4, number)
    centres = points + np.stack([radius * np.sin(angle), radius * np.cos(angle)], -1)
    west, south, east, north = bounds
    inside = (
        (centres[:, 0] > west) & (centres[:, 0] < east) & (centres[:, 1] > south) & (centres[:, 1] < north)
    )
    if clear_of is not None:
        inside &= ~_near(centres, clear_of, clear_m)
    points, centres = points[inside], centres[inside]
    chosen = thin(centres, count, spacing_m)
    if len(chosen) < count:
        raise ConfigError(
            f"Only {len(chosen)} of {count} positions fit on the streets at a spacing of {spacing_m:g} m; "
            "ask for fewer or a smaller spacing."
        )
    return Positions(points[chosen, 0], points[chosen, 1], centres[chosen, 0], centres[chosen, 1])


def _near(points: FloatArray, others: FloatArray, limit_m: float) -> BoolArray:
    """Mask of the points that lie nearer than the limit to any of the others: bool[N]."""
    if limit_m <= 0 or not len(others):
        return np.zeros(len(points), bool)
    tree = cKDTree(others)
    return np.asarray(tree.query(points, distance_upper_bound=limit_m)[0] < limit_m)


def thin(points: FloatArray, count: int, spacing_m: float) -> IntArray:
    """Numbers of up to `count` of the points float64[N, 2] in metres: int64[M].

    The points are taken in their order; a point is left out when it lies nearer than the spacing to one before it.
    """
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    chosen: list[int] = []
    limit = spacing_m * spacing_m
    for number, (x, y) in enumerate(points.tolist()):
        if len(chosen) == count:
            break
        i, j = int(x // spacing_m), int(y // spacing_m)
        around = (cells.get((i + a, j + b), ()) for a in (-1, 0, 1) for b in (-1, 0, 1))
        if all((x - u) ** 2 + (y - v) ** 2 >= limit for cell in around for u, v in cell):
            cells.setdefault((i, j), []).append((x, y))
            chosen.append(number)
    return np.asarray(chosen, np.int64)


def positions_in_tiles(
    network: Network, centres: FloatArray, tile_m: float, count: int, seed: int
) -> Positions:
    """Cameras anywhere on the street within tiles: each in a tile drawn at random, uniform over what street it has.

    Convention: tiles are squares of side `tile_m` around `centres` float64[N, 2], x east, y north.
    """
    half = tile_m / 2
    order = np.argsort(uniform(seed, np.arange(len(centres))), kind="stable")
    found: list[tuple[float, float, float, float]] = []
    for turn in range(count):
        x, y = centres[order[turn % len(order)]]
        points = street_points(network, (x - half, y - half, x + half, y + half), seed + 10 + turn)
        if len(points):
            found.append((float(points[0, 0]), float(points[0, 1]), float(x), float(y)))
    table = np.asarray(found, np.float64).reshape(-1, 4)
    return Positions(table[:, 0], table[:, 1], table[:, 2], table[:, 3])
