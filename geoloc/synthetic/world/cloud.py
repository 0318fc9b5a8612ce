"""The city as a semantic 2.5D point cloud: points on the ground, roofs, walls, hedges and crowns, each with a class.

Points are one jittered sample per cell of a lattice, so they lie evenly; a point is a function of the city, the
density and the seed alone. Any area, cut out of any larger one, has the same points. Classes: `classes`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray, IntArray
from geoloc.core.errors import ConfigError
from geoloc.core.semantics import SemanticClass
from geoloc.synthetic.world.blocks import HEDGE
from geoloc.synthetic.world.buildings import Buildings
from geoloc.synthetic.world.classes import crown_classes, expand_bounds, ground_classes
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.noise import hash_int, uniform
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.style import PIXEL_M

_MARGIN_M = 2.0
_LAMP_CM = 500


def point_cloud(
    city: City,
    bounds: Bounds,
    *,
    points_per_m2: float = 0.1,
    seed: int = 0,
    window: Window | None = None,
) -> tuple[Float32Array, NDArray[np.uint8]]:
    """Points on all surfaces of an area, and their classes (ids of `geoloc.core.semantics`): float32[P, 3], uint8[P].

    `points_per_m2` of surface; walls count by their own area. `window`, if given, must reach 2 m beyond the bounds.
    Raises `ConfigError` for a density that is not above 0 or an empty area.

    Convention: coordinates are east, north and height in metres from the bounds' south-west corner (west, south,
    east, north in city metres), on the ground.
    """
    if not (points_per_m2 > 0 and bounds[0] < bounds[2] and bounds[1] < bounds[3]):
        raise ConfigError(
            f"No points can be laid at {points_per_m2:g} per square metre over {bounds}; "
            "give a density above 0 and bounds as west, south, east, north."
        )
    window = window or city.window(expand_bounds(bounds, _MARGIN_M))
    step, key = points_per_m2**-0.5, hash_int(city.seed + 700, seed)
    parts = [
        _surface_points(city, window, bounds, step, key),
        _crown_points(city, window, bounds, step, key + 10),
        _wall_points(window, bounds, step, key + 20),
    ]
    points, classes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return (points - (bounds[0], bounds[1], 0.0)).astype(np.float32), classes.astype(np.uint8)


def _lattice(bounds: Bounds, step: float, key: int) -> tuple[FloatArray, FloatArray]:
    """One jittered point per cell, those inside the bounds, row by row from the south."""
    west, south, east, north = bounds
    a = np.arange(int(np.floor(west / step)), int(np.floor(east / step)) + 1)
    b = np.arange(int(np.floor(south / step)), int(np.floor(north / step)) + 1)
    a, b = (grid.ravel() for grid in np.meshgrid(a, b))
    x, y = (a + uniform(key, a, b)) * step, (b + uniform(key + 1, a, b)) * step
    keep = (x >= west) & (x < east) & (y >= south) & (y < north)
    return x[keep], y[keep]


def pixels_of(window: Window, x: FloatArray, y: FloatArray) -> tuple[IntArray, IntArray]:
    """Rows and columns of the window's pixels that hold city points x, y float64[N]: int64[N] twice.

    Points outside the window go to the nearest pixel.

    Convention: x east, y north in city metres; row 0 is the northern edge.
    """
    rows, columns = window.layers.material.shape
    c = np.floor(x / PIXEL_M).astype(np.int64) - window.west_px
    r = window.north_px - 1 - np.floor(y / PIXEL_M).astype(np.int64)
    return np.clip(r, 0, rows - 1), np.clip(c, 0, columns - 1)


def roof_height(table: Buildings, x: FloatArray, y: FloatArray) -> FloatArray:
    """Height in metres of the roofs of buildings [N] over city points float64[N]; points outside get the eaves."""
    east, north = x - table["x"], y - table["y"]
    u = (east * table["cos"] + north * table["sin"]) / table["half_u"]
    v = (north * table["cos"] - east * table["sin"]) / table["half_v"]
    across = np.where(table["half_u"] >= table["half_v"], v, u)
    return np.asarray(table["wall_m"] + table["gable_m"] * (1 - np.minimum(np.abs(across), 1)), np.float64)


def _surface_points(
    city: City, window: Window, bounds: Bounds, step: float, key: int
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Points on roofs and on the ground with its hedges."""
    x, y = _lattice(bounds, step, key)
    r, c = pixels_of(window, x, y)
    layers = window.layers
    classes = ground_classes(city, window)[r, c]
    hedge = (layers.material[r, c] == HEDGE) & (layers.height_cm[r, c] < _LAMP_CM)
    z = np.where(hedge, layers.height_cm[r, c] / 100.0, 0.0)
    building = layers.building[r, c]
    roofed = np.nonzero(building >= 0)[0]
    z[roofed] = roof_height(window.table[building[roofed]], x[roofed], y[roofed])
    classes[roofed] = SemanticClass.BUILDINGS
    return np.stack([x, y, z], -1), classes


def _crown_points(
    city: City, window: Window, bounds: Bounds, step: float, key: int
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Points on the tops of tree crowns."""
    x, y = _lattice(bounds, step, key)
    r, c = pixels_of(window, x, y)
    canopy = window.layers.canopy_dm[r, c] * 0.1
    leafy = canopy * 100 > window.layers.height_cm[r, c]
    classes = crown_classes(city, window)[r, c]
    return np.stack([x, y, canopy], -1)[leafy], classes[leafy]


def _wall_points(
    window: Window, bounds: Bounds, step: float, key: int
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Points on walls and gable ends that no other building hides, building by building in the order of their ids."""
    _, first = np.unique(window.table["id"], return_index=True)  # one that two chunks share is listed twice
    table = window.table[first]
    building, side = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(table)), np.arange(4), indexing="ij")
    )
    of = table[building]
    along_u = side < 2  # sides 0 and 1 run along u at -v and +v; 2 and 3 along v at -u and +u
    half = np.where(along_u, of["half_u"], of["half_v"]).astype(np.float64)
    peak = np.where(along_u == (of["half_u"] >= of["half_v"]), 0.0, of["gable_m"]).astype(np.float64)
    tall = of["wall_m"] + peak
    across, up = (np.ceil(m / step).astype(np.int64) for m in (2 * half, tall))
    face = np.repeat(np.arange(len(of)), across * up)
    inside = np.arange(len(face)) - np.repeat(np.cumsum(across * up) - across * up, across * up)
    a, b = inside % np.maximum(across, 1)[face], inside // np.maximum(across, 1)[face]
    name = of["id"][face], side[face], a, b
    s = (a + uniform(key, *name)) * step - half[face]
    z = (b + uniform(key + 1, *name)) * step
    limit = of["wall_m"][face] + peak[face] * (1 - np.minimum(np.abs(s) / half[face], 1))
    keep = (s < half[face]) & (z < limit)
    face, s, z = face[keep], s[keep], z[keep]
    x, y, out_x, out_y = _on_face(of[face], side[face], s)
    west, south, east, north = bounds
    seen = (x >= west) & (x < east) & (y >= south) & (y < north)
    r, c = pixels_of(window, x + 0.5 * out_x, y + 0.5 * out_y)
    other = window.layers.building[r, c]
    hidden = (other >= 0) & (window.layers.height_cm[r, c] > 100 * z)
    seen &= ~hidden
    points = np.stack([x, y, z], -1)[seen]
    return points, np.full(len(points), SemanticClass.BUILDINGS, np.uint8)


def _on_face(
    of: Buildings, side: IntArray, s: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """City coordinates of points at `s` metres along faces from their middles, and the faces' outward normals."""
    sign = np.where(side % 2 == 0, -1.0, 1.0)
    along_u = side < 2
    u = np.where(along_u, s, sign * of["half_u"])
    v = np.where(along_u, sign * of["half_v"], s)
    cos, sin = of["cos"].astype(np.float64), of["sin"].astype(np.float64)
    out_u, out_v = np.where(along_u, 0.0, sign), np.where(along_u, sign, 0.0)
    return (
        of["x"] + cos * u - sin * v, of["y"] + sin * u + cos * v, cos * out_u - sin * out_v, sin * out_u + cos * out_v
    )  # fmt: skip
