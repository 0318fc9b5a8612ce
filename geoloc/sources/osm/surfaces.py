"""Map features of an area as flat shapes in metres, and the points on their surfaces.

Convention: x runs east and y north in the metres of one projection for the whole extract; heights are metres above the
ground. Points are one jittered sample per cell of a lattice of that projection, so a point does not depend on the area
that is asked for: neighbouring areas, made by different tasks, have the same points where they overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from geoloc.core.arrays import Float32Array, FloatArray, IntArray
from geoloc.core.geodesy import SphericalTransverseMercator
from geoloc.core.semantics import SemanticClass
from geoloc.sources.osm.classes import PAINTED, area_class, building_height_m, line_class, number
from geoloc.sources.osm.extract import Area, Feature, Node, Way

POINTS_PER_M2 = 0.1  # the density of the published clouds
_TREE_M = (8.0, 6.0)  # height and diameter of a tree without tags
_RANK = {kind: rank for rank, kind in enumerate(PAINTED)}
_BESIDE_M = 0.5  # how far outside a wall another building must not be


@dataclass(frozen=True)
class Surface:
    """A shapely polygon of the ground or of a building, whose walls are `wall_m` high below a gable of `gable_m`."""

    osm_id: int
    kind: SemanticClass
    shape: shapely.Geometry
    wall_m: float = 0.0
    gable_m: float = 0.0


@dataclass(frozen=True)
class Tree:
    """A crown about x, y, its top `height_m` above the ground."""

    x: float
    y: float
    height_m: float
    radius_m: float


@dataclass(frozen=True)
class MapFeatures:
    """What a map shows, in the order of the extract."""

    surfaces: list[Surface]
    trees: list[Tree]


def map_features(features: Iterable[Feature], frame: SphericalTransverseMercator) -> MapFeatures:
    """Features of an extract in the metres of a projection; what belongs to no class is left out."""
    surfaces: list[Surface] = []
    trees: list[Tree] = []
    for feature in features:
        if isinstance(feature, Way):
            surfaces += _line(feature, frame)
        elif isinstance(feature, Area):
            surfaces += _area(feature, frame)
        elif feature.tags.get("natural") == "tree":
            trees.append(_tree(feature, frame))
    return MapFeatures(surfaces, trees)


def _line(way: Way, frame: SphericalTransverseMercator) -> list[Surface]:
    found = line_class(way.tags)
    if found is None:
        return []
    line = shapely.linestrings(np.column_stack(frame.to_metres(way.lat, way.lon)))
    surfaces = [
        Surface(way.osm_id, found[0], shapely.buffer(line, found[1] / 2, cap_style="flat", quad_segs=4))
    ]
    if way.tags.get("sidewalk") in ("both", "yes") and (
        beside := number(way.tags.get("sidewalk:both:width"))
    ):
        band = shapely.buffer(line, found[1] / 2 + beside, cap_style="flat", quad_segs=4)
        surfaces.append(Surface(way.osm_id, SemanticClass.PATHS_FOOTWAY, band))
    return surfaces


def _area(area: Area, frame: SphericalTransverseMercator) -> list[Surface]:
    kind = area_class(area.tags)
    if kind is None:
        return []

    def metres(places: FloatArray) -> FloatArray:
        return np.column_stack(frame.to_metres(places[:, 1], places[:, 0]))

    shape = shapely.make_valid(shapely.transform(area.shape, metres))
    wall, gable = building_height_m(area.tags) if kind == SemanticClass.BUILDINGS else (0.0, 0.0)
    return [
        Surface(area.osm_id, kind, part, wall, gable)
        for part in shapely.get_parts(shape)
        if shapely.get_type_id(part) == shapely.GeometryType.POLYGON
    ]


def _tree(node: Node, frame: SphericalTransverseMercator) -> Tree:
    x, y = (float(value) for value in frame.to_metres(node.lat, node.lon))
    height = number(node.tags.get("height")) or _TREE_M[0]
    return Tree(x, y, height, (number(node.tags.get("diameter_crown")) or _TREE_M[1]) / 2)


def sample_surfaces(features: MapFeatures, bounds: tuple[float, float, float, float]) -> Float32Array:
    """Points float32[P, 4], (x, y, height, class), on all surfaces within bounds (west, south, east, north) in metres.

    Ground and roofs have 0.1 points for each square metre, seen from above; walls and crowns have as many for their own
    area (of a crown: of its plan). Ground that no feature covers has none. Memory: 100 bytes for each square metre.
    """
    parts = [_flat_points(features, bounds), _crown_points(features, bounds), _wall_points(features, bounds)]
    points: Float32Array = np.concatenate(parts).astype(np.float32)
    return points


def _lattice(bounds: tuple[float, float, float, float], salt: int) -> FloatArray:
    """One jittered point float64[N, 2] per cell, those within the bounds, row by row from the south."""
    step = POINTS_PER_M2**-0.5
    west, south, east, north = bounds
    columns = np.arange(math.floor(west / step), math.floor(east / step) + 1)
    rows = np.arange(math.floor(south / step), math.floor(north / step) + 1)
    a, b = (each.ravel() for each in np.meshgrid(columns, rows))
    places = np.column_stack([(a + _jitter(a, b, salt)) * step, (b + _jitter(a, b, salt + 1)) * step])
    inside = (places >= (west, south)) & (places < (east, north))
    return np.asarray(places[inside.all(axis=1)])


def _jitter(a: IntArray, b: IntArray, salt: int) -> FloatArray:
    """Numbers in [0, 1) float64[N] that follow from two integers [N] and a salt (the mixer of splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = a.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + b.astype(np.uint64)
        mixed = (mixed + np.uint64(salt)) * np.uint64(0xD1B54A32D192ED03)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _top(surfaces: Sequence[Surface], places: FloatArray) -> IntArray:
    """Number int64[N] of the surface that is on top at places float64[N, 2]; -1 where there is none.

    Of buildings at one place the highest is on top.
    """
    top = np.full(len(places), -1, np.int64)
    if not surfaces or not len(places):
        return top
    tree = shapely.STRtree([each.shape for each in surfaces])
    at, number_of = tree.query(shapely.points(places), predicate="intersects")
    rank = np.array([_RANK[each.kind] + (each.wall_m + each.gable_m) * 1e-4 for each in surfaces])
    order = np.lexsort((number_of, rank[number_of]))
    top[at[order]] = number_of[order]  # the last assignment, the highest rank, stays
    return top


def _flat_points(features: MapFeatures, bounds: tuple[float, float, float, float]) -> FloatArray:
    places = _lattice(bounds, 1)
    top = _top(features.surfaces, places)
    places, top = places[top >= 0], top[top >= 0]
    heights = np.zeros(len(places))
    for number_of in np.unique(top):
        surface = features.surfaces[number_of]
        if surface.kind == SemanticClass.BUILDINGS:
            mine = top == number_of
            heights[mine] = _roof_m(surface, places[mine])
    kinds = np.array([features.surfaces[number_of].kind for number_of in top], dtype=np.float64)
    return np.column_stack([places, heights, kinds])


def _roof_m(surface: Surface, places: FloatArray) -> FloatArray:
    """Heights float64[N] of a roof over places float64[N, 2]; the ridge runs along the longer side."""
    if not surface.gable_m:
        return np.full(len(places), surface.wall_m)
    corners = shapely.get_coordinates(shapely.minimum_rotated_rectangle(surface.shape))[:4]
    sides = corners[1] - corners[0], corners[2] - corners[1]
    lengths = [float(np.hypot(*side)) for side in sides]
    short = int(lengths[1] < lengths[0])
    across = (places - corners.mean(axis=0)) @ (sides[short] / lengths[short]) / (lengths[short] / 2)
    return np.asarray(surface.wall_m + surface.gable_m * (1 - np.minimum(np.abs(across), 1)))


def _crown_points(features: MapFeatures, bounds: tuple[float, float, float, float]) -> FloatArray:
    if not features.trees:
        return np.zeros((0, 4))
    places = _lattice(bounds, 3)
    crowns = [shapely.Point(tree.x, tree.y).buffer(tree.radius_m) for tree in features.trees]
    at, number_of = shapely.STRtree(crowns).query(shapely.points(places), predicate="intersects")
    middle = np.array([(tree.x, tree.y) for tree in features.trees])[number_of]
    radius = np.array([tree.radius_m for tree in features.trees])[number_of]
    height = np.array([tree.height_m for tree in features.trees])[number_of]
    share = np.minimum(((places[at] - middle) ** 2).sum(axis=1) / radius**2, 1)
    # A crown is the upper half of an ellipsoid over the upper half of the tree.
    tops = np.zeros(len(places))
    np.maximum.at(tops, at, height * (0.5 + 0.5 * np.sqrt(1 - share)))
    leafy = np.flatnonzero(tops)
    woods = [each for each in features.surfaces if each.kind == SemanticClass.FOREST]
    wooded = _top(woods, places[leafy]) >= 0
    kinds = np.where(wooded, float(SemanticClass.FOREST), float(SemanticClass.VEGETATION))
    return np.column_stack([places[leafy], tops[leafy], kinds])


def _wall_points(features: MapFeatures, bounds: tuple[float, float, float, float]) -> FloatArray:
    buildings = [each for each in features.surfaces if each.kind == SemanticClass.BUILDINGS]
    found = [
        wall
        for building in buildings
        for outer, ring in _rings(building)
        for wall in _ring_walls(building, ring, outer)
    ]
    if not found:
        return np.zeros((0, 4))
    x, y, height, out_x, out_y = np.concatenate(found).T
    west, south, east, north = bounds
    inside = (x >= west) & (x < east) & (y >= south) & (y < north)
    x, y, height, out_x, out_y = (each[inside] for each in (x, y, height, out_x, out_y))
    beside = _top(buildings, np.column_stack([x + _BESIDE_M * out_x, y + _BESIDE_M * out_y]))
    roof = np.array([0.0, *(each.wall_m for each in buildings)])[beside + 1]
    seen = roof <= height
    kinds = np.full(int(seen.sum()), float(SemanticClass.BUILDINGS))
    return np.column_stack([x[seen], y[seen], height[seen], kinds])


def _rings(building: Surface) -> Iterator[tuple[bool, FloatArray]]:
    """The rings float64[N, 2] of a building, and whether each is the outer one."""
    yield True, shapely.get_coordinates(shapely.get_exterior_ring(building.shape))
    for number_of in range(int(shapely.get_num_interior_rings(building.shape))):
        yield False, shapely.get_coordinates(shapely.get_interior_ring(building.shape, number_of))


def _ring_walls(building: Surface, ring: FloatArray, outer: bool) -> Iterator[FloatArray]:
    """Points float64[N, 5] on the walls of a ring: x, y, height and the normal that points out of the building."""
    step = POINTS_PER_M2**-0.5
    if bool(shapely.is_ccw(shapely.linearrings(ring))) != outer:
        ring = ring[::-1]
    for number_of, (start, end) in enumerate(itertools.pairwise(ring)):
        length = float(np.hypot(*(end - start)))
        across, up = math.ceil(length / step), math.ceil(building.wall_m / step)
        a, b = (each.ravel() for each in np.meshgrid(np.arange(across), np.arange(up)))
        salt = (building.osm_id * 1009 + number_of) % 2**61
        along, height = (a + _jitter(a, b, salt)) * step, (b + _jitter(a, b, salt + 1)) * step
        keep = (along < length) & (height < building.wall_m)
        along, height = along[keep], height[keep]
        direction = (end - start) / max(length, 1e-9)
        places = start + along[:, None] * direction
        outward = np.broadcast_to([direction[1], -direction[0]], places.shape)
        yield np.column_stack([places, height, outward])
