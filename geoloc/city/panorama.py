"""Street panoramas: rays march over the chunk layers of one window.

Per column of the picture: heights along the ray, the running maximum of their elevation, and from it which rows
each obstacle fills. Facades are then cut exactly with the building's rectangle, tree crowns are intervals of
elevation painted from far to near, and cars are boxes.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoloc.city.camera import Camera, develop, rays
from geoloc.city.cars import Cars, cars_on
from geoloc.city.facades import shade_obstacles
from geoloc.city.looks import Look, repaint
from geoloc.city.noise import Float, generator, hash_array
from geoloc.city.raster import City, Window
from geoloc.city.scene import Scene, spread
from geoloc.city.style import PIXEL_M, VIEW_RANGE_M

_NEAR_M = 18.0
_CAR_RANGE_M = 45.0
_FAR = np.float32(np.inf)


def render_panorama(
    city: City,
    position: tuple[float, float],
    look: Look,
    camera: Camera | None = None,
    *,
    heading_deg: float = 0.0,
    window: Window | None = None,
) -> NDArray[np.uint8]:
    """The panorama seen from a position (x, y in city metres): uint8[height_px, width_px, 3].

    `window`, if given, must reach `VIEW_RANGE_M` around the position.

    Convention: the centre column looks along `heading_deg`, clockwise from GRID north; azimuth grows to the right;
    row 0 is the top.
    """
    x, y = position
    reach = VIEW_RANGE_M
    window = window or city.window((x - reach, y - reach, x + reach, y + reach))
    picture, _ = trace(window, position, look, camera or Camera(), heading_deg)
    return develop(picture, look.seed, look.exposure, look.tint)


def trace(
    window: Window, position: tuple[float, float], look: Look, camera: Camera, heading_deg: float
) -> tuple[NDArray[np.uint8], Float]:
    """What reaches the lens, before the camera's own look, and how far away it is.

    uint8[height_px, width_px, 3] and, at the full resolution of the rays, metres: float32[R, C], infinite for
    the sky.

    Convention: as `render_panorama`; row 0 is the top in both.
    """
    scene = _open(window, look, camera, *position, heading_deg)
    _sky_and_ground(scene)
    _obstacles(scene)
    _paint_crowns(scene)
    _cars(scene)
    _haze(scene)
    picture = np.clip(scene.colour, 0, 255).astype(np.uint8).reshape(*scene.depth.shape, 3)[::-1]
    small = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).reduce(camera.supersampling))
    return small, scene.depth[::-1]


def _open(window: Window, look: Look, camera: Camera, x: float, y: float, heading_deg: float) -> Scene:
    ray = rays(camera)
    azimuth = ray.azimuth + np.radians(heading_deg)
    sin, cos = np.sin(azimuth).astype(np.float32), np.cos(azimuth).astype(np.float32)
    reach = ray.distance_m[None]
    pixel = _pixels(window, x, y, sin[:, None] * reach, cos[:, None] * reach)
    below = ray.tangent < 0
    flat = np.where(below, -camera.camera_m / np.minimum(ray.tangent, -1e-4), _FAR).astype(np.float32)
    flat[flat > VIEW_RANGE_M] = _FAR
    depth = np.repeat(flat[:, None], len(sin), 1)
    colour = np.empty((depth.size, 3), np.float32)
    return Scene(window, look, camera, ray, x, y, sin, cos, pixel, depth, colour)


def _pixels(window: Window, x: float, y: float, east: Float, north: Float) -> NDArray[np.int32]:
    """Flat window pixels of points east and north of (x, y) in metres: int32[...]; clipped to the window.

    Single precision is applied to the place within a pixel only, so every window gives the same pixel.
    """
    height, width = window.layers.material.shape
    column, row = math.floor(x / PIXEL_M), math.floor(y / PIXEL_M)
    scale = np.float32(1 / PIXEL_M)
    c = np.floor(east * scale + np.float32(x / PIXEL_M - column)).astype(np.int32)
    r = np.floor(north * scale + np.float32(y / PIXEL_M - row)).astype(np.int32)
    c = np.clip(c + np.int32(column - window.west_px), 0, width - 1)
    r = np.clip(np.int32(window.north_px - 1 - row) - r, 0, height - 1)
    return np.asarray(r * np.int32(width) + c)


def _sky_and_ground(scene: Scene) -> None:
    """Fill every pixel with sky or with the flat ground, as if nothing stood on it."""
    rows, columns = scene.depth.shape
    tangent = scene.rays.tangent
    far = int(np.searchsorted(tangent, -scene.camera.camera_m / VIEW_RANGE_M))
    colour = scene.colour.reshape(rows, columns, 3)
    colour[far:] = _sky(scene, tangent[far:])
    near = int(np.searchsorted(tangent, -scene.camera.camera_m / _NEAR_M))
    distance = scene.depth[:far, :1]
    east, north = distance * scene.sin, distance * scene.cos
    colour[:near] = _near_ground(scene, east[:near], north[:near])
    pixel = _pixels(scene.window, scene.x, scene.y, east[near:], north[near:])
    colour[near:far] = surface(scene, pixel.ravel()).reshape(far - near, columns, 3)


def surface(scene: Scene, pixel: NDArray[np.int32]) -> Float:
    """Colour of ground pixels in this view, with marks: float32[N, 3]."""
    layers = scene.window.layers
    gain = scene.look.ground_gain
    colour = layers.albedo.reshape(-1, 3)[pixel] * gain[layers.material.ravel()[pixel]]
    marking = layers.marking.ravel()[pixel]
    marked = np.nonzero(marking)[0]
    paint, strength = scene.look.marking_colours
    group = marking[marked]
    colour[marked] += (paint[group] - colour[marked]) * strength[group, None] * np.float32(0.8)
    return np.asarray(colour, np.float32)


def _sky(scene: Scene, tangent: Float) -> Float:
    """A clear gradient with clouds that stay where they are in the world: float32[rows, C, 3]."""
    rng = generator(scene.look.seed, 3)
    lift = np.clip(tangent[:, None], 0, 0.7)
    deep = np.array([150, 182, 216]) + rng.normal(0, 8, 3)
    sky = deep + lift * np.array([-95, -72, -20]) * rng.uniform(0.3, 1.2)
    azimuth = np.arctan2(scene.sin, scene.cos)[None]
    amount = rng.uniform(-0.6, 0.5)
    for wave in range(1, 7):
        turn, bend, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(-6, 6), rng.uniform(4, 16)
        amount = amount + np.sin(wave * azimuth + turn + bend * lift) * np.cos(tilt * lift + turn) / (
            wave + 1
        )
    cloud = np.clip(amount, 0, 1)[..., None]
    return np.asarray(sky[:, None] * (1 - cloud) + 234 * cloud, np.float32)


def _near_ground(scene: Scene, east: Float, north: Float) -> Float:
    """Ground close to the camera, interpolated between pixels from a small patch: float32[R, C, 3]."""
    layers = scene.window.layers
    reach = int(_NEAR_M / PIXEL_M) + 3
    column, row = math.floor(scene.x / PIXEL_M), math.floor(scene.y / PIXEL_M)
    c0, r0 = column - reach - scene.window.west_px, scene.window.north_px - row - reach
    box = (slice(r0, r0 + 2 * reach), slice(c0, c0 + 2 * reach))
    patch = layers.albedo[box] * scene.look.ground_gain[layers.material[box]]
    repaint(scene.look, patch, layers.marking[box], scene.window.west_px + c0, scene.window.north_px - r0)
    patch *= np.where(layers.canopy_dm[box] > 0, np.float32(0.72), np.float32(1))[..., None]
    c = east / np.float32(PIXEL_M) + np.float32(scene.x / PIXEL_M - column + reach - 0.5)
    r = np.float32(reach - scene.y / PIXEL_M + row - 0.5) - north / np.float32(PIXEL_M)
    c = np.clip(c, 0, patch.shape[1] - 1.001)
    r = np.clip(r, 0, patch.shape[0] - 1.001)
    ci, ri = c.astype(np.int32), r.astype(np.int32)
    fc, fr = (c - ci.astype(np.float32))[..., None], (r - ri.astype(np.float32))[..., None]
    flat, width = patch.reshape(-1, 3), patch.shape[1]
    at = ri * np.int32(width) + ci
    upper, lower = flat.take(at, 0), flat.take(at + np.int32(width), 0)
    upper += (flat.take(at + 1, 0) - upper) * fc
    lower += (flat.take(at + np.int32(width + 1), 0) - lower) * fc
    lower -= upper
    return np.asarray(upper + lower * fr)


def _obstacles(scene: Scene) -> None:
    """Walls, roofs, hedges and posts: the rows that each step of each ray is the first to reach."""
    height = scene.window.layers.height_cm.ravel()[scene.pixel]
    column, step = np.nonzero(height)
    if not len(column):
        return
    ray = scene.rays
    tall = height[column, step].astype(np.float32) * np.float32(0.01)
    tangent = (tall - np.float32(scene.camera.camera_m)) / ray.distance_m[step]
    key = column * 1e4 + tangent  # columns never mix in the running maximum
    highest = np.maximum.accumulate(key)
    rises = np.ones(len(key), bool)
    rises[1:] = highest[1:] > highest[:-1]
    column, step, tangent = column[rises], step[rises], tangent[rises]
    top = ray.row_of(tangent)
    before = np.zeros_like(top)
    before[1:] = np.where(column[1:] == column[:-1], top[:-1], 0)
    first = np.maximum(before, ray.base_row[step])
    count = np.maximum(top - first, 0)
    shade_obstacles(scene, column, step, first, count)


def _paint_crowns(scene: Scene) -> None:
    """Tree crowns and trunks, nearest last."""
    layers, ray = scene.window.layers, scene.rays
    canopy = layers.canopy_dm.ravel()[scene.pixel]
    column, step = np.nonzero(canopy)
    if not len(column):
        return
    column, step = column[::-1], step[::-1]
    pixel = scene.pixel[column, step]
    distance = ray.distance_m[step]
    eye = np.float32(scene.camera.camera_m)
    top = canopy[column, step] * np.float32(0.1)
    first = ray.row_of((layers.under_dm.ravel()[pixel] * np.float32(0.1) - eye) / distance)
    count = np.maximum(ray.row_of((top - eye) / distance) - first, 0)
    depth = scene.depth.ravel()
    last = np.maximum(first + count - 1, 0) * scene.columns + column
    shown = np.nonzero((count > 0) & (depth[last] > distance))[0]  # higher rows always see farther
    column, pixel, distance, top = column[shown], pixel[shown], distance[shown], top[shown]
    run, row = spread(count[shown], first[shown])
    target = row * scene.columns + column[run]
    seen = distance[run] < depth[target]
    run, row, target = run[seen], row[seen], target[seen]
    nearest = np.full(len(depth), -1, np.int64)
    nearest[target] = run
    target = np.nonzero(nearest >= 0)[0]
    run = nearest[target]
    z = eye + distance[run] * ray.tangent[target // scene.columns]
    width = layers.material.shape[1]
    place = pixel[run] % width + scene.window.west_px, scene.window.north_px - pixel[run] // width
    leaf = hash_array(17, *place, (z * 2.2).astype(np.int64)) >> np.uint32(24)
    light = 0.5 + 0.5 * np.clip(z / top[run], 0, 1) + 0.4 * (leaf.astype(np.float32) / 255 - 0.5)
    colour = scene.look.crown_colours[layers.hue.ravel()[pixel[run]]] * light.astype(np.float32)[:, None]
    scene.colour[target] = np.where((z < 1.9)[:, None], np.array([84, 66, 50], np.float32), colour)
    depth[target] = distance[run]


def _cars(scene: Scene) -> None:
    """The nearest car of each column, cut with its box."""
    cars = cars_on(scene.window.edges.only(_edges_near(scene)), scene.look).near(
        scene.x, scene.y, 3.5, _CAR_RANGE_M
    )
    if not len(cars):
        return
    enter, index, along = _hit_boxes(scene, cars)
    columns = np.nonzero(np.isfinite(enter))[0]
    distance, tall = enter[columns].astype(np.float32), cars.height_m[index[columns]].astype(np.float32)
    eye = np.float32(scene.camera.camera_m)
    z = eye + scene.rays.tangent[:, None] * distance
    r, c = np.nonzero((z > 0) & (z < tall) & (distance < scene.depth[:, columns]))
    height, place = z[r, c] / tall[c], along[columns][c]
    paint = cars.colour[index[columns]][c].astype(np.float32) * (0.75 + 0.3 * height)[:, None]
    glass = (height > 0.6) & (height < 0.92) & (np.abs(place) < 0.75)
    wheel = (height < 0.38) & (np.abs(np.abs(place) - 0.62) < 0.17)
    paint[glass] = (52, 58, 66)
    paint[wheel | (height < 0.12)] = (26, 26, 28)
    scene.colour[r * scene.columns + columns[c]] = paint
    scene.depth[r, columns[c]] = distance[c]


def _edges_near(scene: Scene) -> NDArray[np.bool_]:
    low, high = scene.window.edges.curve.min(1), scene.window.edges.curve.max(1)
    here = np.array([scene.x, scene.y])
    return np.asarray(((low < here + _CAR_RANGE_M) & (high > here - _CAR_RANGE_M)).all(1))


def _hit_boxes(
    scene: Scene, cars: Cars
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Per column: distance to the nearest car (infinite for none), which one, and where along it (-1 to 1)."""
    ahead, offset = cars.ahead, np.array([scene.x, scene.y]) - cars.centre
    origin = np.stack([(offset * ahead).sum(1), offset[:, 1] * ahead[:, 0] - offset[:, 0] * ahead[:, 1]])
    direction = np.stack([
        scene.sin[:, None] * ahead[:, 0] + scene.cos[:, None] * ahead[:, 1],
        scene.cos[:, None] * ahead[:, 0] - scene.sin[:, None] * ahead[:, 1],
    ])  # fmt: skip
    direction = np.where(np.abs(direction) < 1e-6, 1e-6, direction)
    half = np.stack([cars.half_length_m, cars.half_width_m])[:, None]
    low, high = (-half - origin[:, None]) / direction, (half - origin[:, None]) / direction
    enter = np.minimum(low, high).max(0)
    leave = np.maximum(low, high).min(0)
    enter = np.where((enter < leave) & (enter > 0), enter, np.inf)
    index = enter.argmin(1)
    columns = np.arange(scene.columns)
    nearest = enter[columns, index]
    reached = np.where(np.isfinite(nearest), nearest, 0)
    along = (origin[0, index] + reached * direction[0, columns, index]) / cars.half_length_m[index]
    return nearest, index, along


def _haze(scene: Scene) -> None:
    """Distance fades everything but the sky."""
    depth = scene.depth.ravel()
    hazy = np.nonzero((depth > 12) & (depth < 2 * VIEW_RANGE_M))[0]
    share = np.clip(depth[hazy] / VIEW_RANGE_M, 0, 1) ** np.float32(1.5) * np.float32(0.4)
    colour = scene.colour[hazy]
    colour += (np.array([190, 200, 212], np.float32) - colour) * share[:, None]
    scene.colour[hazy] = colour
