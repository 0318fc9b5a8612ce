"""Pictures of any size to the model's inputs: cropped to its field, turned to north, resized."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from geoloc.core.arrays import Pixels
from geoloc.core.errors import InputError, ModelMismatch
from geoloc.geometry.perspective import WIDEST_LENS_DEG, lift
from geoloc.recipe.model import ModelInputs, PixelRange

if TYPE_CHECKING:  # pictures are prepared where no network runs, too
    import torch

PANORAMA_VIEWS = ("panorama", "street")
AERIAL_VIEWS = ("aerial", "drone")
SMALLEST_EXTENT = 0.9  # of tile_m: below, an aerial picture is refused rather than stretched
_MEAN, _STD = 0.45, 0.25  # one pair for all channels and views: batch norm does the rest


@dataclass(frozen=True)
class Lens:
    """How a lens was held. Convention: pitch below the horizon, roll clockwise; see `geoloc.geometry.perspective`."""

    pitch_deg: float = 0.0
    roll_deg: float = 0.0


def input_size(inputs: ModelInputs, view: str) -> tuple[int, int]:
    """Height and width of the model's input for a view."""
    if view in AERIAL_VIEWS:
        return inputs.tile_px, inputs.tile_px
    if view in PANORAMA_VIEWS:
        return inputs.panorama_px
    raise InputError(f"{view!r} is not a view; known are {', '.join(AERIAL_VIEWS + PANORAMA_VIEWS)}.")


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """uint8[B, H, W, 3] to float[B, 3, H, W] in 0..1 (channels last in memory)."""
    return images.permute(0, 3, 1, 2).float().div_(255)


def normalise(images: torch.Tensor, pixels: PixelRange | None = None) -> torch.Tensor:
    """RGB float[B, 3, H, W] in 0..1 to the network's range and order of channels."""
    if pixels is None:
        return (images - _MEAN) / _STD
    mean, std = (images.new_tensor(values)[:, None, None] for values in (pixels.mean, pixels.std))
    ordered = images.flip(1) if pixels.order == "bgr" else images
    return (ordered - mean) / std


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Antialiased resizing of uint8[H, W, 3]; the same picture when the size fits already."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def prepare_aerial(
    image: Pixels, inputs: ModelInputs, extent_m: float | None, *, margin_m: float = 0.0
) -> Pixels:
    """Cut the middle of an aerial picture [H, W, 3] down to the model's field and resize it to its pixels.

    `extent_m` is the ground covered by the picture's shorter side (None: exactly the model's field), `margin_m`
    keeps that much more ground on every side, for training. Raises `ModelMismatch` when the picture shows less
    than 0.9 of the field. Convention: north up (for a drone picture: its heading up), east right.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    field_m = inputs.tile_m + 2 * margin_m
    extent = field_m if extent_m is None else extent_m
    if not math.isfinite(extent) or extent < SMALLEST_EXTENT * field_m:
        raise ModelMismatch(
            f"The aerial picture covers {extent:g} m, the model needs {field_m:g} m (at least "
            f"{SMALLEST_EXTENT * field_m:g} m); use larger tiles."
        )
    crop = min(side, max(1, round(side * field_m / extent)))
    top, left = (height - crop) // 2, (width - crop) // 2
    target = round(inputs.tile_px * field_m / inputs.tile_m)
    return resize(image[top : top + crop, left : left + crop], target, target)


def prepare_panorama(
    image: Pixels,
    inputs: ModelInputs,
    *,
    fov_deg: float = 360.0,
    heading_deg: float | None = None,
    lens: Lens | None = None,
) -> Pixels:
    """Bring a panorama or a street photo [H, W, 3] onto the model's canvas, north in the middle of a known heading.

    A full sphere (360 degrees, twice as wide as high) is cut to the recipe's elevations; any other picture is
    taken to span them already. A photo of less than 360 degrees fills its share of the columns, the rest stays
    black, unless street photos fill the whole picture (`street: whole`): those have no azimuth. With `street: lifted`
    a photo of a `lens` (see `lens_of`) lies where a level panorama shows it.
    Convention: azimuth grows to the right, the middle column looks along `heading_deg`; None leaves the picture
    as it is.
    """
    if not 1.0 <= fov_deg <= 360.0:
        raise InputError(f"fov_deg is {fov_deg:g}; give 1 to 360 degrees.", reason="fov_out_of_range")
    height, width = inputs.panorama_px
    if fov_deg < 360.0 and inputs.street == "whole":
        return resize(image, height, width)
    if lens is not None and inputs.street == "lifted" and fov_deg <= WIDEST_LENS_DEG:
        canvas = lift(
            image,
            height,
            width,
            inputs.elevation_deg,
            fov_deg=fov_deg,
            pitch_deg=lens.pitch_deg,
            roll_deg=lens.roll_deg,
        )
    elif fov_deg == 360.0:
        canvas = resize(_cut_sphere(image, inputs.elevation_deg), height, width)
    else:
        columns = max(1, round(width * fov_deg / 360))
        canvas = np.zeros((height, width, 3), dtype=np.uint8)
        left = (width - columns) // 2
        canvas[:, left : left + columns] = resize(image, height, columns)
    if heading_deg is None:
        return canvas
    if not math.isfinite(heading_deg):
        raise InputError(
            f"heading_deg is {heading_deg}; give degrees clockwise from north.", reason="bad_heading"
        )
    # North lies heading / 360 of the width to the left of the middle.
    return np.roll(canvas, round(heading_deg / 360 * width), axis=1)


def prepare_picture(
    image: Pixels,
    inputs: ModelInputs,
    view: str,
    *,
    extent_m: float | None = None,
    fov_deg: float | None = 360.0,
    heading_deg: float | None = None,
    pitch_deg: float | None = None,
    roll_deg: float | None = None,
) -> Pixels:
    """A picture uint8[H, W, 3] of any view to the model's input uint8[h, w, 3]; see `Encoder.prepare`."""
    if view in AERIAL_VIEWS:
        return prepare_aerial(image, inputs, extent_m)
    fov_deg = 360.0 if fov_deg is None else fov_deg
    lens = lens_of(view, pitch_deg, roll_deg)
    return prepare_panorama(image, inputs, fov_deg=fov_deg, heading_deg=heading_deg, lens=lens)


def lens_of(view: str, pitch_deg: float | None = None, roll_deg: float | None = None) -> Lens | None:
    """How the lens of a street photo was held, level where nothing is known; None for other views."""
    return Lens(pitch_deg or 0.0, roll_deg or 0.0) if view == "street" else None


def _cut_sphere(image: Pixels, elevation_deg: tuple[float, float]) -> Pixels:
    height, width = image.shape[:2]
    if abs(width / height - 2) > 0.04:
        return image
    low, high = elevation_deg
    top, bottom = round((90 - high) / 180 * height), round((90 - low) / 180 * height)
    return image[top : max(bottom, top + 1)]
