"""The class of the 2.5D maps, one of 25, of every part of the city.

| in the city | class |
|---|---|
| buildings: walls and roofs | buildings |
| grid streets 16 m wide / avenues / cross avenues | roads_primary / roads_secondary / roads_tertiary |
| grid streets 9.2 m / 6.8 m wide | roads_residential / roads_unclassified |
| pavements / cycle lanes / paths of parks | paths_footway / paths_cycleway / areas_footway |
| paved, sandy and clay grounds / asphalt and concrete yards and drives | areas_pedestrian / areas_service |
| lawns, beds, soil, medians, hedges, single trees / trees of parks | vegetation / forest |
| ponds, pools, river / its sandy banks | water / coastlines |

Not in the city, so never given: railways, steps, motorways, trunk roads, bridleways, tracks and the other classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from geoloc.core.arrays import BoolArray, FloatArray
from geoloc.core.semantics import SemanticClass
from geoloc.synthetic.world.blocks import (
    ASPHALT,
    BED,
    CLAY,
    CONCRETE,
    GRAVEL,
    HEDGE,
    KERB,
    LAWN,
    PARK,
    POOL,
    SOIL,
    WATER,
)
from geoloc.synthetic.world.network import Bounds, Edges
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.style import PIXEL_M

_GREEN = (LAWN, BED, HEDGE, SOIL)
_YARDS = (ASPHALT, CONCRETE, KERB)
_BANK = 0.002
_NO_STREET, _PAVEMENT = 255, 254


def road_classes(edges: Edges) -> NDArray[np.uint8]:
    """The class of each street's carriageway: uint8[N]."""
    grid = np.select(
        [edges.half_width_m > 7, edges.half_width_m > 4],
        [SemanticClass.ROADS_PRIMARY, SemanticClass.ROADS_RESIDENTIAL],
        SemanticClass.ROADS_UNCLASSIFIED,
    )
    made = np.select(
        [edges.kind == 2, edges.kind == 3],
        [SemanticClass.ROADS_SECONDARY, SemanticClass.ROADS_TERTIARY],
        grid,
    )
    return made.astype(np.uint8)


def bands(edges: Edges, half_width_m: FloatArray) -> FloatArray:
    """Outlines of bands along streets: float64[N, 34, 2] in city metres."""
    side = edges.normals() * half_width_m[:, None, None]
    return np.concatenate([edges.curve + side, (edges.curve - side)[:, ::-1]], 1)


def ground_classes(city: City, window: Window) -> NDArray[np.uint8]:
    """The class of the ground in every pixel of a window, under buildings too: uint8[H, W].

    Convention: rows and columns as in `Window`.
    """
    street, park = _streets(city, window), _parks(city, window)
    material = window.layers.material
    out = np.full(material.shape, SemanticClass.AREAS_PEDESTRIAN, np.uint8)
    out[np.isin(material, _YARDS)] = SemanticClass.AREAS_SERVICE
    out[(material == GRAVEL) & park] = SemanticClass.AREAS_FOOTWAY
    out[street == _PAVEMENT] = SemanticClass.PATHS_FOOTWAY
    carriageway = street < _PAVEMENT
    out[carriageway] = street[carriageway]
    out[carriageway & (material == CLAY)] = SemanticClass.PATHS_CYCLEWAY
    out[np.isin(material, _GREEN)] = SemanticClass.VEGETATION
    out[_banks(city, window)] = SemanticClass.COASTLINES
    out[np.isin(material, (WATER, POOL))] = SemanticClass.WATER
    return out


def crown_classes(city: City, window: Window) -> NDArray[np.uint8]:
    """The class that a tree's crown has in every pixel of a window: uint8[H, W]."""
    return np.where(_parks(city, window), SemanticClass.FOREST, SemanticClass.VEGETATION).astype(np.uint8)


def _pixels(window: Window, points: FloatArray) -> FloatArray:
    grid = np.floor(points * (1 / PIXEL_M, -1 / PIXEL_M))
    return np.asarray(grid - (window.west_px, -window.north_px))


def _streets(city: City, window: Window) -> NDArray[np.uint8]:
    """The class of the carriageway, `_PAVEMENT` beside it, `_NO_STREET` elsewhere: uint8[H, W]."""
    rows, columns = window.layers.material.shape
    image = Image.new("L", (columns, rows), _NO_STREET)
    draw = ImageDraw.Draw(image)
    edges = window.edges
    if not len(edges):
        return np.array(image)
    for half, fill in (
        (edges.half_width_m + city.style.pavement_m, np.full(len(edges), _PAVEMENT)),
        (edges.half_width_m, road_classes(edges)),
    ):
        for ring, value in zip(_pixels(window, bands(edges, half)), fill.tolist(), strict=True):
            draw.polygon(ring.ravel().tolist(), fill=value)
        ends = np.concatenate([edges.curve[:, 0], edges.curve[:, -1]])
        reach = np.concatenate([half, half])[:, None]
        low, high = _pixels(window, ends + reach * (-1, 1)), _pixels(window, ends + reach * (1, -1))
        for box, value in zip(np.concatenate([low, high], 1).tolist(), [*fill.tolist()] * 2, strict=True):
            draw.ellipse(box, fill=value)
    return np.array(image)


def _parks(city: City, window: Window) -> BoolArray:
    rows, columns = window.layers.material.shape
    image = Image.new("1", (columns, rows))
    draw = ImageDraw.Draw(image)
    for i, j in city.network.blocks_in(window.bounds):
        block = city.block(i, j)
        if block.kind == PARK:
            draw.polygon(_pixels(window, block.outline).ravel().tolist(), fill=1)
    return np.array(image, bool)


def _banks(city: City, window: Window) -> BoolArray:
    """Sand beside the river: bool[H, W]."""
    r, c = np.nonzero(window.layers.material == SOIL)
    out = np.zeros(window.layers.material.shape, bool)
    level = city.network.river((window.west_px + c + 0.5) * PIXEL_M, (window.north_px - r - 0.5) * PIXEL_M)
    out[r, c] = level < _BANK
    return out


def expand_bounds(bounds: Bounds, margin_m: float) -> Bounds:
    """Bounds grown by a margin on every side."""
    return bounds[0] - margin_m, bounds[1] - margin_m, bounds[2] + margin_m, bounds[3] + margin_m
