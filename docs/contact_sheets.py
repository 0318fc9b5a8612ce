"""Contact sheets of the city.

`python docs/contact_sheets.py FOLDER` writes the pictures of docs/city.md.

city.png: tiles beside the photos taken in them; city_views.jpg: every view of every district; city_times.jpg: one
place in two epochs, and the second city.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoloc.core.arrays import Float32Array
from geoloc.core.semantics import class_colours
from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import Camera
from geoloc.synthetic.world.camera_positions import street_points, street_positions
from geoloc.synthetic.world.cloud import point_cloud
from geoloc.synthetic.world.drone import DronePose, render_drone
from geoloc.synthetic.world.heights import height_raster
from geoloc.synthetic.world.maptile import render_map
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.street import StreetCamera, render_street
from geoloc.synthetic.world.style import PIXEL_M, STYLES
from geoloc.synthetic.world.view_conditions import flight_look, photo_look
from geoloc.synthetic.world.weather import drone_look, street_look
from geoloc.synthetic.world.zones import DISTRICTS, quarter_index

Picture = NDArray[np.uint8]
_CAMERA = Camera(height_px=128, width_px=512)
_TILE_PX = 128
_SIDE_PX = 160
_GAP_PX = 4
_AREA: Bounds = (0.0, 0.0, 3000.0, 3000.0)


def contact_sheet(seed: int, rows: int, pairs_per_row: int = 2) -> Picture:
    """Pairs of an aerial tile (51.2 m) and a panorama from its centre, spread over the city: uint8[H, W, 3].

    Convention: tiles are north up; panoramas look north at their centre column, south at both edges.
    """
    city = City(seed)
    spots = street_positions(city.network, _AREA, rows * pairs_per_row, 150.0, seed, offset_m=0.0)
    pairs = []
    for number, (x, y) in enumerate(zip(spots.x, spots.y, strict=True)):
        tile = render_aerial(city, _square(x, y, _TILE_PX), look=flight_look(city.seed, number))
        photo = render_panorama(city, (float(x), float(y)), photo_look(city.seed, number), _CAMERA)
        pairs.append(_beside([tile, photo]))
    lines = [_beside(pairs[k : k + pairs_per_row], 2 * _GAP_PX) for k in range(0, len(pairs), pairs_per_row)]
    return _below(lines)


def view_sheet(seed: int) -> Picture:
    """A row for each district, a picture for each view: aerial, map, heights, cloud, drone, street, panorama.

    Convention: aerial, map, heights and cloud show the same 64 m, north up; the drone and the street photo look
    north; the panorama has north in its middle.
    """
    city = City(seed)
    rows = []
    for district, name in enumerate(DISTRICTS):
        x, y = _typical(city, district)
        rows.append(_views(city, x, y, district + 10 * len(name)))
    return _below(rows)


def times_sheet(seed: int) -> Picture:
    """One place in epochs 0 and 1, and the second city: 160 m each, north up."""
    cities = City(seed), City(seed, epoch=1), City(seed, STYLES["harbour"])
    west = (1000.0, 1000.0, STYLES["harbour"].east_m + 1000.0)
    look = flight_look(seed, 1)
    return _beside([
        render_aerial(city, (x, 1080.0, x + 160.0, 1240.0), look=look)
        for city, x in zip(cities, west, strict=True)
    ])  # fmt: skip


def _typical(city: City, district: int) -> tuple[float, float]:
    """A place on a street with the same quarter all around; for the last district, a park or water beside it."""
    points = street_points(city.network, _AREA, city.seed + 5)
    ring = np.radians(np.arange(0, 360, 30))
    around = points[:, None] + 70 * np.stack([np.sin(ring), np.cos(ring)], -1)
    if district == len(DISTRICTS) - 1:
        wet = city.network.river(around[..., 0], around[..., 1]).min(1)
        here = np.nonzero((wet < -0.001) & (city.network.river(*points.T) > 0.006))[0]
    else:
        quarter = quarter_index(city.seed, city.style, around[..., 0], around[..., 1])
        here = np.nonzero((quarter == district).all(1))[0]
    x, y = points[here[0]]
    return float(x), float(y)


def _views(city: City, x: float, y: float, key: int) -> Picture:
    """Every view of one place."""
    bounds = _square(x, y, _SIDE_PX)
    drone = DronePose(x, y - 84.0, 100.0, 0.0, -50.0)
    camera = Camera(height_px=_SIDE_PX, width_px=4 * _SIDE_PX)
    return _beside([
        render_aerial(city, bounds, look=flight_look(city.seed, key)),
        render_map(city, x, y, side_m=_SIDE_PX * PIXEL_M, size_px=_SIDE_PX),
        _grey(height_raster(city, bounds, PIXEL_M)),
        _dots(city, bounds),
        render_drone(city, drone, drone_look(city.seed, key), size_px=_SIDE_PX),
        render_street(city, (x, y), street_look(city.seed, key), StreetCamera(_SIDE_PX * 4 // 3, _SIDE_PX)),
        render_panorama(city, (x, y), photo_look(city.seed, key), camera),
    ])  # fmt: skip


def _square(x: float, y: float, side_px: int) -> Bounds:
    """Bounds of a square around a place, on whole pixels."""
    c, r, half = round(x / PIXEL_M), round(y / PIXEL_M), side_px // 2
    return (c - half) * PIXEL_M, (r - half) * PIXEL_M, (c + half) * PIXEL_M, (r + half) * PIXEL_M


def _grey(height_m: Float32Array) -> Picture:
    """Heights of 0 to 30 m from black to white."""
    level = np.clip(height_m / 30 * 255, 0, 255).astype(np.uint8)
    return np.repeat(level[..., None], 3, -1)


def _dots(city: City, bounds: Bounds) -> Picture:
    """A point cloud from above in the colours of its classes, the highest point on top."""
    points, kind = point_cloud(city, bounds, points_per_m2=4.0)
    order = np.argsort(points[:, 2], kind="stable")
    column, row = (points[order, :2] / PIXEL_M).astype(np.int64).T
    out = np.full((_SIDE_PX, _SIDE_PX, 3), 255, np.uint8)
    row, column = np.clip(_SIDE_PX - 1 - row, 0, _SIDE_PX - 1), np.clip(column, 0, _SIDE_PX - 1)
    out[row, column] = class_colours()[kind[order]]
    return out


def _beside(pictures: list[Picture], gap_px: int = _GAP_PX) -> Picture:
    gap = np.full((pictures[0].shape[0], gap_px, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], 1)


def _below(lines: list[Picture]) -> Picture:
    rule = np.full((_GAP_PX, lines[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for line in lines for part in (line, rule)][:-1])


def main(folder: str) -> None:
    """Write the three pictures."""
    target = Path(folder)
    Image.fromarray(contact_sheet(seed=7, rows=5)).quantize(128).save(target / "city.png", optimize=True)
    Image.fromarray(view_sheet(seed=7)).save(target / "city_views.jpg", quality=86)
    Image.fromarray(times_sheet(seed=7)).save(target / "city_times.jpg", quality=86)


if __name__ == "__main__":
    main(sys.argv[1])
