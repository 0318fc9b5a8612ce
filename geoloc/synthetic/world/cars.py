"""Cars of one view: parked at the kerb and driving, drawn anew for every look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.synthetic.world.network import Edges
from geoloc.synthetic.world.noise import uniform
from geoloc.synthetic.world.view_conditions import Look


@dataclass(frozen=True)
class Cars:
    """Cars as boxes.

    centre, ahead: float64[N, 2] (metres; unit vector); half_length_m, half_width_m, height_m: float64[N];
    colour: float64[N, 3].
    """

    centre: FloatArray
    ahead: FloatArray
    half_length_m: FloatArray
    half_width_m: FloatArray
    height_m: FloatArray
    colour: FloatArray

    def __len__(self) -> int:
        return len(self.centre)

    def near(self, x: float, y: float, low_m: float, high_m: float) -> Cars:
        """The cars whose centres are between two distances of a point."""
        away = np.hypot(self.centre[:, 0] - x, self.centre[:, 1] - y)
        keep = (away > low_m) & (away < high_m)
        return Cars(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def cars_on(edges: Edges, look: Look) -> Cars:
    """The cars on the given streets in one view; an edge's cars depend on its name and the look alone.

    Convention: x east, y north in city metres; `ahead` is the direction of travel, on the right-hand side.
    """
    points = np.arange(3, edges.curve.shape[1] - 3)
    place = np.stack(np.meshgrid(np.arange(len(edges)), points, [-1, 1], indexing="ij"), -1).reshape(-1, 3)
    edge, point, side = place.T
    key = (edges.i[edge], edges.j[edge], edges.kind[edge], point, side)
    busy = 2 * look.traffic * uniform(look.seed + 3, edges.i, edges.j, edges.kind)
    keep = uniform(look.seed + 4, *key) < busy[edge]
    edge, point, side = edge[keep], point[keep], side[keep]
    key = (edges.i[edge], edges.j[edge], edges.kind[edge], point, side)
    draw = [uniform(look.seed + 5 + k, *key) for k in range(7)]
    normal = edges.normals()[edge, point]
    half = edges.half_width_m[edge]
    shift = np.where(draw[0] < 0.7, half - 1.15, half * 0.45) * side
    along = np.stack([normal[:, 1], -normal[:, 0]], -1)
    centre = edges.curve[edge, point] + normal * shift[:, None] + along * (draw[1][:, None] - 0.5) * 3
    van = draw[2] < 0.12
    grey = np.repeat(25 + 215 * draw[3][:, None], 3, 1)
    vivid = 30 + 200 * np.stack([draw[4], draw[5], draw[6]], -1)
    colour = np.where((draw[1] < 0.65)[:, None], grey, vivid)
    return Cars(
        centre, along * -side[:, None], np.where(van, 2.9, 1.9 + 0.4 * draw[4]), np.where(van, 1.05, 0.86),
        np.where(van, 2.3, 1.45), colour,
    )  # fmt: skip
