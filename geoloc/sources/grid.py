"""Where tiles lie: a lattice of square blocks over the whole Earth, each with its own local metric frame.

A tile has to be north up and square in metres wherever it is. A block of neighbouring tiles has to be cut from one
warped picture. So each block has one azimuthal-equidistant frame at its own centre. Within a block of side S at
latitude phi, north in a tile's image is off by at most S / 2 * tan(phi) / 6371 km: for 2 km and 60 degrees 0.016
degrees, a hundredth of a pixel at the edge of a 256-pixel tile.

Convention: rows of blocks (bands) count to the north from the south pole along the meridian, columns to the
east from 180 W; a block's frame has east_m to the right and north_m up, and its pixel grid has its origin in
the frame's origin, x to the east, y to the south. Nothing depends on the sheets: a place keeps its tile id.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import ConfigError
from geoloc.core.geodesy import LatLon, LocalFrame, destination, distance_m

_WINDOW_PX = (
    2048  # side of the picture that a block is warped into: 16 MB, and the overlap of blocks stays small
)
_WINDOW_M = 2000.0
_MOST_PER_SIDE = 32
_A_M, _E2 = 6378137.0, 0.0066943799901413165  # WGS84: equatorial radius, first eccentricity squared


@dataclass(frozen=True)
class TileSpec:
    """Size of tiles on the ground and in pixels, and the step between them."""

    tile_m: float
    tile_px: int
    stride_m: float

    def __post_init__(self) -> None:
        if not (self.tile_m > 0 and self.stride_m > 0 and math.isfinite(self.tile_m + self.stride_m)):
            raise ConfigError(f"tile_m {self.tile_m} and stride_m {self.stride_m} must be positive metres.")
        if not 32 <= self.tile_px <= 4096:
            raise ConfigError(f"tile_px is {self.tile_px}; a tile has 32 to 4096 pixels a side.")
        if self.stride_m < self.tile_m / 64 or self.stride_m > 1000 * self.tile_m:
            raise ConfigError(
                f"stride_m is {self.stride_m} for tiles of {self.tile_m} m; use between 1/64 of a tile and 1000 tiles."
            )

    @property
    def metres_per_pixel(self) -> float:
        """Ground size of a pixel."""
        return self.tile_m / self.tile_px

    @property
    def per_side(self) -> int:
        """Tiles along the side of a block."""
        stride_px = self.stride_m / self.metres_per_pixel
        fitting = min(_WINDOW_PX - self.tile_px, _WINDOW_M / self.metres_per_pixel - self.tile_px) / stride_px
        return int(min(_MOST_PER_SIDE, max(0.0, math.floor(fitting)) + 1))

    @property
    def block_m(self) -> float:
        """Side of the ground that a block's tiles answer for."""
        return self.per_side * self.stride_m


@dataclass(frozen=True)
class TilePlace:
    """A tile in its block's pixel grid: the pixel of its upper left corner (x to the east, y to the south)."""

    tile_id: str
    left_px: int
    top_px: int


@dataclass(frozen=True)
class Block:
    """Tiles that are cut from one warped picture, and the sheets (numbers) that may show their ground."""

    lat: float
    lon: float
    tiles: tuple[TilePlace, ...]
    sheets: tuple[int, ...] = ()

    @classmethod
    def revived(cls, lat: float, lon: float, tiles: Iterable[Sequence[Any]], sheets: Iterable[int]) -> Block:
        """A block of the values of its fields as JSON keeps them: a tile is (id, left_px, top_px)."""
        return cls(lat, lon, tuple(TilePlace(*tile) for tile in tiles), tuple(sheets))

    @property
    def frame(self) -> LocalFrame:
        """The block's local metric frame."""
        return LocalFrame(LatLon(self.lat, self.lon))

    def window(self, tile_px: int) -> tuple[int, int, int, int]:
        """(left, top, width, height) of the smallest pixel window that holds all tiles."""
        left = min(tile.left_px for tile in self.tiles)
        top = min(tile.top_px for tile in self.tiles)
        right = max(tile.left_px for tile in self.tiles) + tile_px
        bottom = max(tile.top_px for tile in self.tiles) + tile_px
        return left, top, right - left, bottom - top

    def centres(self, spec: TileSpec) -> tuple[FloatArray, FloatArray]:
        """(lat[N], lon[N]) of the tiles' centres, WGS84 degrees."""
        half = spec.tile_px / 2
        east = np.array([tile.left_px + half for tile in self.tiles]) * spec.metres_per_pixel
        north = -np.array([tile.top_px + half for tile in self.tiles]) * spec.metres_per_pixel
        return self.frame.to_degrees(east, north)


def band_of(lat: float, block_m: float) -> int:
    """The band of blocks that a latitude lies in."""
    return max(0, min(_bands(block_m) - 1, int(_from_south_pole_m(lat) / block_m)))


@lru_cache(maxsize=65536)
def band_lat(band: int, block_m: float) -> float:
    """Latitude of the middle line of a band."""
    metres = (band + 0.5) * block_m - _from_south_pole_m(0.0)
    return destination(0.0, 0.0, 0.0 if metres >= 0 else 180.0, abs(metres)).lat


@lru_cache(maxsize=65536)
def columns_of(band: int, block_m: float) -> int:
    """Blocks around the Earth in a band, evenly spread: the fewest that leave no gap on its middle line."""
    phi = math.radians(band_lat(band, block_m))
    parallel_m = 2 * math.pi * _A_M * math.cos(phi) / math.sqrt(1 - _E2 * math.sin(phi) ** 2)
    return max(1, math.ceil(parallel_m / block_m))


def column_of(lon: float, band: int, block_m: float) -> int:
    """The column that a longitude lies in."""
    count = columns_of(band, block_m)
    return int((lon + 180.0) / 360.0 * count) % count


def block_centre(band: int, column: int, block_m: float) -> LatLon:
    """The centre of a block."""
    return LatLon(band_lat(band, block_m), (column + 0.5) / columns_of(band, block_m) * 360.0 - 180.0)


def grid_block(band: int, column: int, spec: TileSpec) -> Block:
    """A block with its regular grid of tiles, ids `<x>_<y>` counted from 180 W and the south pole."""
    centre = block_centre(band, column, spec.block_m)
    side, stride_px = spec.per_side, spec.stride_m / spec.metres_per_pixel
    first = -((side - 1) * stride_px + spec.tile_px) / 2
    offsets = [round(first + k * stride_px) for k in range(side)]
    tiles = tuple(
        TilePlace(f"{column * side + x}_{band * side + (side - 1 - y)}", offsets[x], offsets[y])
        for y in range(side)
        for x in range(side)
    )
    return Block(centre.lat, centre.lon, tiles)


def blocks_touching(
    lat: FloatArray, lon: FloatArray, block_m: float, margin_m: float
) -> Iterator[tuple[int, int]]:
    """(band, column) of the blocks that come within `margin_m` of the box around an outline float64[P].

    `lat[N]`, `lon[N]` are WGS84 degrees in the order of a walk along the outline, with steps of less than 180
    degrees: so outlines across 180 degrees, and of more than half of the Earth, are followed rightly.
    """
    middle = float(lon[0])
    around = np.unwrap(lon, period=360.0) - middle
    margin_deg = margin_m / 110_000.0
    south, north = max(-90.0, float(lat.min()) - margin_deg), min(90.0, float(lat.max()) + margin_deg)
    for band in range(band_of(south, block_m), band_of(north, block_m) + 1):
        count = columns_of(band, block_m)
        east_margin = margin_deg / max(math.cos(math.radians(min(89.9, max(abs(south), abs(north))))), 1e-3)
        first = math.floor((middle + float(around.min()) - east_margin + 180.0) / 360.0 * count)
        last = math.floor((middle + float(around.max()) + east_margin + 180.0) / 360.0 * count)
        for column in range(first, min(last, first + count - 1) + 1):
            yield band, column % count


@lru_cache(maxsize=65536)
def _from_south_pole_m(lat: float) -> float:
    return float(distance_m(-90.0, 0.0, lat, 0.0))


def _bands(block_m: float) -> int:
    return max(1, math.ceil(_from_south_pole_m(90.0) / block_m))
