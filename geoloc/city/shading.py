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

from geoloc.city.blocks import ASPHALT, BRICK, HEDGE, LAWN, PAVING, POOL, SETTS, WATER
from geoloc.city.cars import cars_on
from geoloc.city.caster import CAR, CROWN, GROUND, ROOF, SKY, WALL, Hits, leaf
from geoloc.city.fronts import front_colour
from geoloc.city.looks import Look
from geoloc.city.network import Bounds
from geoloc.city.noise import Double, Float, mottle
from geoloc.city.raster import Window
from geoloc.city.solids import Field, crop, kept_cars, shadow_ceiling
from geoloc.city.style import CHUNK_PX, PIXEL_M
from geoloc.city.weather import weather_of

Colour = tuple[float, float, float]
_WEAR_PATTERNS = 8
_DETAIL_M = 22.0
_SHADE_CM = 25
"""A ceiling this much above a surface puts it in shadow."""


class Paint(NamedTuple):
    """Everything that gives colours, as arrays: layers of the field's square, tables of the look, light and air."""

    albedo: NDArray[np.uint8]
    material: NDArray[np.uint8]
    marking: NDArray[np.uint8]
    hue: NDArray[np.uint8]
    ceiling_cm: NDArray[np.uint16]
    gain: Float
    crown: Float
    mark_colour: Float
    mark_strength: Float
    worn: Float
    wear: float
    cars: Float
    building_colour: Float
    building_size: Float
    building_id: NDArray[np.uint32]
    sun: tuple[float, float, float]
    sunlight: Colour
    skylight: Colour
    horizon: Colour
    zenith: Colour
    cover: float
    overcast: float
    visibility_m: float
    cloud_seed: int


def mix_paint(
    window: Window, field: Field, bounds: Bounds, look: Look, eye: tuple[float, float], clear_m: float
) -> Paint:
    """The paint for a field that was built with the same arguments."""
    rows, columns = crop(window, bounds)
    layers, weather = window.layers, weather_of(look)
    azimuth, elevation = math.radians(look.sun_azimuth_deg), math.radians(look.sun_elevation_deg)
    low = math.cos(elevation)
    sun = (math.sin(azimuth) * low, math.cos(azimuth) * low, math.sin(elevation))
    power = min(0.62 / sun[2], 1.5) * (1 - weather.overcast) ** 1.5
    cool = np.array([0.96, 1.0, 1.07]) * (0.44 + 0.42 * weather.overcast)
    mark_colour, mark_strength = look.marking_colours
    table = window.table
    names = ("storey_m", "bay_m", "window", "phase", "wall_m", "kind")
    return Paint(
        layers.albedo[rows, columns].copy(), layers.material[rows, columns].copy(),
        layers.marking[rows, columns].copy(), layers.hue[rows, columns].copy(),
        shadow_ceiling(window, bounds, look), look.ground_gain, look.crown_colours, mark_colour, mark_strength,
        mottle(CHUNK_PX, 5, 900 + look.seed % _WEAR_PATTERNS), float(look.wear),
        kept_cars(cars_on(window.edges, look), eye, clear_m, bounds).colour.astype(np.float32),
        np.concatenate([table["facade"], table["trim"], table["roof"]], 1).astype(np.float32),
        np.stack([table[name].astype(np.float32) for name in names], -1), table["id"].copy(),
        sun, _triple(weather.sunlight * power), _triple(cool), _triple(weather.horizon), _triple(weather.zenith),
        weather.cover, weather.overcast, weather.visibility_m, weather.seed,
    )  # fmt: skip


def _triple(values: Double) -> Colour:
    return float(values[0]), float(values[1]), float(values[2])


def shade(field: Field, paint: Paint, origins: Double, directions: Double, hits: Hits) -> Float:
    """The colours that reach the eye along rays: float32[N, 3] in 0..255, before any camera.

    Arguments as in `caster.cast_field`, and what it returned.
    """
    count = len(directions)
    local = np.broadcast_to(origins, (count, 3)) - (field.anchor_i * PIXEL_M, field.anchor_j * PIXEL_M, 0.0)
    ahead = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    out = np.empty((count, 3), np.float32)
    _shade(field, paint, local, ahead, hits.depth, hits.kind, hits.index, hits.cell, hits.normal, out)
    return out


@njit(cache=True, nogil=True)
def _shade(
    field: Field, paint: Paint, origins: Double, directions: Double, depth: Float, kind: NDArray[np.uint8],
    index: NDArray[np.int32], cell: NDArray[np.int32], normal: Float, out: Float,
) -> None:  # fmt: skip
    columns = field.height_cm.shape[1]
    for n in range(len(directions)):
        d = (directions[n, 0], directions[n, 1], directions[n, 2])
        if kind[n] == SKY:
            out[n, 0], out[n, 1], out[n, 2] = sky_colour(paint, d)
            continue
        t = float(depth[n])
        p = (origins[n, 0] + d[0] * t, origins[n, 1] + d[1] * t, origins[n, 2] + d[2] * t)
        face = (float(normal[n, 0]), float(normal[n, 1]), float(normal[n, 2]))
        r, c = cell[n] // columns, cell[n] % columns
        colour = _surface(field, paint, kind[n], index[n], r, c, p, face, t, d)
        light = _light(field, paint, kind[n], r, c, p, face)
        far = t / paint.visibility_m
        haze = far * far / (1 + far * far)
        mirror = 0.0
        if kind[n] == GROUND and (paint.material[r, c] == WATER or paint.material[r, c] == POOL):
            mirror = _mirror(d[2])
        back = sky_colour(paint, (d[0], d[1], abs(d[2]) + 0.02)) if mirror > 0 else (0.0, 0.0, 0.0)
        for k in range(3):
            value = colour[k] * light[k] * (1 - mirror) + back[k] * mirror
            out[n, k] = value + (paint.horizon[k] - value) * haze


@njit(cache=True, nogil=True)
def _mirror(dz: float) -> float:
    """Share of the sky that water sends back: Schlick's approximation with 2 % at the vertical."""
    grazing = 1 - min(abs(dz), 1.0)
    return min(0.02 + 0.98 * grazing * grazing * grazing * grazing * grazing, 0.85)


@njit(cache=True, nogil=True)
def _surface(
    field: Field,
    paint: Paint,
    kind: int,
    index: int,
    r: int,
    c: int,
    p: Colour,
    face: Colour,
    t: float,
    d: Colour,
) -> Colour:
    """The colour of a surface in plain white light."""
    if kind == GROUND:
        return _ground(field, paint, r, c, p, t)
    if kind == CROWN:
        return _leaves(field, paint, r, c, p)
    if kind == CAR:
        return _bodywork(field, paint, index, p)
    if kind == WALL:
        return front_colour(
            field.prisms[index], paint.building_colour[index], paint.building_size[index],
            paint.building_id[index], p, face, t, d,
        )  # fmt: skip
    if kind == ROOF:
        return _roof(field, paint, index, r, c, p, face)
    tone = _tone(paint, r, c)
    z = min(p[2] / max(field.height_cm[r, c] * 0.01, 0.3), 1.0)
    speck = leaf(math.floor(p[0] * 9), math.floor(p[1] * 9), math.floor(p[2] * 9)) / 255 - 0.5
    rough = 0.35 if paint.material[r, c] == HEDGE else 0.06
    shade = (0.7 + 0.3 * z) * (1 + rough * speck)
    return tone[0] * shade, tone[1] * shade, tone[2] * shade


@njit(cache=True, nogil=True)
def _tone(paint: Paint, r: int, c: int) -> Colour:
    """The ground's colour in one pixel in this season, without marks."""
    m = paint.material[r, c]
    return (
        paint.albedo[r, c, 0] * paint.gain[m, 0], paint.albedo[r, c, 1] * paint.gain[m, 1],
        paint.albedo[r, c, 2] * paint.gain[m, 2],
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _ground(field: Field, paint: Paint, r: int, c: int, p: Colour, t: float) -> Colour:
    """Ground with marks, smooth between pixels, with joints and grain close to the eye."""
    rows, columns = paint.material.shape
    x = p[0] / 0.4 - 0.5 + field.anchor_i - field.west_px
    y = field.north_px - field.anchor_j - p[1] / 0.4 - 0.5
    c0, r0 = math.floor(x), math.floor(y)
    fx, fy = x - c0, y - r0
    red, green, blue, cover = 0.0, 0.0, 0.0, 0.0
    group, most = 0, 0.0
    for k in range(4):
        a, b = min(max(r0 + k // 2, 0), rows - 1), min(max(c0 + k % 2, 0), columns - 1)
        weight = (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
        if paint.marking[a, b] > 0:
            cover += weight
            if weight > most:
                most, group = weight, paint.marking[a, b]
        if field.building[a, b] >= 0 or field.height_cm[a, b] > 0:
            a, b = r, c
        tone = _tone(paint, a, b)
        red, green, blue = red + weight * tone[0], green + weight * tone[1], blue + weight * tone[2]
    amount = 0.0
    if group > 0:
        edge = min(max((cover - 0.28) / 0.4, 0.0), 1.0)
        worn = paint.worn[(r - field.north_px) % 640, (c + field.west_px) % 640]
        amount = edge * paint.mark_strength[group] * min(max(worn * 3 + 2.36 - 3 * paint.wear, 0.0), 1.0)
        red += (paint.mark_colour[group, 0] - red) * amount
        green += (paint.mark_colour[group, 1] - green) * amount
        blue += (paint.mark_colour[group, 2] - blue) * amount
    detail = 1.0
    if t < _DETAIL_M:
        detail = _detail(paint.material[r, c], p, field.anchor_i, field.anchor_j, 1 - t / _DETAIL_M)
    return red * detail, green * detail, blue * detail


@njit(cache=True, nogil=True)
def _detail(material: int, p: Colour, anchor_i: int, anchor_j: int, near: float) -> float:
    """Grain and joints of a material too fine for the layers: a factor around 1."""
    x, y = p[0] + (anchor_i % 640) * 0.4, p[1] + (anchor_j % 640) * 0.4
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


@njit(cache=True, nogil=True)
def _leaves(field: Field, paint: Paint, r: int, c: int, p: Colour) -> Colour:
    if field.under_dm[r, c] == 0 and p[2] < 2.0:
        return 92.0, 74.0, 58.0
    i, j = c + field.west_px, field.north_px - 1 - r
    coarse = leaf(i >> 1, j >> 1, math.floor(p[2] * 1.2)) / 255 - 0.5
    fine = leaf(math.floor(p[0] * 6), math.floor(p[1] * 6), math.floor(p[2] * 6)) / 255 - 0.5
    tall = max(field.canopy_dm[r, c] * 0.1, 1.0)
    depth = 0.72 + 0.36 * min(p[2] / tall, 1.0)
    shade = depth * (1 + 0.3 * coarse + 0.34 * fine) * 1.12
    hue = paint.crown[paint.hue[r, c]]
    return hue[0] * shade, hue[1] * shade, hue[2] * shade


@njit(cache=True, nogil=True)
def _bodywork(field: Field, paint: Paint, index: int, p: Colour) -> Colour:
    """A car: paint, glass around the cabin, lamps, wheels and a dark underside."""
    box = field.boxes[index]
    east, north = p[0] - box[0], p[1] - box[1]
    along = (east * box[2] + north * box[3]) / box[4]
    across = (north * box[2] - east * box[3]) / box[5]
    z = p[2] / box[6]
    waist = 0.6 if box[6] < 2 else 0.5
    wheel = abs(abs(along) - 0.62) < 0.17 and z < 0.4 and abs(across) > 0.9
    if wheel or z < 0.13:
        return 27.0, 27.0, 29.0
    if waist + 0.04 < z < 0.94 and abs(abs(along) % 0.5 - 0.02) > 0.05:
        return 46.0, 54.0, 62.0
    if abs(along) > 0.985 and abs(across) > 0.6 and 0.36 < z < 0.5:
        return (226.0, 222.0, 204.0) if along > 0 else (150.0, 34.0, 30.0)
    colour = paint.cars[index]
    return float(colour[0]), float(colour[1]), float(colour[2])


@njit(cache=True, nogil=True)
def _roof(field: Field, paint: Paint, index: int, r: int, c: int, p: Colour, face: Colour) -> Colour:
    """The roof layer's colour, smooth between pixels of the same building."""
    rows, columns = paint.material.shape
    x = p[0] / 0.4 - 0.5 + field.anchor_i - field.west_px
    y = field.north_px - field.anchor_j - p[1] / 0.4 - 0.5
    c0, r0 = math.floor(x), math.floor(y)
    fx, fy = x - c0, y - r0
    red, green, blue, total = 0.0, 0.0, 0.0, 1e-9
    for k in range(4):
        a, b = min(max(r0 + k // 2, 0), rows - 1), min(max(c0 + k % 2, 0), columns - 1)
        if field.building[a, b] == index:
            weight = (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
            red += weight * paint.albedo[a, b, 0]
            green += weight * paint.albedo[a, b, 1]
            blue += weight * paint.albedo[a, b, 2]
            total += weight
    if total < 1e-6:
        colour = paint.building_colour[index]
        return float(colour[6]), float(colour[7]), float(colour[8])
    dim = 0.7 if abs(face[2]) < 0.1 else 1.0
    return red / total * dim, green / total * dim, blue / total * dim


@njit(cache=True, nogil=True)
def _light(field: Field, paint: Paint, kind: int, r: int, c: int, p: Colour, face: Colour) -> Colour:
    """Light on a surface: the sky's, and the sun's where it is not in shadow."""
    facing = face[0] * paint.sun[0] + face[1] * paint.sun[1] + face[2] * paint.sun[2]
    open_sky = 0.74 + 0.26 * face[2] if kind != CROWN else 0.9 + 0.1 * face[2]
    if kind == WALL:
        open_sky *= 0.82 + 0.18 * min(p[2] / 5, 1.0)
    elif kind == GROUND:
        open_sky *= _openness(field, r, c)
    if kind == CROWN:
        facing = 0.35 + 0.65 * facing
    bright = 0.0
    if facing > 0 and paint.overcast < 1:
        bright = facing * _sunlit(field, paint, kind, r, c, p, face)
    return (
        paint.skylight[0] * open_sky + paint.sunlight[0] * bright,
        paint.skylight[1] * open_sky + paint.sunlight[1] * bright,
        paint.skylight[2] * open_sky + paint.sunlight[2] * bright,
    )


@njit(cache=True, nogil=True)
def _openness(field: Field, r: int, c: int) -> float:
    """Less of the sky reaches the ground under a crown, beside a wall or under a car."""
    value = 0.8 if field.canopy_dm[r, c] > 0 else 1.0
    if field.near[r, c] >= 0:
        value *= 0.85
    return value * 0.55 if field.car[r, c] >= 0 else value


@njit(cache=True, nogil=True)
def _sunlit(field: Field, paint: Paint, kind: int, r: int, c: int, p: Colour, face: Colour) -> float:
    """How much of a surface point the sun reaches, 0 to 1; edges of shadows on flat things are soft."""
    rows, columns = paint.material.shape
    away = 0.45 if kind == WALL else 0.0
    x = (p[0] + away * face[0]) / 0.4 - 0.5 + field.anchor_i - field.west_px
    y = field.north_px - field.anchor_j - (p[1] + away * face[1]) / 0.4 - 0.5
    limit = p[2] * 100 + (_SHADE_CM if kind != CROWN else 80)
    c0, r0 = math.floor(x), math.floor(y)
    fx, fy = x - c0, y - r0
    lit = 0.0
    for k in range(4):
        a, b = min(max(r0 + k // 2, 0), rows - 1), min(max(c0 + k % 2, 0), columns - 1)
        if paint.ceiling_cm[a, b] <= limit:
            lit += (fy if k // 2 else 1 - fy) * (fx if k % 2 else 1 - fx)
    return lit


@njit(cache=True, nogil=True)
def sky_colour(paint: Paint, d: Colour) -> Colour:
    """The sky in a direction: a gradient, a glow around the sun and clouds on a plane overhead."""
    up = max(d[2], 0.0)
    rise = min(up * 1.7, 1.0)
    rise = rise * (2 - rise)
    cloud = 0.0
    if up > 0.015 and paint.cover > 0.05:
        x, y = d[0] / (up + 0.12) * 1.6, d[1] / (up + 0.12) * 1.6
        dense = _billows(x, y, paint.cloud_seed)
        cloud = min(max((dense - 0.78 + 0.5 * paint.cover) * 3.2, 0.0), 1.0) * min(up * 9, 1.0)
    toward = max(d[0] * paint.sun[0] + d[1] * paint.sun[1] + d[2] * paint.sun[2], 0.0)
    glow = toward * toward
    glow = glow * glow
    glow = glow * glow * (1 - paint.overcast) * 46
    white = 238.0 - 46 * paint.overcast
    red = paint.horizon[0] + (paint.zenith[0] - paint.horizon[0]) * rise + glow
    green = paint.horizon[1] + (paint.zenith[1] - paint.horizon[1]) * rise + glow
    blue = paint.horizon[2] + (paint.zenith[2] - paint.horizon[2]) * rise + glow * 0.8
    return red + (white - red) * cloud, green + (white - green) * cloud, blue + (white + 3 - blue) * cloud


@njit(cache=True, nogil=True)
def _billows(x: float, y: float, seed: int) -> float:
    """Smooth noise in 0..1 of four octaves."""
    total, weight, size = 0.0, 0.5, 1.0
    for octave in range(4):
        i, j = math.floor(x * size), math.floor(y * size)
        fx, fy = x * size - i, y * size - j
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        k = seed + octave * 101
        south = leaf(i, j, k) * (1 - fx) + leaf(i + 1, j, k) * fx
        north = leaf(i, j + 1, k) * (1 - fx) + leaf(i + 1, j + 1, k) * fx
        total += weight * (south * (1 - fy) + north * fy) / 255
        weight, size = weight / 2, size * 2
    return total / 0.9375
