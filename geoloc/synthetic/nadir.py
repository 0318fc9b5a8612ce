"""Nadir drone photos from imagery: real pixels with exact truth, to test the aerial branch.

A photo looks straight down. It is turned, scaled, moved, lit and blurred differently from the imagery and stored
as JPEG, so that it shares no pixel with any tile; its position and heading are known exactly. What lies beneath
may have no texture at all (open sea): such photos cannot be located by anybody, and are marked.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from geoloc.core import storage
from geoloc.core.arrays import FloatArray, Pixels
from geoloc.core.errors import ConfigError, InputError
from geoloc.core.geodesy import LatLon, LocalFrame
from geoloc.sources.jpeg import encode_jpeg
from geoloc.sources.mosaic import render
from geoloc.sources.sheets import Sheet, find_sheets

COLUMNS = ("photo", "lat", "lon", "heading_deg", "fov_deg", "view", "ground_m", "texture", "textureless")
_FEATURELESS_BELOW = (
    6.0  # mean of local standard deviations of grey levels: open sea has 1 to 4, a lawn 8 and more
)
_TRIES_PER_PHOTO = 50


@dataclass(frozen=True)
class NadirLook:
    """Differences between the photos and the imagery. Shares and factors are drawn evenly from the ranges."""

    ground_m: float = 76.8
    side_px: int = 256
    scale: tuple[float, float] = (0.9, 1.1)
    turn: bool = True
    brightness: float = 0.2
    contrast: float = 0.2
    colour_cast: float = 0.06
    blur_px: float = 0.8
    noise: float = 3.0
    jpeg_quality: tuple[int, int] = (60, 90)

    def __post_init__(self) -> None:
        if not (self.ground_m > 0 and 64 <= self.side_px <= 4096 and 0 < self.scale[0] <= self.scale[1]):
            raise ConfigError(
                f"A nadir photo of {self.ground_m:g} m in {self.side_px} px at scales {self.scale} cannot be made; "
                "use positive metres, 64 to 4096 px and scales low to high."
            )


@dataclass(frozen=True)
class NadirView:
    """One photo and its truth.

    Convention: `heading_deg` is the direction, clockwise from north, that the top of the photo points to; the
    photo's centre is at (lat, lon); its sides show `ground_m` metres.
    """

    image: Pixels
    lat: float
    lon: float
    heading_deg: float
    ground_m: float
    texture: float

    @property
    def textureless(self) -> bool:
        """Whether nothing below can be recognised."""
        return self.texture < _FEATURELESS_BELOW


def nadir_views(
    imagery: Sequence[str], count: int, output: str, *, seed: int = 0, look: NadirLook | None = None
) -> list[NadirView]:
    """Write `count` photos to `<output>/photos/` and their truth to `<output>/photos.csv`.

    Places are drawn evenly over the sheets' area; every photo lies wholly within valid imagery. The file is what
    ingest takes as photos; the columns `ground_m`, `texture` and `textureless` are for splitting results. The
    same seed gives the same bytes. Raises `InputError` when the imagery has no room for a photo.
    """
    look = look or NadirLook()
    sheets = find_sheets(imagery)
    # A sheet is chosen by its area and seen alone: a seam between two flights is no place for a photo.
    areas = np.array([_area_m2(sheet) for sheet in sheets])
    views = []
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for index in range(count):
        view, data = _photo(np.random.default_rng([seed, index]), sheets, areas / areas.sum(), look)
        name = f"nadir_{index:05d}.jpg"
        storage.write_bytes(storage.join(output, "photos", name), data)
        writer.writerow(_csv_row(name, view))
        views.append(view)
    storage.write_bytes(storage.join(output, "photos.csv"), table.getvalue().encode())
    return views


def _csv_row(name: str, view: NadirView) -> list[str]:
    return [
        name,
        f"{view.lat:.8f}",
        f"{view.lon:.8f}",
        f"{view.heading_deg:.3f}",
        "60",  # of a common drone camera; nothing is derived from it
        "drone",
        f"{view.ground_m:.2f}",
        f"{view.texture:.2f}",
        str(int(view.textureless)),
    ]


def _area_m2(sheet: Sheet) -> float:
    lat, lon = sheet.outline()
    east, north = LocalFrame(LatLon(float(lat.mean()), float(lon.mean()))).to_metres(lat, lon)
    return float(np.ptp(east) * np.ptp(north))


def _photo(
    rng: np.random.Generator, sheets: Sequence[Sheet], share: FloatArray, look: NadirLook
) -> tuple[NadirView, bytes]:
    for _ in range(_TRIES_PER_PHOTO):
        sheet = sheets[int(rng.choice(len(sheets), p=share))]
        column, row = rng.uniform(0, sheet.width), rng.uniform(0, sheet.height)
        lat, lon = sheet.to_degrees(np.array([column]), np.array([row]))
        heading = float(rng.uniform(0, 360)) if look.turn else 0.0
        ground_m = look.ground_m * float(rng.uniform(*look.scale))
        place = LatLon(float(lat[0]), float(lon[0]))
        if (seen := look_down(place, heading, ground_m, look.side_px, [sheet])) is None:
            continue
        view = NadirView(relit(seen, rng, look), *place, heading, ground_m, texture(seen))
        return view, encode_jpeg(view.image, int(rng.integers(*look.jpeg_quality)), full_colour=False)
    raise InputError(
        f"The imagery has no room for a photo of {look.ground_m:g} m ({_TRIES_PER_PHOTO} places were tried); use "
        "larger sheets or a smaller ground_m.",
        reason="no_room",
    )


def look_down(
    place: LatLon, heading_deg: float, ground_m: float, side_px: int, sheets: Sequence[Sheet]
) -> Pixels | None:
    """The picture of a camera straight above, uint8[side_px, side_px, 3]; None where imagery is missing.

    Convention: the top of the picture points along `heading_deg`, clockwise from north; (lat, lon) is at the
    centre; the picture's right is 90 degrees clockwise of its top.
    """
    metres_per_pixel = ground_m / side_px
    reach = math.ceil(side_px / math.sqrt(2)) + 2
    canvas = render(LocalFrame(place), (-reach, -reach, 2 * reach, 2 * reach), metres_per_pixel, sheets)
    if canvas is None:
        return None
    # A point (x, y) of the photo, from its centre, lies at the north-up point turned clockwise by the heading.
    cos, sin = math.cos(math.radians(heading_deg)), math.sin(math.radians(heading_deg))
    half = side_px / 2
    turn = (cos, -sin, reach - cos * half + sin * half, sin, cos, reach - sin * half - cos * half)
    if canvas.valid is not None:
        valid = Image.fromarray(canvas.valid.astype(np.uint8) * 255)
        if not np.asarray(valid.transform((side_px, side_px), Image.Transform.AFFINE, turn)).all():
            return None
    photo = canvas.image.transform((side_px, side_px), Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC)
    return np.array(photo)


def relit(image: Pixels, rng: np.random.Generator, look: NadirLook) -> Pixels:
    """The same view from another camera in other light, as uint8[H, W, 3]; image uint8[H, W, 3].

    Exposure, contrast, colour cast, blur and noise change as `look` allows.
    """
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(float(rng.uniform(0, look.blur_px))))
    values = np.asarray(blurred, dtype=np.float32)
    contrast = 1 + rng.uniform(-look.contrast, look.contrast)
    cast = 1 + rng.uniform(-look.brightness, look.brightness) + rng.uniform(-1, 1, 3) * look.colour_cast
    middle = values.mean()
    values = ((values - middle) * contrast + middle) * cast.astype(np.float32)
    values = values + rng.normal(0, look.noise, values.shape)
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def texture(image: Pixels) -> float:
    """A measure of detail in image uint8[H, W, 3]: the mean standard deviation of grey levels in squares of 8 x 8.

    The grain of the sensor and of JPEG is averaged away first (by halves), so open water has almost none.
    """
    grey = np.asarray(Image.fromarray(image).convert("L").reduce(2), dtype=np.float32)
    side = 8
    height, width = grey.shape[0] // side * side, grey.shape[1] // side * side
    squares = grey[:height, :width].reshape(height // side, side, width // side, side)
    return float(squares.std(axis=(1, 3)).mean())
