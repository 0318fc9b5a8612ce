"""The street network: a warped grid of nodes, curved edges between them, and diagonal avenues."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from geoloc.core.arrays import BoolArray, FloatArray, IntArray
from geoloc.synthetic.world.noise import uniform, value_noise
from geoloc.synthetic.world.style import Style
from geoloc.synthetic.world.zones import quarter_index

Bounds = tuple[float, float, float, float]
"""West, south, east, north in city metres."""

CURVE_POINTS = 17
_PATCH = 32
_STEPS = ((1, 0), (0, 1), (1, 1), (-1, 1))  # by kind: along x, along y, avenue, cross avenue


@dataclass(frozen=True)
class Edges:
    """Streets. i, j, kind: int64[N] name each; half_width_m: float64[N] of its asphalt; curve: float64[N, 17, 2]."""

    i: IntArray
    j: IntArray
    kind: IntArray
    half_width_m: FloatArray
    curve: FloatArray

    def __len__(self) -> int:
        return len(self.i)

    def only(self, keep: BoolArray) -> Edges:
        """The edges where keep bool[N] is true."""
        return Edges(self.i[keep], self.j[keep], self.kind[keep], self.half_width_m[keep], self.curve[keep])

    def draw(self, seed: int, *keys: ArrayLike) -> FloatArray:
        """A number in [0, 1) per edge that depends on its name, the seed and the keys: float64[N]."""
        return uniform(seed, self.i, self.j, self.kind, *keys)

    def normals(self) -> FloatArray:
        """Unit vectors to the left of the direction of travel at each curve point: float64[N, 17, 2].

        Convention: x east, y north, so that left of east is north.
        """
        along = np.gradient(self.curve, axis=1)
        along /= np.hypot(along[..., 0], along[..., 1])[..., None]
        return np.stack([-along[..., 1], along[..., 0]], -1)


class Network:
    """Streets of a city, any part of them computed on its own from integer coordinates."""

    def __init__(self, seed: int, style: Style) -> None:
        self.seed = seed
        self.style = style
        self._patches: dict[tuple[int, int], FloatArray] = {}

    def nodes(self, i: ArrayLike, j: ArrayLike) -> FloatArray:
        """Positions of crossings: float64[..., 2] in city metres (x east, y north)."""
        i, j = np.broadcast_arrays(np.asarray(i, np.int64), np.asarray(j, np.int64))
        out = np.empty((*i.shape, 2))
        if not out.size:
            return out
        patch_i, patch_j = i // _PATCH, j // _PATCH
        for a in range(int(patch_i.min()), int(patch_i.max()) + 1):
            for b in range(int(patch_j.min()), int(patch_j.max()) + 1):
                here = (patch_i == a) & (patch_j == b)
                out[here] = self._patch(a, b)[i[here] - a * _PATCH, j[here] - b * _PATCH]
        return out

    def _patch(self, a: int, b: int) -> FloatArray:
        """Crossings of a square of the grid, kept because neighbours ask for the same ones: float64[32, 32, 2]."""
        if (a, b) not in self._patches:
            if len(self._patches) > 64:
                self._patches.clear()
            i, j = np.meshgrid(np.arange(_PATCH) + a * _PATCH, np.arange(_PATCH) + b * _PATCH, indexing="ij")
            self._patches[a, b] = self._warped(i, j)
        return self._patches[a, b]

    def _warped(self, i: IntArray, j: IntArray) -> FloatArray:
        """Grid points after jitter by line and by node and a smooth warp: float64[..., 2]."""
        s, style = self.seed, self.style
        jitter, small = style.line_jitter * style.block_m, style.node_jitter_m * self._irregularity(i, j)
        x = style.block_m * i + jitter * (2 * uniform(s + 1, i) - 1) + small * (2 * uniform(s + 2, i, j) - 1)
        y = style.block_m * j + jitter * (2 * uniform(s + 3, j) - 1) + small * (2 * uniform(s + 4, i, j) - 1)
        east = style.warp_m * (2 * value_noise(x, y, style.warp_scale_m, s + 5) - 1)
        north = style.warp_m * (2 * value_noise(x, y, style.warp_scale_m, s + 6) - 1)
        return np.stack([x + east, y + north], -1)

    def _irregularity(self, i: IntArray, j: IntArray) -> FloatArray:
        """Share of the stray that the district of a grid point lets it have: float64[...]."""
        style = self.style
        if len(set(style.irregularity)) == 1:
            return np.full(np.shape(i), style.irregularity[0])
        place = quarter_index(self.seed, style, style.block_m * i, style.block_m * j)
        return np.asarray(style.irregularity)[place]

    def half_width_m(self, kind: ArrayLike, line: ArrayLike) -> FloatArray:
        """Half the asphalt's width of the grid line `line` of kind 0 (along x) or 1 (along y): float64[...]."""
        draw = uniform(self.seed + 7, kind, line)
        return np.select([draw < 0.2, draw < 0.75], [8.0, 4.6], 3.4)

    def index_range(self, bounds: Bounds) -> tuple[IntArray, IntArray]:
        """Grid lines whose nodes may affect `bounds`: columns int64[I] and rows int64[J].

        Convention: bounds are west, south, east, north in city metres; i grows to the east, j to the north.
        """
        west, south, east, north = bounds
        block, reach = self.style.block_m, self.style.reach_m
        i = np.arange(int((west - reach) // block) - 1, int((east + reach) // block) + 2)
        j = np.arange(int((south - reach) // block) - 1, int((north + reach) // block) + 2)
        return i, j

    def exists(self, i: IntArray, j: IntArray, kind: IntArray) -> BoolArray:
        """Mask of the candidate edges that are built: bool[...]."""
        s, style = self.seed, self.style
        wide = self.half_width_m(kind, np.where(kind == 0, j, i)) > 7
        open_ = wide | (uniform(s + 8, kind, i, j) >= style.closed_street_share)
        avenue = uniform(s + 9, i - j) < style.avenue_share
        cross = uniform(s + 10, i + j) < style.cross_avenue_share
        return np.select([kind < 2, kind == 2], [open_, avenue], cross)

    def edges_of(self, i: IntArray, j: IntArray, kinds: tuple[int, ...] = (0, 1, 2, 3)) -> Edges:
        """All edges that start at the nodes of columns i int64[I] and rows j int64[J].

        Convention: i grows to the east, j to the north.
        """
        grid = np.meshgrid(i, j, np.asarray(kinds), indexing="ij")
        ii, jj, kk = (g.ravel().astype(np.int64) for g in grid)
        keep = self.exists(ii, jj, kk)
        ii, jj, kk = ii[keep], jj[keep], kk[keep]
        street = self.half_width_m(kk, np.where(kk == 0, jj, ii))
        width = np.select([kk < 2, kk == 2], [street, 6.5], 5.0)
        return Edges(ii, jj, kk, width, self._curves(ii, jj, kk))

    def _curves(self, i: IntArray, j: IntArray, kind: IntArray) -> FloatArray:
        """Quadratic Bezier curves between the end nodes: float64[N, 17, 2]."""
        step = np.asarray(_STEPS)[kind]
        a, b = self.nodes(i, j), self.nodes(i + step[:, 0], j + step[:, 1])
        along = b - a
        normal = np.stack([-along[:, 1], along[:, 0]], -1) / np.hypot(along[:, 0], along[:, 1])[:, None]
        bend = (uniform(self.seed + 11, i, j, kind) - 0.5) * np.where(kind < 2, 12.0, 4.0)
        middle = (a + b) / 2 + normal * bend[:, None]
        t = np.linspace(0, 1, CURVE_POINTS)[None, :, None]
        curve = (1 - t) ** 2 * a[:, None] + 2 * t * (1 - t) * middle[:, None] + t * t * b[:, None]
        return np.asarray(curve)

    def edges_in(self, bounds: Bounds, margin_m: float = 12.0) -> Edges:
        """Edges that touch `bounds` widened by `margin_m`."""
        edges = self.edges_of(*self.index_range(bounds))
        low, high = edges.curve.min(1), edges.curve.max(1)
        west, south, east, north = bounds
        keep = (low[:, 0] < east + margin_m) & (high[:, 0] > west - margin_m)
        keep &= (low[:, 1] < north + margin_m) & (high[:, 1] > south - margin_m)
        return edges.only(keep)

    def blocks_in(self, bounds: Bounds, margin_m: float = 12.0) -> list[tuple[int, int]]:
        """Names (i, j) of the blocks that touch `bounds` widened by `margin_m`."""
        i, j = self.index_range(bounds)
        nodes = self.nodes(i[:, None], j[None, :])
        corners = np.stack([nodes[:-1, :-1], nodes[1:, :-1], nodes[1:, 1:], nodes[:-1, 1:]])
        low, high = corners.min(0), corners.max(0)
        west, south, east, north = bounds
        keep = (low[..., 0] < east + margin_m) & (high[..., 0] > west - margin_m)
        keep &= (low[..., 1] < north + margin_m) & (high[..., 1] > south - margin_m)
        return [(int(i[a]), int(j[b])) for a, b in np.argwhere(keep)]

    def avenues_near(self, i: int, j: int) -> Edges:
        """The avenues that may cross block (i, j)."""
        return self.edges_of(np.arange(i - 1, i + 3), np.arange(j - 1, j + 2), (2, 3))

    def river(self, x: ArrayLike, y: ArrayLike) -> FloatArray:
        """Signed distance-like value of the river: below 0 is water: float64[...]."""
        style, s = self.style, self.seed
        level = value_noise(x, y, 1300, s + 30) + 0.12 * value_noise(x, y, 160, s + 31)
        return np.asarray(np.abs(level - style.river_level) - style.river_width)


def clearance_m(avenues: Edges, points: FloatArray) -> FloatArray:
    """Distance of points float64[N, 2] from the asphalt of avenues, 1e6 where there are none: float64[N]."""
    if not len(avenues):
        return np.full(len(points), 1e6)
    start = avenues.curve[:, 0]
    along = avenues.curve[:, -1] - start
    offset = points[:, None] - start[None]
    t = np.clip((offset * along).sum(-1) / (along * along).sum(-1), 0, 1)
    apart = offset - t[..., None] * along
    return np.asarray((np.hypot(apart[..., 0], apart[..., 1]) - avenues.half_width_m).min(1))
