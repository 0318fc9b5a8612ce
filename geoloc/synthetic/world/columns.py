"""Compiled painters of a panorama's columns: obstacles, crowns, the ground, the sky, cars and haze.

An unfinished picture is stored column by column, lowest row first: colour float32[C, R, 3] and depth float32[C, R] in
metres, infinite for the sky. A painter follows one ray and touches one column only, so no order of work can change
a byte.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoloc.core.arrays import BoolArray, Float32Array, FloatArray, IntArray
from geoloc.synthetic.world.facades import enter_wall, paint_wall
from geoloc.synthetic.world.noise import Scalar, hash3
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.scene import Lens, Light, Texels, texel_at
from geoloc.synthetic.world.style import VIEW_RANGE_M
from geoloc.synthetic.world.surfaces import far_ground_colour, sample_patch

NEAR_M = 18.0
_BARK = (np.float32(84), np.float32(66), np.float32(50))
_ZERO, _ONE = np.float32(0), np.float32(1)


class Sky(NamedTuple):
    """A gradient, and clouds as six waves along the azimuth whose phase and strength change with the elevation.

    base: float32[R, 3]; row_sin, row_cos: float32[R, 6]; column_sin, column_cos: float32[C, 6]; cover: what the
    sum of the waves starts from.
    """

    base: Float32Array
    row_sin: Float32Array
    row_cos: Float32Array
    column_sin: Float32Array
    column_cos: Float32Array
    cover: np.float32


class Scene(NamedTuple):
    """Everything that a panorama shows, except its cars.

    buildings: `BUILDING`[B]; patch: float32[P, P, 3], the ground around the camera (`surfaces.near_patch`).
    """

    texels: Texels
    buildings: Any
    lens: Lens
    light: Light
    patch: Float32Array
    sky: Sky


class Column(NamedTuple):
    """One column of the picture and the ray along it.

    number: of the column; place: int64[S, 2], row and column of the texel at each step of the ray; colour:
    float32[R, 3]; depth: float32[R]; done: bool[R], the rows in which something stands.
    """

    number: int
    place: IntArray
    colour: Float32Array
    depth: Float32Array
    done: BoolArray


@njit(cache=True, nogil=True)
def rows_below(tangent: Float32Array, limit: Scalar) -> int:
    """Number of the ascending tangents float32[R] that are smaller than a limit."""
    low, high = 0, len(tangent)
    while low < high:
        middle = (low + high) // 2
        if tangent[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def paint_columns(scene: Scene, colour: Float32Array, depth: Float32Array) -> None:
    """Paint everything but cars and haze to colour float32[C, R, 3] and depth float32[C, R] in metres.

    Convention: column c looks along the lens's azimuth c; row 0 is the lowest.
    """
    lens = scene.lens
    steps = len(lens.distance_m)
    place = np.empty((steps, 2), np.int64)
    done = np.empty(len(lens.tangent), np.bool_)
    for c in range(len(lens.sin)):
        done[:] = False
        column = Column(c, place, colour[c], depth[c], done)
        _set_flat_depth(lens, column.depth)
        for s in range(steps):
            reach = lens.distance_m[s]
            place[s] = texel_at(scene.texels, lens, lens.sin[c] * reach, lens.cos[c] * reach)
        _paint_obstacles(scene, column)
        _paint_crowns(scene, column)
        _paint_ground(scene, column)
        _paint_sky(scene.sky, column)


@borrowing()
def _set_flat_depth(lens: Lens, depth: Float32Array) -> None:
    """Distance of the flat ground, infinite from the viewing range on."""
    for r in range(len(depth)):
        tangent = lens.tangent[r]
        flat = -lens.eye_m / tangent if tangent < _ZERO else np.float32(np.inf)
        depth[r] = flat if flat <= VIEW_RANGE_M else np.float32(np.inf)


@borrowing()
def _paint_obstacles(scene: Scene, column: Column) -> None:
    """Walls, roofs, hedges and posts: each step of the ray fills the rows that it is the first to reach."""
    texels, lens, place = scene.texels, scene.lens, column.place
    filled = 0
    for s in range(len(place)):
        height_cm = texels.height_cm[place[s, 0], place[s, 1]]
        if height_cm == 0:
            continue
        tall = height_cm * np.float32(0.01)
        top = rows_below(lens.tangent, (tall - lens.eye_m) / lens.distance_m[s])
        if top <= filled:
            continue
        first = max(filled, int(lens.base_row[s]))
        filled = top
        if first >= top:
            continue
        row = texels.building[place[s, 0], place[s, 1]]
        if row >= 0:
            _paint_building(scene, scene.buildings[row], column, s, first, top)
        else:
            _paint_low(scene, column, s, first, top)
        column.done[first:top] = True


@borrowing()
def _paint_building(scene: Scene, building: Any, column: Column, step: int, first: int, top: int) -> None:
    """Rows first .. top of a building: its wall, above the eaves its roof."""
    lens, albedo, place = scene.lens, scene.texels.albedo, column.place[step]
    colour, depth = column.colour, column.depth
    exact, along, brightness = enter_wall(
        building, lens.x, lens.y, lens.sin[column.number], lens.cos[column.number], lens.distance_m[step],
        scene.light,
    )  # fmt: skip
    bay = along / building.bay_m + building.phase
    for r in range(first, top):
        z = lens.eye_m + exact * lens.tangent[r]
        depth[r] = exact
        if z < building.wall_m + np.float32(0.05):
            paint_wall(building, bay, z, brightness, colour[r])
            continue
        for k in range(3):
            colour[r, k] = albedo[place[0], place[1], k] * np.float32(0.95)


@borrowing()
def _paint_low(scene: Scene, column: Column, step: int, first: int, top: int) -> None:
    """Rows first .. top of a hedge, fence or post, darker towards its foot."""
    texels, lens, place = scene.texels, scene.lens, column.place[step]
    distance = lens.distance_m[step]
    tall = max(texels.height_cm[place[0], place[1]] * np.float32(0.01), np.float32(0.3))
    material = texels.material[place[0], place[1]]
    for r in range(first, top):
        z = lens.eye_m + distance * lens.tangent[r]
        shade = np.float32(0.62) + np.float32(0.38) * min(max(z / tall, _ZERO), _ONE)
        for k in range(3):
            gain = scene.light.ground[material, k]
            column.colour[r, k] = texels.albedo[place[0], place[1], k] * gain * shade
        column.depth[r] = distance


@borrowing()
def _paint_crowns(scene: Scene, ray: Column) -> None:
    """Tree crowns and trunks; the nearest of what reaches a row stays."""
    texels, lens, depth = scene.texels, scene.lens, ray.depth
    for s in range(len(ray.place)):
        row, column = ray.place[s, 0], ray.place[s, 1]
        top_dm = texels.canopy_dm[row, column]
        if top_dm == 0:
            continue
        distance, top = lens.distance_m[s], top_dm * np.float32(0.1)
        last = rows_below(lens.tangent, (top - lens.eye_m) / distance)
        if last == 0 or depth[last - 1] <= distance:
            continue  # higher rows always see farther
        under = texels.under_dm[row, column] * np.float32(0.1)
        first = rows_below(lens.tangent, (under - lens.eye_m) / distance)
        for r in range(first, last):
            if distance < depth[r]:
                z = lens.eye_m + distance * lens.tangent[r]
                _paint_leaf(texels, scene.light, row, column, z, top, ray.colour[r])
                depth[r] = distance
                ray.done[r] = True


@borrowing()
def _paint_leaf(
    texels: Texels, light: Light, row: int, column: int, z: Scalar, top: Scalar, out: Float32Array
) -> None:
    """The colour of a crown, lighter towards its top and mottled, or of the trunk below it."""
    if z < np.float32(1.9):
        out[0], out[1], out[2] = _BARK
        return
    leaf = hash3(17, column + texels.west_px, texels.north_px - row, int(z * np.float32(2.2))) >> 24
    light_here = np.float32(0.5) + np.float32(0.5) * min(max(z / top, _ZERO), _ONE)
    light_here += np.float32(0.4) * (np.float32(leaf) / np.float32(255) - np.float32(0.5))
    hue = texels.hue[row, column]
    for k in range(3):
        out[k] = light.crown[hue, k] * light_here


@borrowing()
def _paint_ground(scene: Scene, column: Column) -> None:
    """The flat ground where nothing stands on it: interpolated near the camera, single texels farther out."""
    lens, depth, colour = scene.lens, column.depth, column.colour
    for r in range(len(depth)):
        distance = depth[r]
        if distance == np.float32(np.inf):
            break  # depth only grows where nothing was painted
        if column.done[r]:
            continue
        east, north = distance * lens.sin[column.number], distance * lens.cos[column.number]
        if distance < NEAR_M:
            sample_patch(scene.patch, lens, east, north, colour[r])
        else:
            row, c = texel_at(scene.texels, lens, east, north)
            far_ground_colour(scene.texels, scene.light, row, c, colour[r])


@borrowing()
def _paint_sky(sky: Sky, column: Column) -> None:
    """The sky where the ray meets nothing."""
    number, colour, depth = column.number, column.colour, column.depth
    for r in range(len(depth)):
        if column.done[r] or depth[r] < np.float32(np.inf):
            continue
        cloud = sky.cover
        for w in range(6):
            cloud += sky.column_sin[number, w] * sky.row_cos[r, w]
            cloud += sky.column_cos[number, w] * sky.row_sin[r, w]
        cloud = min(max(cloud, _ZERO), _ONE)
        for k in range(3):
            colour[r, k] = sky.base[r, k] + (np.float32(234) - sky.base[r, k]) * cloud


@njit(cache=True, nogil=True)
def paint_cars(lens: Lens, boxes: FloatArray, colour: Float32Array, depth: Float32Array) -> None:
    """The nearest car of each column, cut with its box.

    boxes: float64[N, 10] of centre x, y, direction of travel x, y, half length, half width, height, red, green, blue.
    """
    for c in range(len(lens.sin)):
        nearest, found, along = np.inf, -1, 0.0
        for n in range(len(boxes)):
            enter, place = _enter_box(boxes[n], lens, float(lens.sin[c]), float(lens.cos[c]))
            if enter < nearest:
                nearest, found, along = enter, n, place
        if found >= 0:
            _paint_car(lens, boxes[found], np.float32(nearest), along, colour[c], depth[c])


@njit(cache=True, nogil=True)
def _enter_box(box: FloatArray, lens: Lens, sin: Scalar, cos: Scalar) -> tuple[Scalar, Scalar]:
    """Distance to where a ray enters a car's box, infinite if it does not, and where along the car (-1 to 1)."""
    east, north = lens.x - box[0], lens.y - box[1]
    u, v = east * box[2] + north * box[3], north * box[2] - east * box[3]
    du, dv = sin * box[2] + cos * box[3], cos * box[2] - sin * box[3]
    du = 1e-6 if abs(du) < 1e-6 else du
    dv = 1e-6 if abs(dv) < 1e-6 else dv
    u0, u1, v0, v1 = (-box[4] - u) / du, (box[4] - u) / du, (-box[5] - v) / dv, (box[5] - v) / dv
    enter, leave = max(min(u0, u1), min(v0, v1)), min(max(u0, u1), max(v0, v1))
    if enter < leave and enter > 0:
        return enter, (u + enter * du) / box[4]
    return np.inf, 0.0


@njit(cache=True, nogil=True)
def _paint_car(
    lens: Lens, box: FloatArray, distance: Scalar, along: Scalar, colour: Float32Array, depth: Float32Array
) -> None:
    """The rows of one column that show a car: body, windows, wheels."""
    tall = np.float32(box[6])
    for r in range(len(depth)):
        z = lens.eye_m + lens.tangent[r] * distance
        if z <= 0 or z >= tall or distance >= depth[r]:
            continue
        up = z / tall
        depth[r] = distance
        if up < 0.12 or (up < 0.38 and abs(abs(along) - 0.62) < 0.17):
            colour[r, 0], colour[r, 1], colour[r, 2] = np.float32(26), np.float32(26), np.float32(28)
        elif 0.6 < up < 0.92 and abs(along) < 0.75:
            colour[r, 0], colour[r, 1], colour[r, 2] = np.float32(52), np.float32(58), np.float32(66)
        else:
            for k in range(3):
                colour[r, k] = np.float32(box[7 + k]) * (np.float32(0.75) + np.float32(0.3) * up)


@njit(cache=True, nogil=True)
def finish(
    colour: Float32Array, depth: Float32Array, haze: Float32Array, density: Scalar, samples: int
) -> NDArray[np.uint8]:
    """Fade what is far into the haze, average samples x samples rays a pixel: uint8[R / samples, C / samples, 3].

    Convention: the result has rows from the top down.
    """
    columns, rows = depth.shape
    out = np.empty((rows // samples, columns // samples, 3), np.uint8)
    share = np.float32(1 / (samples * samples))
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            red, green, blue = _ZERO, _ZERO, _ZERO
            for a in range(samples):
                for b in range(samples):
                    c, r = column * samples + a, (out.shape[0] - 1 - row) * samples + b
                    veil = _veil(depth[c, r], density)
                    red += _clip(colour[c, r, 0] + (haze[0] - colour[c, r, 0]) * veil)
                    green += _clip(colour[c, r, 1] + (haze[1] - colour[c, r, 1]) * veil)
                    blue += _clip(colour[c, r, 2] + (haze[2] - colour[c, r, 2]) * veil)
            pixel = out[row, column]
            pixel[0], pixel[1], pixel[2] = red * share + 0.5, green * share + 0.5, blue * share + 0.5
    return out


@njit(cache=True, nogil=True)
def _veil(distance_m: Scalar, density: Scalar) -> Scalar:
    """Share of the haze's colour at a distance; the sky and what is near have none."""
    if distance_m <= 12 or distance_m == np.float32(np.inf):
        return _ZERO
    far = min(distance_m / np.float32(VIEW_RANGE_M), _ONE)
    return far * np.float32(math.sqrt(far)) * np.float32(density)


@njit(cache=True, nogil=True)
def _clip(value: Scalar) -> Scalar:
    return min(max(value, _ZERO), np.float32(255))
