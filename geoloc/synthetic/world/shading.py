"""The colours of what rays meet: ground with marks, facades, roofs, crowns, cars, water and sky under one light.

What belongs to the world (where windows are, which pane is dark, how a lawn is patched) is the same as in the
panorama; light, season, marks and weather are the view's own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoloc.core.arrays import Float32Array, FloatArray, IntArray
from geoloc.synthetic.world.blocks import ASPHALT, BRICK, HEDGE, LAWN, PAVING, POOL, SETTS, WATER
from geoloc.synthetic.world.cars import cars_on
from geoloc.synthetic.world.caster import CAR, CROWN, GROUND, ROOF, SKY, WALL, Hits, leaf
from geoloc.synthetic.world.facade_points import Facades, facade_colour, facades_of
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.noise import mottle
from geoloc.synthetic.world.pixels import borrowing
from geoloc.synthetic.world.raster import Window
from geoloc.synthetic.world.ray_field import Field, cars_in_area, crop, shadow_ceiling
from geoloc.synthetic.world.scene import Texels, texels_of
from geoloc.synthetic.world.shapes import Ray, Vector
from geoloc.synthetic.world.sky_light import SkyLight, light_of_weather, sky_colour
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
    """The colours of everything in a field, and the light on it.

    texels: uint8[H, W, 8] of the ground's red, green and blue in this season, strength of the mark, flags, material,
    hue of the crown, group of the mark; ceiling_cm: uint16[H, W], see `ray_field.shadow_ceiling`; crown: float32[256,
    3] by hue; marks: float32[256, 3] by group; cars: float32[C, 3].
    """

    texels: Bytes
    ceiling_cm: NDArray[np.uint16]
    crown: Float32Array
    marks: Float32Array
    cars: Float32Array
    facades: Facades
    light: SkyLight


class GroundLook(NamedTuple):
    """Changes of the ground in one view.

    gain: float32[14, 3] by material; strength: float32[256] by group of marks; worn: float32[640, 640] pattern of
    wear, repeating every chunk; wear: what the pattern is added to.
    """

    gain: Float32Array
    strength: Float32Array
    worn: Float32Array
    wear: float


class Point(NamedTuple):
    """A point of a surface that a ray meets.

    kind: `GROUND` to `CAR`; item: as `caster.Hits`; row, column: its pixel of the field; place: its coordinates,
    relative to the field's anchor; normal: of the surface.
    """

    kind: int
    item: int
    row: int
    column: int
    place: Vector
    normal: Vector


def mix_paint(
    window: Window, field: Field, bounds: Bounds, look: Look, eye: tuple[float, float], clear_m: float
) -> Paint:
    """The paint for a field that was built with the same arguments."""
    marks, strength = look.marking_colours
    worn = mottle(CHUNK_PX, 5, 900 + look.seed % _WEAR_PATTERNS)
    ground = GroundLook(np.array(look.ground_gain), np.array(strength), worn, 2.36 - 3 * look.wear)
    texels = np.empty((*field.height_cm.shape, 8), np.uint8)
    _mix(texels_of(window, *crop(window, bounds)), field, ground, texels)
    cars = cars_in_area(cars_on(window.edges, look), eye, clear_m, bounds)
    return Paint(
        texels, shadow_ceiling(window, bounds, look), np.array(look.crown_colours), np.array(marks),
        cars.colour.astype(np.float32), facades_of(window.table), light_of_weather(look, weather_of(look)),
    )  # fmt: skip


@borrowing(error_model="numpy")
def _mix(layers: Texels, field: Field, ground: GroundLook, texels: Bytes) -> None:
    """Write the texels of a `Paint` from the layers of the field's pixels."""
    west, north = field.frame[0], field.frame[1]
    rows, columns = layers.material.shape
    for r in range(rows):
        at = (r - north) % 640
        for c in range(columns):
            m, group, building = layers.material[r, c], layers.marking[r, c], field.building[r, c]
            for k in range(3):
                value = layers.albedo[r, c, k] * (ground.gain[m, k] if building < 0 else 1.0)
                texels[r, c, k] = min(value, 255.0)
            amount = 0.0
            if group > 0:
                left = min(max(ground.worn[at, (c + west) % 640] * 3 + ground.wear, 0.0), 1.0)
                amount = ground.strength[group] * left
            flags = _SOLID if building >= 0 or field.height_cm[r, c] > 0 else 0
            flags += _SHADED if field.canopy_dm[r, c] > 0 else 0
            flags += _BESIDE if field.near[r, c] >= 0 else 0
            flags += _UNDER_CAR if field.car[r, c] >= 0 else 0
            texels[r, c, _AMOUNT], texels[r, c, _FLAGS], texels[r, c, _MATERIAL] = amount * 255, flags, m
            texels[r, c, _HUE], texels[r, c, _GROUP] = layers.hue[r, c], group


def shade(
    field: Field, paint: Paint, origins: FloatArray, directions: FloatArray, hits: Hits
) -> Float32Array:
    """The colours that reach the eye along rays: float32[N, 3] in 0..255, before any camera.

    field, origins and directions are those of `caster.cast_field`, hits its result.
    """
    out = np.empty((len(directions), 3), np.float32)
    _shade(field, paint, np.atleast_2d(origins) - field.anchor_m, directions, hits, out)
    return out


@borrowing(error_model="numpy")
def _shade(
    field: Field, paint: Paint, origins: FloatArray, directions: FloatArray, hits: Hits, out: Float32Array
) -> None:
    """Write the colour of every ray to out float32[N, 3]; origins are relative to the field's anchor."""
    columns, shared, light = field.height_cm.shape[1], len(origins) == 1, paint.light
    for n in range(len(directions)):
        m = 0 if shared else n
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        long = math.sqrt(dx * dx + dy * dy + dz * dz)
        d, kind = (dx / long, dy / long, dz / long), hits.kind[n]
        if kind == SKY:
            out[n, 0], out[n, 1], out[n, 2] = sky_colour(light, d)
            continue
        t, r, c = float(hits.depth[n]), hits.cell[n] // columns, hits.cell[n] % columns
        o = (origins[m, 0], origins[m, 1], origins[m, 2])
        place = (o[0] + d[0] * t, o[1] + d[1] * t, o[2] + d[2] * t)
        normal = (float(hits.normal[n, 0]), float(hits.normal[n, 1]), float(hits.normal[n, 2]))
        point = Point(kind, hits.item[n], r, c, place, normal)
        colour = _surface_colour(field, paint, Ray(o, d), t, point)
        mirror = _mirror(paint.texels[r, c, _MATERIAL], d[2]) if kind == GROUND else 0.0
        bright = _light(paint, field.frame, point)
        far = t / light.visibility_m
        haze = far * far / (1 + far * far)
        back = (0.0, 0.0, 0.0)
        if mirror > 0:
            back = sky_colour(light, (d[0], d[1], abs(d[2]) + 0.02))
        for k in range(3):
            value = colour[k] * bright[k] * (1 - mirror) + back[k] * mirror
            out[n, k] = value + (light.horizon[k] - value) * haze


@borrowing(error_model="numpy")
def _surface_colour(field: Field, paint: Paint, ray: Ray, t: float, point: Point) -> Vector:
    """Red, green and blue of a surface in white light, where a ray meets it at the distance `t`."""
    if point.kind == GROUND:
        return _ground(paint, field.frame, point, t)
    if point.kind == WALL:
        return facade_colour(field.prisms, paint.facades, point.item, ray, t, point.place, point.normal)
    if point.kind == CROWN:
        return _leaves(paint, field, point)
    if point.kind == ROOF:
        return _roof(paint, field, point)
    if point.kind == CAR:
        return _bodywork(field.boxes, paint.cars, point.item, point.place)
    return _barrier(paint.texels, field.height_cm, point)


@borrowing(error_model="numpy")
def _mirror(material: int, dz: float) -> float:
    """Share of the sky that water sends back: Schlick's approximation with 2 % at the vertical."""
    if material not in (WATER, POOL):
        return 0.0
    grazing = 1 - min(abs(dz), 1.0)
    return min(0.02 + 0.98 * grazing * grazing * grazing * grazing * grazing, 0.85)


@borrowing(error_model="numpy")
def _barrier(texels: Bytes, height: NDArray[np.uint16], point: Point) -> Vector:
    """Hedges, garden walls and posts: darker towards the foot."""
    r, c, p = point.row, point.column, point.place
    z = min(p[2] / max(height[r, c] * 0.01, 0.3), 1.0)
    speck = leaf(math.floor(p[0] * 9), math.floor(p[1] * 9), math.floor(p[2] * 9)) / 255 - 0.5
    rough = 0.35 if texels[r, c, _MATERIAL] == HEDGE else 0.06
    shade = (0.7 + 0.3 * z) * (1 + rough * speck)
    return texels[r, c, 0] * shade, texels[r, c, 1] * shade, texels[r, c, 2] * shade


@borrowing(error_model="numpy")
def _ground(paint: Paint, frame: IntArray, point: Point, t: float) -> Vector:
    """Ground with marks, smooth between pixels, with joints and grain close to the eye."""
    texels, marks, r, c, p = paint.texels, paint.marks, point.row, point.column, point.place
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


@borrowing(error_model="numpy")
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


@borrowing(error_model="numpy")
def _leaves(paint: Paint, field: Field, point: Point) -> Vector:
    """Leaves of a crown, lighter towards its top, or the bark of the trunk below it."""
    r, c, p = point.row, point.column, point.place
    if field.under_dm[r, c] == 0 and p[2] < 2.0:
        return 92.0, 74.0, 58.0
    i, j = c + field.frame[0], field.frame[1] - 1 - r
    coarse = leaf(i >> 1, j >> 1, math.floor(p[2] * 1.2)) / 255 - 0.5
    fine = leaf(math.floor(p[0] * 6), math.floor(p[1] * 6), math.floor(p[2] * 6)) / 255 - 0.5
    tall = max(field.canopy_dm[r, c] * 0.1, 1.0)
    depth = 0.72 + 0.36 * min(p[2] / tall, 1.0)
    shade = depth * (1 + 0.3 * coarse + 0.34 * fine) * 1.12
    hue = paint.texels[r, c, _HUE]
    return paint.crown[hue, 0] * shade, paint.crown[hue, 1] * shade, paint.crown[hue, 2] * shade


@borrowing(error_model="numpy")
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


@borrowing(error_model="numpy")
def _roof(paint: Paint, field: Field, point: Point) -> Vector:
    """The roof layer's colour, smooth between pixels of the same building."""
    texels, building, frame = paint.texels, field.building, field.frame
    index, p = point.item, point.place
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
        colours = paint.facades.colour
        return float(colours[index, 6]), float(colours[index, 7]), float(colours[index, 8])
    dim = (0.7 if abs(point.normal[2]) < 0.1 else 1.0) / total
    return red * dim, green * dim, blue * dim


@borrowing(error_model="numpy")
def _light(paint: Paint, frame: IntArray, point: Point) -> Vector:
    """Light on a surface: the sky's, and the sun's where it is not in shadow."""
    light, kind, face = paint.light, point.kind, point.normal
    facing = face[0] * light.sun[0] + face[1] * light.sun[1] + face[2] * light.sun[2]
    open_sky = 0.74 + 0.26 * face[2]
    if kind == CROWN:
        open_sky, facing = 0.9 + 0.1 * face[2], 0.35 + 0.65 * facing
    elif kind == WALL:
        open_sky *= 0.82 + 0.18 * min(point.place[2] / 5, 1.0)
    elif kind == GROUND:
        flags = paint.texels[point.row, point.column, _FLAGS]
        open_sky *= (0.8 if flags & _SHADED else 1.0) * (0.85 if flags & _BESIDE else 1.0)
        open_sky *= 0.55 if flags & _UNDER_CAR else 1.0
    bright = 0.0
    if facing > 0 and light.overcast < 1:
        bright = facing * _sunlit(paint.ceiling_cm, frame, point)
    return (
        light.skylight[0] * open_sky + light.sunlight[0] * bright,
        light.skylight[1] * open_sky + light.sunlight[1] * bright,
        light.skylight[2] * open_sky + light.sunlight[2] * bright,
    )


@borrowing(error_model="numpy")
def _sunlit(ceiling: NDArray[np.uint16], frame: IntArray, point: Point) -> float:
    """The share of the sun that reaches a point of a surface, 0 to 1; the edges of shadows are soft."""
    kind, p, face = point.kind, point.place, point.normal
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
