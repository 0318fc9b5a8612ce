"""A contact sheet: aerial tiles beside the photos taken in them. `python -m geoloc.city.contact out.png`."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoloc.city.aerial import render_aerial
from geoloc.city.camera import Camera
from geoloc.city.looks import flight_look, photo_look
from geoloc.city.panorama import render_panorama
from geoloc.city.positions import street_positions
from geoloc.city.raster import City
from geoloc.city.style import PIXEL_M

_CAMERA = Camera(height_px=128, width_px=512)
_TILE_PX = 128
_GAP_PX = 4


def contact_sheet(seed: int, rows: int, pairs_per_row: int = 2) -> NDArray[np.uint8]:
    """Pairs of an aerial tile (51.2 m) and a panorama from its centre, spread over the city: uint8[H, W, 3].

    Convention: tiles are north up; panoramas look north at their centre column, south at both edges.
    """
    city = City(seed)
    spots = street_positions(
        city.network, (0.0, 0.0, 3000.0, 3000.0), rows * pairs_per_row, 150.0, seed, offset_m=0.0
    )
    strips = []
    for number, (x, y) in enumerate(zip(spots.x, spots.y, strict=True)):
        tile, photo = _pair(city, float(x), float(y), number)
        gap = np.full((_TILE_PX, _GAP_PX, 3), 255, np.uint8)
        strips.append(np.concatenate([tile, gap, photo, gap, gap], 1))
    lines = [
        np.concatenate(strips[k : k + pairs_per_row], 1)[:, : -2 * _GAP_PX]
        for k in range(0, len(strips), pairs_per_row)
    ]
    rule = np.full((_GAP_PX, lines[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for line in lines for part in (line, rule)][:-1])


def _pair(city: City, x: float, y: float, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    half = _TILE_PX // 2
    c, r = round(x / PIXEL_M), round(y / PIXEL_M)
    bounds = ((c - half) * PIXEL_M, (r - half) * PIXEL_M, (c + half) * PIXEL_M, (r + half) * PIXEL_M)
    tile = render_aerial(city, bounds, look=flight_look(city.seed, number))
    return tile, render_panorama(city, (x, y), photo_look(city.seed, number), _CAMERA)


if __name__ == "__main__":
    picture = Image.fromarray(contact_sheet(seed=7, rows=5))
    picture.quantize(128).save(sys.argv[1], optimize=True)
