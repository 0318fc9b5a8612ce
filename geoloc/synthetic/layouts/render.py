"""Pictures of an export as files: rendered block by block, so that neighbours share one window of the city."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from geoloc.synthetic.layouts.labels import ground_labels
from geoloc.synthetic.layouts.view_images import (
    AERIAL,
    DRONE,
    LABELS,
    MAP,
    PANORAMA,
    STREET,
    CitySource,
    Picture,
    Writer,
)
from geoloc.synthetic.world.aerial import SHADOW_RANGE_M, render_aerial
from geoloc.synthetic.world.camera import Camera, jpeg, jpeg_quality
from geoloc.synthetic.world.drone import DronePose, drone_bounds, render_drone
from geoloc.synthetic.world.maptile import render_map
from geoloc.synthetic.world.network import Bounds
from geoloc.synthetic.world.panorama import render_panorama
from geoloc.synthetic.world.raster import City, Window
from geoloc.synthetic.world.street import StreetCamera, render_street
from geoloc.synthetic.world.style import PIXEL_M, VIEW_RANGE_M
from geoloc.synthetic.world.view_conditions import Look, flight_look, photo_look
from geoloc.synthetic.world.weather import drone_look, photo_jpeg, street_look

BLOCK_M = 256.0
_FLIGHT_M = 1024.0
_LEG_M = 4096.0
_AERIAL_QUALITY = 90
_FINE_PX = 512
"""Panoramas with more rows than this are drawn without supersampling."""

BlockKey = tuple[int, int, int, int]
"""City, epoch, and the block's column and row."""


def block_of(picture: Picture) -> BlockKey:
    """The block in which a picture's camera or centre lies, or what a drone looks at."""
    x, y = picture.target or (picture.x, picture.y)
    return picture.city, picture.epoch, math.floor(x / BLOCK_M), math.floor(y / BLOCK_M)


def blocks(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """Pictures by block, blocks of a city in rows that run back and forth so that neighbours follow each other."""
    groups: dict[BlockKey, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(block_of(picture), []).append(picture)

    def place(key: BlockKey) -> BlockKey:
        city, epoch, column, row = key
        return city, epoch, row, -column if row % 2 else column

    return [groups[key] for key in sorted(groups, key=place)]


def make_city(source: CitySource, epoch: int = 0, *, chunks: int = 48) -> City:
    """The city of an export at an epoch."""
    return City(source.seed, source.style, epoch, chunks=chunks)


def write_block(city: City, pictures: Sequence[Picture], write: Writer) -> int:
    """Render the pictures of one block, write them, and return their number.

    Pictures that some layouts hold twice, under other names, are rendered once.
    """
    scene = _BlockScene(city, pictures)
    made: dict[Picture, bytes] = {}
    for picture in pictures:
        same = replace(picture, path=PurePosixPath(picture.path).suffix, split="", place="")
        if same not in made:
            made[same] = scene.encoded(picture)
        write(picture.path, made[same])
    return len(pictures)


@dataclass(frozen=True)
class _BlockScene:
    """One block for its pictures: the window that they all see, and its imagery."""

    city: City
    pictures: Sequence[Picture]

    @cached_property
    def corner(self) -> tuple[float, float]:
        _, _, column, row = block_of(self.pictures[0])
        return column * BLOCK_M, row * BLOCK_M

    @cached_property
    def window(self) -> Window:
        """Everything that the block's pictures see, and what casts shadows into them."""
        areas = np.array([_area(picture) for picture in self.pictures])
        if any(picture.view == AERIAL for picture in self.pictures):
            margin = self.imagery_margin_m + SHADOW_RANGE_M
            areas = np.vstack([areas, _block_bounds(self.corner, margin)])
        west, south = areas[:, :2].min(0)
        east, north = areas[:, 2:].max(0)
        return self.city.window((float(west), float(south), float(east), float(north)))

    @cached_property
    def imagery_margin_m(self) -> float:
        half = max(p.side_m for p in self.pictures if p.view == AERIAL) / 2
        return math.ceil(half / PIXEL_M + 2) * PIXEL_M

    @cached_property
    def imagery(self) -> tuple[NDArray[np.uint8], Bounds]:
        """The flight's picture of all tiles of the block, at the city's own resolution, and its bounds."""
        bounds = _block_bounds(self.corner, self.imagery_margin_m)
        look = flight_look(self.city.seed, int(self.corner[1] // _FLIGHT_M), int(self.corner[0] // _LEG_M))
        return render_aerial(self.city, bounds, PIXEL_M, look, window=self.window), bounds

    def encoded(self, picture: Picture) -> bytes:
        """The bytes of a picture's file, in the format of its ending."""
        image = _RENDERERS[picture.view](self, picture)
        if PurePosixPath(picture.path).suffix == ".png":
            return _png(image)
        if picture.view == AERIAL:
            return jpeg(image, _AERIAL_QUALITY)
        if picture.view == PANORAMA:
            return jpeg(image, jpeg_quality(photo_look(self.city.seed, *picture.key).seed))
        return photo_jpeg(image, self.look(picture))

    def look(self, picture: Picture) -> Look:
        """The look of a street or drone photo."""
        return (drone_look if picture.view == DRONE else street_look)(self.city.seed, *picture.key)


def _block_bounds(corner: tuple[float, float], margin_m: float) -> Bounds:
    x, y = corner
    return x - margin_m, y - margin_m, x + BLOCK_M + margin_m, y + BLOCK_M + margin_m


def _area(picture: Picture) -> Bounds:
    """The area that a picture needs. The imagery of tiles is rendered by the block."""
    if picture.view == DRONE:
        return drone_bounds(_pose(picture), picture.fov_deg)
    reach = picture.side_m / 2 if picture.view in (AERIAL, MAP) else VIEW_RANGE_M
    reach += 4 * PIXEL_M
    return picture.x - reach, picture.y - reach, picture.x + reach, picture.y + reach


def _pose(picture: Picture) -> DronePose:
    return DronePose(picture.x, picture.y, picture.altitude_m, picture.heading_deg, picture.pitch_deg)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _aerial(scene: _BlockScene, picture: Picture) -> NDArray[np.uint8]:
    """A tile cut from the block's imagery, north up: its exact outline, down to fractions of a pixel."""
    image, (west, _, _, north) = scene.imagery
    left, top = (
        (picture.x - picture.side_m / 2 - west) / PIXEL_M,
        (north - picture.y - picture.side_m / 2) / PIXEL_M,
    )
    side = picture.side_m / PIXEL_M
    smaller = side > picture.width_px
    kind = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    cut = Image.fromarray(image).resize(
        (picture.width_px, picture.height_px), kind, box=(left, top, left + side, top + side)
    )
    return np.asarray(cut)


def _panorama(scene: _BlockScene, picture: Picture) -> NDArray[np.uint8]:
    camera = Camera(
        picture.height_px, picture.width_px, picture.top_deg, picture.bottom_deg, picture.altitude_m,
        1 if picture.height_px > _FINE_PX else 2,
    )  # fmt: skip
    look = photo_look(scene.city.seed, *picture.key)
    return render_panorama(
        scene.city, (picture.x, picture.y), look, camera, heading_deg=picture.heading_deg, window=scene.window
    )


def _labels(scene: _BlockScene, picture: Picture) -> NDArray[np.uint8]:
    look = photo_look(scene.city.seed, *picture.key)
    return ground_labels(scene.window, picture, look)


def _street(scene: _BlockScene, picture: Picture) -> NDArray[np.uint8]:
    camera = StreetCamera(
        picture.width_px, picture.height_px, picture.fov_deg, picture.pitch_deg, 0.0, picture.altitude_m
    )
    return render_street(
        scene.city, (picture.x, picture.y), scene.look(picture), camera, heading_deg=picture.heading_deg,
        window=scene.window,
    )  # fmt: skip


def _drone(scene: _BlockScene, picture: Picture) -> NDArray[np.uint8]:
    return render_drone(
        scene.city, _pose(picture), scene.look(picture), size_px=picture.width_px, fov_deg=picture.fov_deg,
        window=scene.window,
    )  # fmt: skip


def _map(scene: _BlockScene, picture: Picture) -> NDArray[np.uint8]:
    drawn = render_map(scene.city, picture.x, picture.y, side_m=picture.side_m, size_px=picture.width_px)
    opaque = np.full((*drawn.shape[:2], 1), 255, np.uint8)
    return np.concatenate([drawn, opaque], -1)  # published map tiles are RGBA


_RENDERERS: dict[str, Callable[[_BlockScene, Picture], NDArray[np.uint8]]] = {
    AERIAL: _aerial, PANORAMA: _panorama, LABELS: _labels, STREET: _street, DRONE: _drone, MAP: _map,
}  # fmt: skip
