"""Chunks: squares of 256 m rendered once into layers that every view reads, and windows put together from them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.core.arrays import FloatArray, Int32Array
from geoloc.synthetic.world import blocks as kinds
from geoloc.synthetic.world.block_layouts import lay_out
from geoloc.synthetic.world.blocks import Block
from geoloc.synthetic.world.buildings import BUILDING, Buildings, corners
from geoloc.synthetic.world.epochs import age_block
from geoloc.synthetic.world.ground import Ground, paint
from geoloc.synthetic.world.network import Bounds, Edges, Network
from geoloc.synthetic.world.noise import grain, mottle, noise_raster, uniform
from geoloc.synthetic.world.style import CHUNK_M, CHUNK_PX, PIXEL_M, Style
from geoloc.synthetic.world.texture import (
    GroundNoise,
    Materials,
    Roofs,
    colour_ground,
    grow_crowns,
    raise_roofs,
)

_COLOURS = {
    kinds.LAWN: (98, 122, 62),
    kinds.PAVING: (166, 161, 152),
    kinds.ASPHALT: (92, 92, 95),
    kinds.CLAY: (160, 88, 62),
    kinds.GRAVEL: (188, 170, 132),
    kinds.SOIL: (142, 120, 90),
    kinds.WATER: (52, 78, 92),
    kinds.POOL: (70, 160, 190),
    kinds.HEDGE: (58, 88, 44),
    kinds.BED: (128, 132, 58),
    kinds.KERB: (204, 202, 196),
    kinds.CONCRETE: (150, 148, 142),
    kinds.SETTS: (122, 106, 92),
    kinds.BRICK: (154, 92, 74),
}
_MOTTLED = {
    kinds.LAWN: 0.12,
    kinds.PAVING: 0.14,
    kinds.ASPHALT: 0.16,
    kinds.CLAY: 0.08,
    kinds.GRAVEL: 0.12,
    kinds.SOIL: 0.24,
    kinds.WATER: 0.05,
    kinds.BED: 0.3,
    kinds.HEDGE: 0.25,
    kinds.CONCRETE: 0.16,
    kinds.SETTS: 0.2,
    kinds.BRICK: 0.14,
}
_MATERIALS = Materials(
    colour=np.array([_COLOURS[m] for m in range(len(_COLOURS))], np.float32),
    mottle=np.array([_MOTTLED.get(m, 0.04) for m in range(len(_COLOURS))], np.float32),
    green=np.array([m in (kinds.LAWN, kinds.BED, kinds.HEDGE) for m in range(len(_COLOURS))], np.float32),
    green_shift=np.array([58, 18, 34], np.float32),
)


@dataclass(frozen=True)
class Layers:
    """The city at every pixel of 0.4 m; row 0 is the northern edge.

    albedo uint8[H, W, 3]: colour without season, light, marks or cars. material uint8: of the ground.
    marking uint8: group of the road mark, 0 none. building int32: row in `table`, -1 none.
    height_cm uint16: of walls, roofs and barriers above the ground. canopy_dm, under_dm uint8: top and
    underside of tree crowns, 0 where there is none. hue uint8: of the crown.
    """

    albedo: NDArray[np.uint8]
    material: NDArray[np.uint8]
    marking: NDArray[np.uint8]
    building: Int32Array
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
    """A procedural city, generated part by part. The seed alone determines it, not the order of the parts.

    `epoch` counts the times that the years have changed it (`geoloc.synthetic.world.epochs`); its streets stay.
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
            made = lay_out(self.network, i, j)
            age_block(self.network, (i, j), made, self.epoch)
            self._blocks[i, j] = made
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
    ground = paint(city.network, west_m, south_m, blocks, edges, city.epoch)
    albedo = _ground_colour(city.seed, west_m, south_m, ground)
    table = _gather(blocks, bounds)
    building = _ground_plans(table, west_m, bounds[3])
    height = ground.barrier_dm.astype(np.uint16) * np.uint16(10)
    _raise_roofs(city.seed, table, (west_m, bounds[3]), building, height, albedo)
    marking = np.where(building >= 0, np.uint8(0), ground.marking)
    trees = np.concatenate([block.trees for block in blocks]) if blocks else np.zeros((0, 5))
    crowns = _grow_crowns(city.seed, trees, west_m, bounds[3])
    return Layers(albedo, ground.material, marking, building, height, *crowns), table


def _ground_colour(seed: int, west_m: float, south_m: float, ground: Ground) -> NDArray[np.uint8]:
    """Colour of the ground with coarse patches, tones of lots and fine grain: uint8[640, 640, 3]."""
    noise = GroundNoise(
        wide=noise_raster(west_m, south_m, CHUNK_PX, PIXEL_M, 48, seed + 50),
        narrow=noise_raster(west_m, south_m, CHUNK_PX, PIXEL_M, 14, seed + 51),
        fine=mottle(CHUNK_PX, 4, seed + 52),
        finer=mottle(CHUNK_PX, 16, seed + 53),
        grain=grain(CHUNK_PX, seed + 54),
    )
    return np.asarray(colour_ground(ground.material, ground.tone, noise, _MATERIALS))


def _gather(blocks: list[Block], bounds: Bounds) -> Buildings:
    """Buildings of the blocks that reach into the chunk."""
    table = np.concatenate([block.buildings for block in blocks]) if blocks else np.zeros(0, BUILDING)
    reach = np.hypot(table["half_u"], table["half_v"])
    west, south, east, north = bounds
    inside = (table["x"] > west - reach) & (table["x"] < east + reach)
    return np.asarray(table[inside & (table["y"] > south - reach) & (table["y"] < north + reach)])


def _ground_plans(table: Buildings, west_m: float, north_m: float) -> Int32Array:
    """The building that stands on each pixel, the taller one where two meet: int32[640, 640], -1 for none."""
    image = Image.new("I", (CHUNK_PX, CHUNK_PX), -1)
    draw = ImageDraw.Draw(image)
    origin = np.round(np.array([west_m, -north_m]) / PIXEL_M).astype(np.int64)
    grid = np.floor(corners(table) * (1 / PIXEL_M, -1 / PIXEL_M)).astype(np.int64) - origin
    outline = grid.reshape(-1, 8).tolist()
    for row in np.lexsort((table["id"], table["wall_m"])).tolist():
        draw.polygon(outline[row], fill=row)
    return np.array(image, np.int32)


def _raise_roofs(
    seed: int,
    table: Buildings,
    corner: tuple[float, float],
    building: Int32Array,
    height: NDArray[np.uint16],
    albedo: NDArray[np.uint8],
) -> None:
    """Heights and colours of roofs, written in place."""
    solar = uniform(seed + 61, table["id"]) < 0.2
    roofs = Roofs(table, solar, seed + 60, grain(CHUNK_PX, seed + 54), mottle(CHUNK_PX, 16, seed + 53))
    raise_roofs(roofs, corner, building, height, albedo)


def _grow_crowns(
    seed: int, trees: FloatArray, west_m: float, north_m: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Tops, undersides and hues of tree crowns: three uint8[640, 640]."""
    x, y, radius, tall, hue = trees.T
    placed = np.column_stack([(x - west_m) / PIXEL_M, (north_m - y) / PIXEL_M, radius, tall, hue])
    layers = np.zeros((3, CHUNK_PX, CHUNK_PX), np.uint8)
    grow_crowns(placed, mottle(CHUNK_PX, 4, seed + 55), grain(CHUNK_PX, seed + 56), layers)
    return layers[0], layers[1], layers[2]
