"""Any number of distractor tiles: tile i of a city depends on neither the order nor the number of tiles.

Land of their own south of the benchmark's districts is divided into squares of 1,024 m; each gives the next 2,048
tiles, whose centres lie on its streets. One lit picture of the square serves them all; exposure, colours and
noise are each tile's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError
from geoloc.synthetic.world.aerial import render_aerial
from geoloc.synthetic.world.camera import expose
from geoloc.synthetic.world.camera_positions import street_points, thin
from geoloc.synthetic.world.georeference import to_latlon
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.noise import hash_int, uniform
from geoloc.synthetic.world.raster import City
from geoloc.synthetic.world.style import PIXEL_M
from geoloc.synthetic.world.view_conditions import flight_look

SQUARE_M = 1024.0
TILES_PER_SQUARE = 2048
MOST_TILES = 250_000_000
"""So many lie within 7,800 km south of the city, still north of the pole where the grid ends."""
_COLUMNS = 16
_NORTH_M = -2048.0
_SPACING_M = 7.0
_MARGIN_M = (110.0, 110.0, 110.0, 56.0)
"""Of centres from the square's west, south, east and north edge: half a tile and, but in the north, a shadow."""


@dataclass(frozen=True)
class TileShape:
    """Side of a tile in metres (100 at most) and in pixels."""

    side_m: float = 51.2
    side_px: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.side_m <= 100:
            raise ConfigError(
                f"A tile of {self.side_m:g} m cannot be cut; its side is more than 0 and at most 100 m."
            )


@dataclass(frozen=True)
class Distractors:
    """Tiles of one square: ids, lat and lon float64[N] in WGS84 degrees, pictures uint8[side_px, side_px, 3]."""

    tile_ids: list[str]
    lat: FloatArray
    lon: FloatArray
    pictures: list[NDArray[np.uint8]]


def square_bounds(city: City, square: int) -> Bounds:
    """West, south, east, north of a square; rows of sixteen run south.

    Convention: x east, y north in city metres, below the benchmark's districts, which lie at y >= 0.
    """
    row, column = divmod(square, _COLUMNS)
    west, north = city.style.east_m + column * SQUARE_M, _NORTH_M - row * SQUARE_M
    return west, north - SQUARE_M, west + SQUARE_M, north


def square_centres(city: City, square: int) -> FloatArray:
    """Centres of the tiles of a square, on its streets, in random order: float64[2048, 2].

    Where streets are too short, the rest lie anywhere in it. Convention: x east, y north in city metres.
    """
    bounds, margin = square_bounds(city, square), _MARGIN_M
    inner = (bounds[0] + margin[0], bounds[1] + margin[1], bounds[2] - margin[2], bounds[3] - margin[3])
    points = street_points(city.network, inner, city.seed + 800)
    chosen = points[thin(points, TILES_PER_SQUARE, _SPACING_M)]
    missing = np.arange(TILES_PER_SQUARE - len(chosen))
    spare = [
        low + (high - low) * uniform(city.seed + 801 + axis, square, missing)
        for axis, (low, high) in enumerate(((inner[0], inner[2]), (inner[1], inner[3])))
    ]
    return np.concatenate([chosen, np.stack(spare, -1)])


def tile_name(city: City, index: int) -> str:
    """The id of a tile: unique and without information about the place."""
    return f"t{hash_int(city.seed + 810, index):08x}{index:08x}"


def distractor_tiles(city: City, square: int, first: int, last: int, shape: TileShape) -> Distractors:
    """Tiles first .. last (0 to 2,048) of a square; their index is square * 2,048 + their number in it.

    Convention: north up, east right.
    """
    bounds, numbers = square_bounds(city, square), np.arange(first, last)
    centres = square_centres(city, square)[first:last]
    look = flight_look(city.seed + 820, square)
    image = render_aerial(city, bounds, look=look, window=city.window(bounds))
    index = square * TILES_PER_SQUARE + numbers
    draw = [uniform(city.seed + 830 + k, index) for k in range(7)]
    pictures = [
        _develop(_cut(image, bounds, x, y, shape), [float(part[n]) for part in draw])
        for n, (x, y) in enumerate(centres.tolist())
    ]
    lat, lon = to_latlon(centres[:, 0], centres[:, 1])
    return Distractors([tile_name(city, int(i)) for i in index], lat, lon, pictures)


def _cut(image: NDArray[np.uint8], bounds: Bounds, x: float, y: float, shape: TileShape) -> NDArray[np.uint8]:
    """The tile around a place: whole pixels of 0.4 m, resampled where another size is wanted."""
    side = round(shape.side_m / PIXEL_M)
    left, top = round((x - bounds[0]) / PIXEL_M - side / 2), round((bounds[3] - y) / PIXEL_M - side / 2)
    cut = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == shape.side_px:
        return cut
    kind = Image.Resampling.BOX if side > shape.side_px else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(cut).resize((shape.side_px, shape.side_px), kind))


def _develop(picture: NDArray[np.uint8], draw: list[float]) -> NDArray[np.uint8]:
    """Exposure, tone curve, colours and noise of one tile, from seven draws in [0, 1)."""
    gamma, exposure = 0.85 + 0.3 * draw[0], 0.88 + 0.24 * draw[1]
    tint = np.array([0.95 + 0.1 * draw[2], 0.97 + 0.06 * draw[3], 0.95 + 0.1 * draw[4]])
    return expose(picture, gamma, exposure * tint, 0.8 + 0.4 * draw[5], 2.5 * draw[6], int(draw[6] * 2**17))
