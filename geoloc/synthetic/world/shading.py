"""The colours of what rays meet: ground with marks, facades, roofs, crowns, cars, water and sky under one light.

What belongs to the world (where windows are, which pane is dark, how a lawn is patched) is the same as in the
panorama; light, season, marks and weather are the view's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray, Int32Array, IntArray
from geoloc.synthetic.world.blocks import ASPHALT, BRICK, HEDGE, LAWN, PAVING, POOL, SETTS, WATER
from geoloc.synthetic.world.cars import cars_on
from geoloc.synthetic.world.caster import CAR, CROWN, GROUND, ROOF, SKY, WALL, Hits, leaf
from geoloc.synthetic.world.facade_points import front_colour
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.noise import mottle
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.ray_field import Field, crop, kept_cars, shadow_ceiling
from geoloc.synthetic.world.shapes import Vector
from geoloc.synthetic.world.sky_light import (
    OVERCAST,
    SKYLIGHT,
    SUN,
    SUNLIGHT,
    VISIBILITY,
    light_of_weather,
    sky_colour,
)
from geoloc.synthetic.world.style import CHUNK_PX
from geoloc.synthetic.world.view_conditions import Look
from geoloc.synthetic.world.weather import weather_of

Bytes = NDArray[np.uint8]
_WEAR_PATTERNS = 8
_DETAIL_M = 22.0
_SHADE_CM = 25
"""A ceiling this much above a surface puts it in shadow."""
_AMOUNT, _FLAGS, _MATERIAL, _HUE, _GROUP = 3, 4, 5, 6, 7
_SOLID, _SHADED, _BESIDE, _UNDER_CAR = 1, 2, 4, 8


class Paint(NamedTuple):
    """Everything that gives colours, as arrays.

    texels: uint8[H, W, 8] of the ground's red, green and blue in this season, strength of the mark, flags, material,
    hue of the crown, group of the mark. ceiling_cm: `solids.shadow_ceiling`. crown: float32[256, 3]; marks:
    float32[256, 3]; cars: float32[C, 3]; building_colour: float32[B, 9] of facade, trim, roof; building_size:
    float32[B, 6] of storey_m, bay_m, window, phase, wall_m, kind. light: float64[18], see `skies`.
    """

    texels: Bytes
    ceiling_cm: NDArray[np.uint16]
    crown: Float32Array
    marks: Float32Array
    cars: Float32Array
    building_colour: Float32Array
    building_size: Float32Array
    building_id: NDArray[np.uint32]
    light: FloatArray
    cloud_seed: int


def mix_paint(
    window: Window, field: Field, bounds: Bounds, look: Look, eye: tuple[float, float], clear_m: float
) -> Paint:
    """The paint for a field that was built with the same arguments."""
    rows, columns = crop(window, bounds)
    layers, weather, table = window.layers, weather_of(look), window.table
    marks, strength = look.marking_colours
    texels = np.empty((*field.height_cm.shape, 8), np.uint8)
    _mix(
        layers.albedo[rows, columns], layers.material[rows, columns], layers.marking[rows, columns],
        layers.hue[rows, columns], field.height_cm, field.canopy_dm, field.building, field.near, field.car,
        np.array(look.ground_gain), np.array(strength), mottle(CHUNK_PX, 5, 900 + look.seed % _WEAR_PATTERNS),
        2.36 - 3 * look.wear, field.frame, texels,
    )  # fmt: skip
    size = ("storey_m", "bay_m", "window", "phase", "wall_m", "kind")
    return Paint(
        texels, shadow_ceiling(window, bounds, look), np.array(look.crown_colours), np.array(marks),
        kept_cars(cars_on(window.edges, look), eye, clear_m, bounds).colour.astype(np.float32),
        np.concatenate([table["facade"], table["trim"], table["roof"]], 1).astype(np.float32),
        np.stack([table[name].astype(np.float32) for name in size], -1), table["id"].copy(),
        light_of_weather(look, weather), weather.seed,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _mix(
    albedo: Bytes, material: Bytes, marking: Bytes, hue: Bytes, height: NDArray[np.uint16], canopy: Bytes,
    building: Int32Array, near: Int32Array, car: NDArray[np.int16], gain: Float32Array, strength: Float32Array,
    worn: Float32Array, wear: float, frame: IntArray, texels: Bytes,
) -> None:  # fmt: skip
    rows, columns = material.shape
    for r in range(rows):
        at = (r - frame[1]) % 640
        for c in range(columns):
            m, group, own = material[r, c], marking[r, c], building[r, c]
            for k in range(3):
                value = albedo[r, c, k] * (gain[m, k] if own < 0 else 1.0)
                texels[r, c, k] = min(value, 255.0)
            amount = 0.0
            if group > 0:
                amount = strength[group] * min(max(worn[at, (c + frame[0]) % 640] * 3 + wear, 0.0), 1.0)
            flags = _SOLID if own >= 0 or height[r, c] > 0 else 0
            flags += _SHADED if canopy[r, c] > 0 else 0
            flags += _BESIDE if near[r, c] >= 0 else 0
            flags += _UNDER_CAR if car[r, c] >= 0 else 0
            texels[r, c, _AMOUNT], texels[r, c, _FLAGS], texels[r, c, _MATERIAL] = amount * 255, flags, m
            texels[r, c, _HUE], texels[r, c, _GROUP] = hue[r, c], group


def shade(
    field: Field, paint: Paint, origins: FloatArray, directions: FloatArray, hits: Hits
) -> Float32Array:
    """The colours that reach the eye along rays: float32[N, 3] in 0..255, before any camera.

    Arguments as in `caster.cast_field`, and what it returned.
    """
    out = np.empty((len(directions), 3), np.float32)
    _shade(
        field.height_cm, field.canopy_dm, field.under_dm, field.building, field.prisms, field.boxes, field.frame,
        paint.texels, paint.ceiling_cm, paint.crown, paint.marks, paint.cars, paint.building_colour,
        paint.building_size, paint.building_id, paint.light, paint.cloud_seed,
        np.atleast_2d(origins) - field.anchor_m, directions, hits.depth, hits.kind, hits.index, hits.cell,
        hits.normal, out,
    )  # fmt: skip
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _shade(
    height: NDArray[np.uint16], canopy: Bytes, under: Bytes, building: Int32Array, prisms: FloatArray,
    boxes: FloatArray, frame: IntArray, texels: Bytes, ceiling: NDArray[np.uint16],
    crown: Float32Array, marks: Float32Array,
    cars: Float32Array, colours: Float32Array, sizes: Float32Array, ids: NDArray[np.uint32],
    light: FloatArray, clouds: int, origins: FloatArray,
    directions: FloatArray, depth: Float32Array, kinds: Bytes, index: Int32Array,
    cell: Int32Array, normal: Float32Array,
    out: Float32Array,
) -> None:  # fmt: skip
    columns, shared = height.shape[1], len(origins) == 1
    for n in range(len(directions)):
        m = 0 if shared else n
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        long = math.sqrt(dx * dx + dy * dy + dz * dz)
        d, kind = (dx / long, dy / long, dz / long), kinds[n]
        if kind == SKY:
            out[n, 0], out[n, 1], out[n, 2] = sky_colour(light, clouds, d)
            continue
        t, which, r, c = float(depth[n]), index[n], cell[n] // columns, cell[n] % columns
        p = (origins[m, 0] + d[0] * t, origins[m, 1] + d[1] * t, origins[m, 2] + d[2] * t)
        face = (float(normal[n, 0]), float(normal[n, 1]), float(normal[n, 2]))
        mirror = 0.0
        if kind == GROUND:
            colour = _ground(texels, marks, frame, r, c, p, t)
            mirror = _mirror(texels[r, c, _MATERIAL], d[2])
        elif kind == WALL:
            colour = front_colour(prisms, colours, sizes, which, ids[which], p, face, t, d)
        elif kind == CROWN:
            colour = _leaves(texels, crown, canopy, under, frame, r, c, p)
        elif kind == ROOF:
            colour = _roof(texels, building, colours, frame, which, r, c, p, face)
        elif kind == CAR:
            colour = _bodywork(boxes, cars, which, p)
        else:
            colour = _barrier(texels, height, r, c, p)
        bright = _light(texels, ceiling, light, frame, kind, r, c, p, face)
        far = t / light[VISIBILITY]
        haze = far * far / (1 + far * far)
        back = (0.0, 0.0, 0.0)
        if mirror > 0:
            back = sky_colour(light, clouds, (d[0], d[1], abs(d[2]) + 0.02))
        for k in range(3):
            value = colour[k] * bright[k] * (1 - mirror) + back[k] * mirror
            out[n, k] = value + (light[9 + k] - value) * haze


@njit(cache=True, nogil=True, error_model="numpy")
def _mirror(material: int, dz: float) -> float:
    """Share of the sky that water sends back: Schlick's approximation with 2 % at the vertical."""
    if material not in (WATER, POOL):
        return 0.0
    grazing = 1 - min(abs(dz), 1.0)
    return min(0.02 + 0.98 * grazing * grazing * grazing * grazing * grazing, 0.85)


@njit(cache=True, nogil=True, error_model="numpy")
def _barrier(texels: Bytes, height: NDArray[np.uint16], r: int, c: int, p: Vector) -> Vector:
    """Hedges, garden walls and posts: darker towards the foot."""
    z = min(p[2] / max(height[r, c] * 0.01, 0.3), 1.0)
    speck = leaf(math.floor(p[0] * 9), math.floor(p[1] * 9), math.floor(p[2] * 9)) / 255 - 0.5
    rough = 0.35 if texels[r, c, _MATERIAL] == HEDGE else 0.06
    shade = (0.7 + 0.3 * z) * (1 + rough * speck)
    return texels[r, c, 0] * shade, texels[r, c, 1] * shade, texels[r, c, 2] * shade


@njit(cache=True, nogil=True, error_model="numpy")
def _ground(
    texels: Bytes, marks: Float32Array, frame: IntArray, r: int, c: int, p: Vector, t: float
) -> Vector:
    """Ground with marks, smooth between pixels, with joints and grain close to the eye."""
    rows, columns = texels.shape[:2]
    x, y = p[0] * 2.5 - 0.5 + frame[2] - frame[0], frame[1] - frame[3] - p[1] * 2.5 - 0.5
    c0, r0 = math.floor(x), math.floor(y)
    fx, fy = x - c0, y - r0
    red, green, blue, cover, strong = 0.0, 0.0, 0.0, 0.0, 0.0
    group, most = 0, 0.0
    for k in range(4):
        a, b = min(max(r0 + k // 2, 0), rows - 1), min(max(c0 + k % 2, 0), columns - 1)
        weight = (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
        if texels[a, b, _GROUP] > 0:
            cover += weight
            if weight > most:
                most, group, strong = weight, texels[a, b, _GROUP], texels[a, b, _AMOUNT] / 255
        if texels[a, b, _FLAGS] & _SOLID:
            a, b = r, c
        red += weight * texels[a, b, 0]
        green += weight * texels[a, b, 1]
        blue += weight * texels[a, b, 2]
    if group > 0:
        amount = min(max((cover - 0.28) / 0.4, 0.0), 1.0) * strong
        red += (marks[group, 0] - red) * amount
        green += (marks[group, 1] - green) * amount
        blue += (marks[group, 2] - blue) * amount
    detail = 1.0
    if t < _DETAIL_M:
        east, north = p[0] + (frame[2] % 640) * 0.4, p[1] + (frame[3] % 640) * 0.4
        detail = _detail(texels[r, c, _MATERIAL], east, north, 1 - t / _DETAIL_M)
    return red * detail, green * detail, blue * detail


@njit(cache=True, nogil=True, error_model="numpy")
def _detail(material: int, x: float, y: float, near: float) -> float:
    """Grain and joints of a material too fine for the layers: a factor around 1."""
    rough = 0.2 if material == LAWN else 0.14 if material == ASPHALT else 0.1
    speck = leaf(math.floor(x * 18), math.floor(y * 18), 5) / 255 - 0.5
    value = 1 + near * rough * speck
    size = 0.5 if material == PAVING else 0.16 if material == SETTS else 0.24 if material == BRICK else 0.0
    if size > 0:
        a, b = x / size, y / size
        i, j = math.floor(a), math.floor(b)
        value *= 1 + near * 0.16 * (leaf(i, j, 3) / 255 - 0.5)
        if a - i < 0.07 or b - j < 0.07:
            value *= 1 - 0.16 * near
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def _leaves(
    texels: Bytes,
    crown: Float32Array,
    canopy: Bytes,
    under: Bytes,
    frame: IntArray,
    r: int,
    c: int,
    p: Vector,
) -> Vector:
    if under[r, c] == 0 and p[2] < 2.0:
        return 92.0, 74.0, 58.0
    i, j = c + frame[0], frame[1] - 1 - r
    coarse = leaf(i >> 1, j >> 1, math.floor(p[2] * 1.2)) / 255 - 0.5
    fine = leaf(math.floor(p[0] * 6), math.floor(p[1] * 6), math.floor(p[2] * 6)) / 255 - 0.5
    tall = max(canopy[r, c] * 0.1, 1.0)
    depth = 0.72 + 0.36 * min(p[2] / tall, 1.0)
    shade = depth * (1 + 0.3 * coarse + 0.34 * fine) * 1.12
    hue = texels[r, c, _HUE]
    return crown[hue, 0] * shade, crown[hue, 1] * shade, crown[hue, 2] * shade


@njit(cache=True, nogil=True, error_model="numpy")
def _bodywork(boxes: FloatArray, cars: Float32Array, k: int, p: Vector) -> Vector:
    """A car: paint, glass around the cabin, lamps, wheels and a dark underside."""
    east, north = p[0] - boxes[k, 0], p[1] - boxes[k, 1]
    along = (east * boxes[k, 2] + north * boxes[k, 3]) / boxes[k, 4]
    across = (north * boxes[k, 2] - east * boxes[k, 3]) / boxes[k, 5]
    z = p[2] / boxes[k, 6]
    waist = 0.6 if boxes[k, 6] < 2 else 0.5
    wheel = abs(abs(along) - 0.62) < 0.17 and z < 0.4 and abs(across) > 0.9
    if wheel or z < 0.13:
        return 27.0, 27.0, 29.0
    if waist + 0.04 < z < 0.94 and abs(abs(along) % 0.5 - 0.02) > 0.05:
        return 46.0, 54.0, 62.0
    if abs(along) > 0.985 and abs(across) > 0.6 and 0.36 < z < 0.5:
        return (226.0, 222.0, 204.0) if along > 0 else (150.0, 34.0, 30.0)
    return float(cars[k, 0]), float(cars[k, 1]), float(cars[k, 2])


@njit(cache=True, nogil=True, error_model="numpy")
def _roof(
    texels: Bytes, building: Int32Array, colours: Float32Array, frame: IntArray, index: int, r: int, c: int,
    p: Vector, face: Vector,
) -> Vector:  # fmt: skip
    """The roof layer's colour, smooth between pixels of the same building."""
    rows, columns = building.shape
    x, y = p[0] * 2.5 - 0.5 + frame[2] - frame[0], frame[1] - frame[3] - p[1] * 2.5 - 0.5
    c0, r0 = math.floor(x), math.floor(y)
    fx, fy = x - c0, y - r0
    red, green, blue, total = 0.0, 0.0, 0.0, 1e-9
    for k in range(4):
        a, b = min(max(r0 + k // 2, 0), rows - 1), min(max(c0 + k % 2, 0), columns - 1)
        if building[a, b] == index:
            weight = (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
            red += weight * texels[a, b, 0]
            green += weight * texels[a, b, 1]
            blue += weight * texels[a, b, 2]
            total += weight
    if total < 1e-6:
        return float(colours[index, 6]), float(colours[index, 7]), float(colours[index, 8])
    dim = (0.7 if abs(face[2]) < 0.1 else 1.0) / total
    return red * dim, green * dim, blue * dim


@njit(cache=True, nogil=True, error_model="numpy")
def _light(
    texels: Bytes, ceiling: NDArray[np.uint16], light: FloatArray, frame: IntArray, kind: int, r: int, c: int,
    p: Vector, face: Vector,
) -> Vector:  # fmt: skip
    """Light on a surface: the sky's, and the sun's where it is not in shadow."""
    facing = face[0] * light[SUN] + face[1] * light[SUN + 1] + face[2] * light[SUN + 2]
    open_sky = 0.74 + 0.26 * face[2]
    if kind == CROWN:
        open_sky, facing = 0.9 + 0.1 * face[2], 0.35 + 0.65 * facing
    elif kind == WALL:
        open_sky *= 0.82 + 0.18 * min(p[2] / 5, 1.0)
    elif kind == GROUND:
        flags = texels[r, c, _FLAGS]
        open_sky *= (0.8 if flags & _SHADED else 1.0) * (0.85 if flags & _BESIDE else 1.0)
        open_sky *= 0.55 if flags & _UNDER_CAR else 1.0
    bright = 0.0
    if facing > 0 and light[OVERCAST] < 1:
        bright = facing * _sunlit(ceiling, frame, kind, p, face)
    return (
        light[SKYLIGHT] * open_sky + light[SUNLIGHT] * bright,
        light[SKYLIGHT + 1] * open_sky + light[SUNLIGHT + 1] * bright,
        light[SKYLIGHT + 2] * open_sky + light[SUNLIGHT + 2] * bright,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _sunlit(ceiling: NDArray[np.uint16], frame: IntArray, kind: int, p: Vector, face: Vector) -> float:
    """How much of a surface point the sun reaches, 0 to 1; edges of shadows on flat things are soft."""
    rows, columns = ceiling.shape
    away = 0.45 if kind == WALL else 0.0
    x = (p[0] + away * face[0]) * 2.5 - 0.5 + frame[2] - frame[0]
    y = frame[1] - frame[3] - (p[1] + away * face[1]) * 2.5 - 0.5
    limit = p[2] * 100 + (_SHADE_CM if kind != CROWN else 80)
    c0, r0 = math.floor(x), math.floor(y)
    fx, fy = x - c0, y - r0
    lit = 0.0
    for k in range(4):
        a, b = min(max(r0 + k // 2, 0), rows - 1), min(max(c0 + k % 2, 0), columns - 1)
        if ceiling[a, b] <= limit:
            lit += (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
    return lit
