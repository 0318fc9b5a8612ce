"""Map tiles drawn from map features: flat colours, north up, in the manner of the usual web maps."""

from __future__ import annotations

import numpy as np
import shapely
from PIL import Image, ImageDraw

from geoloc.core.arrays import FloatArray, Pixels
from geoloc.core.semantics import SemanticClass as Kind
from geoloc.sources.osm.classes import PAINTED
from geoloc.sources.osm.surfaces import MapFeatures

_FINE = 4  # pixels of the drawing for a pixel of the tile, along each side
_LAND = (243, 240, 234)
_WHITE, _LEAF = (255, 255, 255), (168, 204, 158)
_RANK = {kind: rank for rank, kind in enumerate(PAINTED)}
_COLOURS: dict[Kind, tuple[int, int, int]] = {
    Kind.VEGETATION: (205, 235, 198), Kind.FOREST: (174, 209, 160), Kind.COASTLINES: (245, 233, 198),
    Kind.WATER: (168, 208, 222), Kind.AREAS_RAILWAYS: (235, 219, 232), Kind.AREAS_PEDESTRIAN: (221, 221, 232),
    Kind.AREAS_FOOTWAY: (237, 237, 237), Kind.AREAS_SERVICE: (240, 240, 240), Kind.PATHS_FOOTWAY: (236, 232, 228),
    Kind.PATHS_STEPS: (250, 128, 114), Kind.PATHS_BRIDLEWAY: (120, 170, 110), Kind.PATHS_CYCLEWAY: (130, 130, 250),
    Kind.ROADS_TRACK: (196, 160, 100), Kind.ROADS_PEDESTRIAN: (221, 221, 232),
    Kind.ROADS_TERTIARY: (255, 252, 225), Kind.ROADS_SECONDARY: (247, 247, 186), Kind.ROADS_PRIMARY: (252, 216, 168),
    Kind.ROADS_TRUNK: (249, 178, 156), Kind.ROADS_MOTORWAY: (232, 146, 162), Kind.RAILWAYS: (140, 140, 140),
    Kind.BUILDINGS: (217, 207, 200),
}  # fmt: skip


def draw_tile(features: MapFeatures, x: float, y: float, *, side_m: float, size_px: int) -> Pixels:
    """The map around a point of the projection, uint8[size_px, size_px, 3], `side_m` metres wide.

    Convention: north up, east right; the point lies in the middle of the picture. Classes lie over each other as
    `classes.PAINTED` says, trees over all.
    """
    scale = size_px * _FINE / side_m
    sheet = Image.new("RGB", (size_px * _FINE, size_px * _FINE), _LAND)
    draw = ImageDraw.Draw(sheet)
    corner = np.array([x - side_m / 2, y + side_m / 2])

    def at(ring: shapely.Geometry) -> list[tuple[float, float]]:
        placed: FloatArray = (shapely.get_coordinates(ring) - corner) * (scale, -scale) - 0.5
        return [tuple(each) for each in placed.tolist()]

    for surface in sorted(features.surfaces, key=lambda each: _RANK[each.kind]):
        colour = _COLOURS.get(surface.kind, _WHITE)
        line = (190, 174, 164) if surface.kind == Kind.BUILDINGS else None
        draw.polygon(at(shapely.get_exterior_ring(surface.shape)), fill=colour, outline=line)
        for number in range(int(shapely.get_num_interior_rings(surface.shape))):
            draw.polygon(at(shapely.get_interior_ring(surface.shape, number)), fill=_LAND)
    for tree in features.trees:
        east, south = ((tree.x, tree.y) - corner) * (scale, -scale)
        radius = tree.radius_m * scale
        draw.ellipse((east - radius, south - radius, east + radius, south + radius), fill=_LEAF)
    return np.asarray(sheet.reduce(_FINE))
