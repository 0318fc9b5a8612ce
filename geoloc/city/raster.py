"""Chunks: squares of 256 m rendered once into layers that every view reads, and windows put together from them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.city.blocks import (
    ASPHALT,
    BED,
    BRICK,
    CLAY,
    CONCRETE,
    GRAVEL,
    HEDGE,
    KERB,
    LAWN,
    PAVING,
    POOL,
    SETTS,
    SOIL,
    WATER,
    Block,
)  # fmt: skip
from geoloc.city.buildings import BUILDING, WORKS, Buildings, corners
from geoloc.city.ground import Ground, paint
from geoloc.city.network import Bounds, Edges, Network
from geoloc.city.noise import Double, Float, grain, mottle, noise_raster, uniform
from geoloc.city.quarters import lay_out
from geoloc.city.style import CHUNK_M, CHUNK_PX, PIXEL_M, Style

_COLOURS = {
    LAWN: (98, 122, 62), PAVING: (166, 161, 152), ASPHALT: (92, 92, 95), CLAY: (160, 88, 62), GRAVEL: (188, 170, 132),
    SOIL: (142, 120, 90), WATER: (52, 78, 92), POOL: (70, 160, 190), HEDGE: (58, 88, 44), BED: (128, 132, 58),
    KERB: (204, 202, 196), CONCRETE: (150, 148, 142),
    SETTS: (122, 106, 92), BRICK: (154, 92, 74),
}  # fmt: skip
_MOTTLED = {LAWN: 0.12, PAVING: 0.14, ASPHALT: 0.16, CLAY: 0.08, GRAVEL: 0.12, SOIL: 0.24, WATER: 0.05, BED: 0.3,
            HEDGE: 0.25, CONCRETE: 0.16, SETTS: 0.2, BRICK: 0.14}  # fmt: skip
_GREEN_TABLE = np.array([m in (LAWN, BED, HEDGE) for m in range(len(_COLOURS))], np.float32)
_GREEN_SHIFT = np.array([58, 18, 34], np.float32)
_COLOUR_TABLE = np.array([_COLOURS[m] for m in range(len(_COLOURS))], np.float32)
_MOTTLE_TABLE = np.array([_MOTTLED.get(m, 0.04) for m in range(len(_COLOURS))], np.float32)


@dataclass(frozen=True)
class Layers:
    """What the city is at every pixel of 0.4 m; row 0 is the northern edge.

    albedo uint8[H, W, 3]: colour without season, light, marks or cars. material uint8: of the ground.
    marking uint8: group of the road mark, 0 none. building int32: row in `table`, -1 none.
    height_cm uint16: of walls, roofs and barriers above the ground. canopy_dm, under_dm uint8: top and
    underside of tree crowns, 0 where there is none. hue uint8: of the crown.
    """

    albedo: NDArray[np.uint8]
    material: NDArray[np.uint8]
    marking: NDArray[np.uint8]
    building: NDArray[np.int32]
    height_cm: NDArray[np.uint16]
    canopy_dm: NDArray[np.uint8]
    under_dm: NDArray[np.uint8]
    hue: NDArray[np.uint8]


@dataclass(frozen=True)
class Window:
    """Layers over an area and the buildings in it.

    Convention: `west_px` and `north_px` are the pixel coordinates of the corner on the city's grid (x / 0.4 m,
    y / 0.4 m); column c covers x from (west_px + c) * 0.4 m, row r reaches down from y = (north_px - r) * 0.4 m.
    `edges` are the streets of the area.
    """

    layers: Layers
    table: Buildings
    edges: Edges
    west_px: int
    north_px: int

    @property
    def bounds(self) -> Bounds:
        """West, south, east, north in city metres."""
        rows, columns = self.layers.material.shape
        west, north = self.west_px * PIXEL_M, self.north_px * PIXEL_M
        return west, north - rows * PIXEL_M, west + columns * PIXEL_M, north


class City:
    """A procedural city: any part of it, the same from the same seed in whatever order it is asked for.

    `City(seed).window(bounds)` gives the layers of an area. At most `chunks` rendered chunks (7 MB each) are kept.
    """

    def __init__(
        self, seed: int = 7, style: Style | None = None, epoch: int = 0, *, chunks: int = 48
    ) -> None:
        self.seed = seed
        self.style = style or Style()
        self.epoch = epoch
        self.network = Network(seed, self.style)
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._chunks: OrderedDict[tuple[int, int], tuple[Layers, Buildings]] = OrderedDict()
        self._most_chunks = chunks

    def block(self, i: int, j: int) -> Block:
        """The block north-east of the node (i, j)."""
        if (i, j) not in self._blocks:
            self._blocks[i, j] = lay_out(self.network, i, j)
            if len(self._blocks) > 16 * self._most_chunks:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end((i, j))
        return self._blocks[i, j]

    def chunk(self, column: int, row: int) -> tuple[Layers, Buildings]:
        """Layers of the chunk with south-west corner (column, row) * 256 m, and its buildings."""
        key = (column, row)
        if key not in self._chunks:
            self._chunks[key] = _render(self, column * CHUNK_M, row * CHUNK_M)
            if len(self._chunks) > self._most_chunks:
                self._chunks.popitem(last=False)
        self._chunks.move_to_end(key)
        return self._chunks[key]

    def window(self, bounds: Bounds) -> Window:
        """Layers over an area (west, south, east, north in city metres), grown to whole pixels of 0.4 m.

        Convention: row 0 is the northern edge, columns run east.
        """
        west, south = (int(np.floor(v / PIXEL_M + 1e-6)) for v in bounds[:2])
        east, north = (int(np.ceil(v / PIXEL_M - 1e-6)) for v in bounds[2:])
        out = _blank(north - south, east - west)
        tables = []
        count = 0
        for column in range(west // CHUNK_PX, (east - 1) // CHUNK_PX + 1):
            for row in range(south // CHUNK_PX, (north - 1) // CHUNK_PX + 1):
                layers, table = self.chunk(column, row)
                corner = (column * CHUNK_PX, (row + 1) * CHUNK_PX)
                _copy(layers, out, corner, (west, north), count)
                tables.append(table)
                count += len(table)
        edges = self.network.edges_in((west * PIXEL_M, south * PIXEL_M, east * PIXEL_M, north * PIXEL_M))
        return Window(out, np.concatenate(tables), edges, west, north)


def _blank(rows: int, columns: int) -> Layers:
    types = {"building": np.int32, "height_cm": np.uint16}
    made: dict[str, NDArray[Any]] = {
        f.name: np.empty((rows, columns), types.get(f.name, np.uint8))
        for f in fields(Layers)
        if f.name != "albedo"
    }
    return Layers(albedo=np.empty((rows, columns, 3), np.uint8), **made)


def _copy(
    source: Layers, target: Layers, corner: tuple[int, int], origin: tuple[int, int], first: int
) -> None:
    """Copy the part of a chunk that lies in the window; building rows are counted on from `first`."""
    rows, columns = target.material.shape
    left, top = corner[0] - origin[0], origin[1] - corner[1]
    c0, c1 = max(left, 0), min(left + CHUNK_PX, columns)
    r0, r1 = max(top, 0), min(top + CHUNK_PX, rows)
    for item in fields(Layers):
        piece = getattr(source, item.name)[r0 - top : r1 - top, c0 - left : c1 - left]
        if item.name == "building" and first:
            piece = np.where(piece >= 0, piece + first, -1)
        getattr(target, item.name)[r0:r1, c0:c1] = piece


def _render(city: City, west_m: float, south_m: float) -> tuple[Layers, Buildings]:
    """All layers of one chunk."""
    bounds = (west_m, south_m, west_m + CHUNK_M, south_m + CHUNK_M)
    blocks = [city.block(i, j) for i, j in city.network.blocks_in(bounds)]
    edges = city.network.edges_in(bounds)
    ground = paint(city.network, west_m, south_m, blocks, edges)
    albedo = _ground_colour(city.seed, west_m, south_m, ground)
    table = _gather(blocks, bounds)
    building = _ground_plans(table, west_m, bounds[3])
    height = np.where(building >= 0, 0, ground.barrier_dm.astype(np.uint16) * 10)
    _roofs(city.seed, table, (west_m, bounds[3]), building, height, albedo)
    marking = np.where(building >= 0, 0, ground.marking).astype(np.uint8)
    trees = np.concatenate([block.trees for block in blocks]) if blocks else np.zeros((0, 5))
    canopy, under, hue = _crowns(city.seed, trees, west_m, bounds[3])
    colour = np.clip(albedo, 0, 255).astype(np.uint8)
    return Layers(
        colour, ground.material, marking, building, height.astype(np.uint16), canopy, under, hue
    ), table


def _ground_colour(seed: int, west_m: float, south_m: float, ground: Ground) -> NDArray[np.float32]:
    """Colour of the ground with coarse patches, tones of lots and fine grain: float32[640, 640, 3]."""
    coarse = noise_raster(west_m, south_m, CHUNK_PX, PIXEL_M, 48, seed + 50)
    coarse += noise_raster(west_m, south_m, CHUNK_PX, PIXEL_M, 14, seed + 51)
    coarse -= 1.0
    fine = mottle(CHUNK_PX, 4, seed + 52) + mottle(CHUNK_PX, 16, seed + 53)
    factor = (coarse + fine) * _MOTTLE_TABLE.take(ground.material)
    factor += (ground.tone.astype(np.float32) - 128) * np.float32(0.42 / 128)
    factor += grain(CHUNK_PX, seed + 54) * np.float32(0.12)
    factor += 1
    coarse *= _GREEN_TABLE.take(ground.material)
    colour = np.empty((CHUNK_PX, CHUNK_PX, 3), np.float32)
    for first in range(0, CHUNK_PX, 64):  # strips stay in the processor's cache
        rows = slice(first, first + 64)
        strip = _COLOUR_TABLE.take(ground.material[rows], 0)
        strip *= factor[rows, :, None]
        strip += coarse[rows, :, None] * _GREEN_SHIFT
        colour[rows] = strip
    return colour


def _gather(blocks: list[Block], bounds: Bounds) -> Buildings:
    """Buildings of the blocks that reach into the chunk."""
    table = np.concatenate([block.buildings for block in blocks]) if blocks else np.zeros(0, BUILDING)
    reach = np.hypot(table["half_u"], table["half_v"])
    west, south, east, north = bounds
    inside = (table["x"] > west - reach) & (table["x"] < east + reach)
    return np.asarray(table[inside & (table["y"] > south - reach) & (table["y"] < north + reach)])


def _ground_plans(table: Buildings, west_m: float, north_m: float) -> NDArray[np.int32]:
    """Which building stands on each pixel, the taller one where two meet: int32[640, 640], -1 for none."""
    image = Image.new("I", (CHUNK_PX, CHUNK_PX), -1)
    draw = ImageDraw.Draw(image)
    origin = np.round(np.array([west_m, -north_m]) / PIXEL_M).astype(np.int64)
    grid = np.floor(corners(table) * (1 / PIXEL_M, -1 / PIXEL_M)).astype(np.int64) - origin
    outline = grid.reshape(-1, 8).tolist()
    for row in np.lexsort((table["id"], table["wall_m"])).tolist():
        draw.polygon(outline[row], fill=row)
    return np.array(image, np.int32)


def _roofs(
    seed: int,
    table: Buildings,
    corner: tuple[float, float],
    building: NDArray[np.int32],
    height: NDArray[np.uint16],
    albedo: NDArray[np.float32],
) -> None:
    """Heights and colours of roofs: gables, parapets, plant, panels and seams; written in place."""
    rows, columns = np.nonzero(building >= 0)
    if not len(rows):
        return
    index = building[rows, columns]
    at = {
        name: table[name][index]
        for name in ("x", "y", "cos", "sin", "half_u", "half_v", "wall_m", "gable_m", "kind", "id")
    }
    east = (corner[0] + (columns + 0.5) * PIXEL_M - at["x"]).astype(np.float32)
    north = (corner[1] - (rows + 0.5) * PIXEL_M - at["y"]).astype(np.float32)
    u = east * at["cos"] + north * at["sin"]
    v = north * at["cos"] - east * at["sin"]
    across = np.clip(np.where(at["half_u"] >= at["half_v"], v / at["half_v"], u / at["half_u"]), -1, 1)
    rise = at["gable_m"] * (1 - np.abs(across))
    border = np.minimum(at["half_u"] - np.abs(u), at["half_v"] - np.abs(v))
    flat = at["gable_m"] <= 0
    shade = np.where(flat, 1.0, 1 + 0.15 * np.sign(across) - 0.05 * (np.abs(across) * 6 % 1 < 0.3))
    shade = np.where(flat & (border < 0.6), 1.18, shade)
    shade -= np.where((at["kind"] == WORKS) & (u / 1.2 % 1 < 0.5), 0.06, 0)
    plant, panel = _equipment(seed, at["id"], u, v, border > 1.2, flat)
    noise = (
        grain(CHUNK_PX, seed + 54)[rows, columns] * 0.1
        + mottle(CHUNK_PX, 16, seed + 53)[rows, columns] * 0.14
    )
    colour = table["roof"][index] * (np.where(plant, shade * 0.7, shade) + noise)[:, None]
    albedo[rows, columns] = np.where(panel[:, None], np.array([38, 44, 66], np.float32), colour)
    height[rows, columns] = np.round((at["wall_m"] + rise + plant * 1.2) * 100).astype(np.uint16)


def _equipment(
    seed: int, ids: NDArray[np.uint32], u: Float, v: Float, inner: NDArray[np.bool_], flat: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which roof pixels hold plant (on flat roofs) and which solar panels: bool[N] twice."""
    cell_u, cell_v = np.floor(u / 3.6), np.floor(v / 3.6)
    draw = uniform(seed + 60, ids, cell_u, cell_v)
    box = inner & (np.abs(u / 3.6 - cell_u - 0.5) < 0.3) & (np.abs(v / 3.6 - cell_v - 0.5) < 0.3)
    return box & flat & (draw < 0.12), box & (uniform(seed + 61, ids) < 0.2) & (draw > 0.45)


def _crowns(
    seed: int, trees: Double, west_m: float, north_m: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Tops, undersides and hues of tree crowns: three uint8[640, 640].

    A crown is an ellipsoid with a ragged rim; all pixels of all trees are made at once, tallest last.
    """
    x, y, radius, tall, hue = trees.T
    column, row, reach = (x - west_m) / PIXEL_M, (north_m - y) / PIXEL_M, radius / PIXEL_M
    side = np.ceil(2 * reach).astype(np.int64) + 2
    tree = np.repeat(np.arange(len(trees)), side * side)
    inside = np.arange(len(tree)) - np.repeat(np.cumsum(side * side) - side * side, side * side)
    c = np.floor(column - reach).astype(np.int64)[tree] + inside % side[tree]
    r = np.floor(row - reach).astype(np.int64)[tree] + inside // side[tree]
    keep = (c >= 0) & (c < CHUNK_PX) & (r >= 0) & (r < CHUNK_PX)
    tree, c, r = tree[keep], c[keep], r[keep]
    away = ((c + 0.5 - column[tree]) ** 2 + (r + 0.5 - row[tree]) ** 2) / reach[tree] ** 2
    away *= 1 + 0.7 * (mottle(CHUNK_PX, 4, seed + 55)[r, c] + grain(CHUNK_PX, seed + 56)[r, c] * 0.6)
    keep = away < 1
    tree, c, r, away = tree[keep], c[keep], r[keep], away[keep]
    bulge = (tall[tree] - 2.0) / 2 * np.sqrt(1 - away)
    middle = (tall[tree] + 2.0) / 2
    trunk = away * radius[tree] ** 2 < 0.12
    order = np.argsort(middle + bulge, kind="stable")
    layers = np.zeros((3, CHUNK_PX, CHUNK_PX), np.uint8)
    values = (middle + bulge) * 10, np.where(trunk, 0, (middle - bulge) * 10), hue[tree] * 255
    for layer, value in zip(layers, values, strict=True):
        layer[r[order], c[order]] = np.round(value[order]).astype(np.uint8)
    return layers[0], layers[1], layers[2]
