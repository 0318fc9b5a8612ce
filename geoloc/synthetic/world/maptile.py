"""Rendered map tiles: land, water, green, streets by class with casings, paths, buildings, trees and small symbols.

Everything is drawn from the vectors of blocks and streets, so any scale is sharp, tiles join without a seam, and
no chunk of the city has to be rendered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.core.arrays import Float32Array, FloatArray
from geoloc.core.errors import ConfigError
from geoloc.core.semantics import SemanticClass
from geoloc.synthetic.world.blocks import (
    BED,
    GRAVEL,
    HEDGE,
    HOUSES,
    LAWN,
    PARK,
    PARKING,
    POOL,
    SPORT,
    TERRACES,
    TOWERS,
    WATER,
    WORKS_QUARTER,
    Block,
)
from geoloc.synthetic.world.buildings import TERRACE, TOWER, corners
from geoloc.synthetic.world.classes import road_classes
from geoloc.synthetic.world.network import Bounds, Edges
from geoloc.synthetic.world.noise import hash_array
from geoloc.synthetic.world.raster import City

Ink = tuple[int, int, int]
_LAND: Ink = (243, 240, 234)
_WATER: Ink = (168, 208, 222)
_GREEN: Ink = (205, 235, 198)
_GRASS: Ink = (216, 236, 200)
_HEDGE: Ink = (174, 209, 160)
_LEAF: Ink = (168, 204, 158)
_HOUSE: Ink = (217, 207, 200)
_HOUSE_LINE: Ink = (190, 174, 164)
_FOOT: Ink = (246, 138, 122)
_BLOCKS: dict[int, Ink] = {
    PARK: (200, 246, 204), SPORT: (182, 226, 206), HOUSES: (226, 224, 223), TERRACES: (226, 224, 223),
    TOWERS: (240, 222, 214), WORKS_QUARTER: (235, 222, 233), PARKING: (240, 240, 240),
}  # fmt: skip
_ROADS: dict[int, tuple[Ink, Ink]] = {  # fill and casing, the least important first
    SemanticClass.ROADS_UNCLASSIFIED: ((255, 255, 255), (200, 198, 196)),
    SemanticClass.ROADS_RESIDENTIAL: ((255, 255, 255), (188, 186, 184)),
    SemanticClass.ROADS_TERTIARY: ((255, 252, 225), (176, 168, 128)),
    SemanticClass.ROADS_SECONDARY: ((247, 247, 186), (142, 150, 56)),
    SemanticClass.ROADS_PRIMARY: ((252, 216, 168), (172, 124, 44)),
}
_SYMBOLS: tuple[Ink, ...] = ((172, 57, 172), (199, 116, 0), (191, 0, 0), (0, 146, 218), (115, 74, 8))
_MARGIN_M = 24.0
_LARGE_PX_PER_M = 0.8  # from this scale on trees and shops are drawn


def render_map(
    city: City, centre_x: float, centre_y: float, *, side_m: float, size_px: int
) -> NDArray[np.uint8]:
    """A square map tile around a city point: uint8[size_px, size_px, 3].

    Raises `ConfigError` for a side or size that is not above 0.

    Convention: north up, east right; x east, y north in city metres; (centre_x, centre_y) falls on the middle of
    the tile, `side_m` on its whole width.
    """
    if not (side_m > 0 and size_px > 0):
        raise ConfigError(f"A map of {side_m:g} m and {size_px} pixels has no area; give sizes above 0.")
    half = side_m / 2
    bounds = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    sheet = _Sheet(bounds, size_px, 4 if size_px <= 384 else 2)
    wide = (bounds[0] - _MARGIN_M, bounds[1] - _MARGIN_M, bounds[2] + _MARGIN_M, bounds[3] + _MARGIN_M)
    blocks = [city.block(i, j) for i, j in city.network.blocks_in(wide)]
    edges = city.network.edges_in(bounds)
    for block in blocks:
        _draw_land(sheet, block)
    _draw_river(sheet, city)
    for block in blocks:
        _draw_paths(sheet, block)
    _draw_roads(sheet, edges, city.style.pavement_m)
    large = size_px / side_m >= _LARGE_PX_PER_M
    for draw in (_draw_trees, _draw_buildings, _draw_symbols) if large else (_draw_buildings,):
        for block in blocks:
            draw(sheet, block)
    return sheet.reduced()


class _Sheet:
    """A canvas finer than the tile, and how city points fall onto it.

    Convention: pixel (0, 0) has its corner at (west, north); columns run east, rows south.
    """

    def __init__(self, bounds: Bounds, size_px: int, fine: int) -> None:
        self.bounds = bounds
        self.fine = fine
        self.scale = size_px * fine / (bounds[2] - bounds[0])
        self.image = Image.new("RGB", (size_px * fine, size_px * fine), _LAND)
        self.draw = ImageDraw.Draw(self.image)

    def at(self, points: FloatArray) -> FloatArray:
        """Canvas columns and rows of city points float64[..., 2], pixel centres at whole numbers."""
        return np.asarray((points - (self.bounds[0], self.bounds[3])) * (self.scale, -self.scale) - 0.5)

    def fill(self, polygon: FloatArray, ink: Ink, line: Ink | None = None) -> None:
        """Fill a polygon of city points float64[N, 2]."""
        flat = self.at(polygon).ravel().tolist()
        self.draw.polygon(flat, fill=ink)
        if line is not None:
            self.draw.line(flat + flat[:4], fill=line, width=max(1, round(self.fine * 0.8)), joint="curve")

    def line(self, points: FloatArray, ink: Ink, width_m: float, least_px: float = 0.0) -> None:
        """Draw a polyline; it is at least `least_px` of the tile wide."""
        width = max(width_m * self.scale, least_px * self.fine, 1)
        self.draw.line(self.at(points).ravel().tolist(), fill=ink, width=round(width), joint="curve")

    def disc(self, points: FloatArray, radius_m: float, ink: Ink) -> None:
        """Fill discs around city points float64[N, 2]."""
        reach = radius_m * self.scale
        for x, y in self.at(points).tolist():
            self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=ink)

    def dashes(self, points: FloatArray, ink: Ink, dash_m: float = 2.0, least_px: float = 1.0) -> None:
        """Draw a dashed polyline."""
        steps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        starts = np.arange(0, steps[-1], 2 * dash_m)
        for start in starts:
            at = np.array([start, min(start + dash_m, steps[-1])])
            piece = np.stack([np.interp(at, steps, points[:, k]) for k in range(2)], -1)
            self.line(piece, ink, 0.3, least_px)

    def reduced(self) -> NDArray[np.uint8]:
        """The finished tile."""
        return np.asarray(self.image.reduce(self.fine))


def _draw_land(sheet: _Sheet, block: Block) -> None:
    """A block's ground: its use, lawns and beds in it, ponds, hedges as green lines."""
    sheet.fill(block.outline, _BLOCKS[block.kind])
    if block.kind in (TERRACES, TOWERS):
        inks = {LAWN: _GREEN, BED: _GRASS}
        for polygon, material, _ in block.grounds:
            sheet.fill(polygon, inks.get(material, _BLOCKS[block.kind]))
    elif block.kind == SPORT:
        for polygon, _, _ in block.grounds[1:2]:
            sheet.fill(polygon, (140, 208, 186), (112, 180, 158))
    for x, y, half_x, half_y, material in block.ponds:
        if material in (WATER, POOL):
            turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            sheet.fill(np.stack([x + half_x * np.cos(turn), y + half_y * np.sin(turn)], -1), _WATER)
    for line, material, _, height_m in block.lines:
        if material == HEDGE and height_m > 0:
            sheet.line(line, _HEDGE, 0.8, 0.7)


def _draw_river(sheet: _Sheet, city: City) -> None:
    """The river, from its level on a lattice of the city of about 2 m."""
    west, south, east, north = sheet.bounds
    step = max(2.0, (east - west) / 400)
    a = np.arange(int(np.floor(west / step)) - 1, int(np.ceil(east / step)) + 2)
    b = np.arange(int(np.floor(south / step)) - 1, int(np.ceil(north / step)) + 2)
    level = city.network.river(a[None, :] * step, b[::-1, None] * step)
    if level.min() > 0.01:
        return
    size = sheet.image.size[0]
    pixel = (np.arange(size) + 0.5) / sheet.scale
    column, row = (west + pixel) / step - a[0], b[-1] - (north - pixel) / step
    fine = _bilinear(level.astype(np.float32), row, column)
    sheet.image.paste(_WATER, mask=Image.fromarray((fine < 0).astype(np.uint8) * 255))


def _bilinear(values: Float32Array, row: FloatArray, column: FloatArray) -> Float32Array:
    """Values of a raster at rows x columns between its points: float32[len(row), len(column)]."""
    r, c = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    down, across = (row - r).astype(np.float32)[:, None], (column - c).astype(np.float32)
    lines = values[r] * (1 - down) + values[r + 1] * down
    return np.asarray(lines[:, c] * (1 - across) + lines[:, c + 1] * across)


def _draw_paths(sheet: _Sheet, block: Block) -> None:
    """The paths of parks as dashes, over water too."""
    for line, material, width_m, height_m in block.lines:
        if material == GRAVEL and height_m <= 0:
            sheet.line(line, (255, 255, 255), width_m, 2.0)
            sheet.dashes(line, _FOOT, least_px=1.2)


def _draw_roads(sheet: _Sheet, edges: Edges, pavement_m: float) -> None:
    """Pavement dashes, then all casings, then all fills, the most important streets last."""
    classes = road_classes(edges)
    normals = edges.normals()
    for n in np.nonzero(edges.half_width_m > 4)[0]:
        for side in (-1, 1):
            offset = edges.half_width_m[n] + pavement_m / 2
            sheet.dashes(edges.curve[n, 2:-2] + side * offset * normals[n, 2:-2], _FOOT, 1.6)
    casing = 0.7 * sheet.fine / sheet.scale
    for wide, layer in ((casing, 1), (0.0, 0)):
        for kind, inks in _ROADS.items():
            for n in np.nonzero(classes == kind)[0]:
                half = float(edges.half_width_m[n]) + wide
                sheet.line(edges.curve[n], inks[layer], 2 * half, 1.5)
                sheet.disc(edges.curve[n, [0, -1]], max(half, 0.75 * sheet.fine / sheet.scale), inks[layer])


def _draw_buildings(sheet: _Sheet, block: Block) -> None:
    table = block.buildings
    for outline in corners(table[np.argsort(table["wall_m"], kind="stable")]):
        sheet.fill(outline, _HOUSE, _HOUSE_LINE)


def _draw_trees(sheet: _Sheet, block: Block) -> None:
    """Trees outside parks as pale discs."""
    if block.kind != PARK:
        for x, y, radius, _, _ in block.trees.tolist():
            sheet.disc(np.array([[x, y]]), 0.5 * radius, _LEAF)


def _draw_symbols(sheet: _Sheet, block: Block) -> None:
    """A coloured dot for some of the shops, of one size on every scale."""
    table = block.buildings
    draw = hash_array(31, table["id"])
    shop = np.isin(table["kind"], (TERRACE, TOWER)) & (draw % 3 == 0)
    for row, number in zip(table[shop], draw[shop].tolist(), strict=True):
        place = np.array([[row["x"], row["y"]]])
        sheet.disc(place, 3.4 * sheet.fine / sheet.scale, (255, 255, 255))
        sheet.disc(place, 2.6 * sheet.fine / sheet.scale, _SYMBOLS[number // 3 % len(_SYMBOLS)])
